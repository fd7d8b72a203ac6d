import signal
import threading

import pytest

from mmada.train import interrupt
from mmada.train.interrupt import signals_noted


@pytest.fixture(autouse=True)
def usual_signals():
    """As in a terminal: a shell that starts tests in the background makes SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_signals_in_a_row_are_one_wish():
    with signals_noted() as is_stopped:
        assert not is_stopped()
        for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            signal.raise_signal(kind)
            assert is_stopped()


def test_a_later_signal_acts_as_usual(monkeypatch):
    monkeypatch.setattr(interrupt, "_SAME", 0.0)
    with signals_noted() as is_stopped:
        signal.raise_signal(signal.SIGINT)
        assert is_stopped()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM)
    with signals_noted():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_other_threads_are_never_told():
    seen = []

    def ask():
        with signals_noted() as is_stopped:
            seen.append(is_stopped())

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert seen == [False]
