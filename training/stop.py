"""Ctrl-C, SIGTERM and a time limit ask a run to stop; it does so between two batches, with its state saved."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


class Stopped(Exception):
    """The run was asked to stop and has saved its state.

    `exit_code` is the shell's 128 + signal number, or 0 where the time limit asked.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number if signal_number else 0


@dataclass
class StopRequest:
    """`signal_number` is 0 until a signal asks; `deadline` is a time.monotonic() that asks when it is over."""

    deadline: float = float("inf")
    signal_number: int = 0

    def __bool__(self) -> bool:
        return bool(self.signal_number) or time.monotonic() > self.deadline

    def note(self, number: int, _frame: object) -> None:
        """Take a signal, as its handler."""
        if self.signal_number == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.signal_number = number


@contextmanager
def stop_request(deadline: float = float("inf")) -> Iterator[StopRequest]:
    """Collect SIGINT and SIGTERM into a StopRequest; a second Ctrl-C interrupts at once.

    Python hands signals to the main thread: in another one the deadline alone can ask.
    """
    request = StopRequest(deadline)
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    previous = {number: signal.signal(number, request.note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: not set from Python, which cannot set it again
