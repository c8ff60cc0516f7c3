"""Signals ask, and are given back."""

import os
import signal
import threading
import time
from collections.abc import Callable

import pytest

from training.evaluation import ReconstructionTest
from training.stop import Stopped, StopRequest, stop_request

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_and_does_not_interrupt(number: int) -> None:
    with stop_request() as request:
        assert not request
        os.kill(os.getpid(), number)
        assert request and request.signal_number == number


def test_a_second_ctrl_c_interrupts_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), stop_request():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_a_second_sigterm_changes_nothing() -> None:
    with stop_request() as request:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        assert request.signal_number == signal.SIGTERM


def test_handlers_are_given_back_whatever_happens() -> None:
    before = handlers()
    with stop_request():
        assert handlers() != before
    with pytest.raises(ValueError), stop_request():
        raise ValueError
    assert handlers() == before


def test_a_handler_that_python_did_not_set_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """signal.signal returns None for one: stood in for here, since only C code can set such a handler."""
    before, install = handlers(), signal.signal
    with monkeypatch.context() as patch:
        patch.setattr(signal, "signal", lambda number, handler: install(number, handler) and None)
        with stop_request():
            pass
    assert handlers() == [signal.SIG_DFL, signal.SIG_DFL]
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)


def test_a_deadline_asks_when_it_is_over() -> None:
    assert not StopRequest(time.monotonic() + 60)
    assert StopRequest(time.monotonic() - 1)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (0, 0)])
def test_exit_codes(number: int, code: int) -> None:
    assert Stopped("", number).exit_code == code


@pytest.mark.parametrize("end", ["finished", "stopped", "failed"])
def test_fit_gives_the_handlers_back(
    train: Callable, after_step: Callable, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    before, during = handlers(), []
    after_step(1, lambda: during.append(handlers()))
    if end == "stopped":
        after_step(1, lambda: (during.append(handlers()), os.kill(os.getpid(), signal.SIGTERM)))
    if end == "failed":
        monkeypatch.setattr(ReconstructionTest, "__call__", lambda *_, **__: float("nan"))
    assert train("--epochs", "1") == {"finished": 0, "stopped": 143, "failed": 2}[end]
    assert handlers() == before and during[0] != before


def test_outside_the_main_thread_the_deadline_alone_asks() -> None:
    found = []

    def wait() -> None:
        with stop_request(deadline=-1.0) as request:
            found.append((bool(request), request.signal_number))

    before = handlers()
    thread = threading.Thread(target=wait)
    thread.start()
    thread.join()
    assert found == [(True, 0)] and handlers() == before
