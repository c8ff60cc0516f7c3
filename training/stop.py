"""Ctrl-C and SIGTERM ask a run to stop; it does so between two steps, with its state saved."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


class Stopped(Exception):
    """The run was asked to stop and has saved its state; `exit_code` is the shell's 128 + signal number."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


@dataclass
class StopRequest:
    """`signal_number` is 0 until somebody asks."""

    signal_number: int = 0


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Collect SIGINT and SIGTERM into a StopRequest; a second Ctrl-C interrupts at once."""
    request = StopRequest()

    def note(number: int, _frame: object) -> None:
        if request.signal_number == signal.SIGINT == number:
            raise KeyboardInterrupt
        request.signal_number = number

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
