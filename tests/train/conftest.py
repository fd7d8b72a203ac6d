"""Each test has accelerate to itself: its state is one for the whole process."""

import pytest
from accelerate.state import AcceleratorState, PartialState

from ..golden.conftest import golden

__all__ = ["golden"]


@pytest.fixture(autouse=True)
def _accelerate():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    assert not PartialState._shared_state
