"""Each test has accelerate to itself: its state is one for the whole process."""

import pytest
from accelerate.state import AcceleratorState


@pytest.fixture(autouse=True)
def _accelerate():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
