"""What the programs share: turning arguments into a configuration, and errors into one line and an exit code."""

import errno
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from itertools import dropwhile, takewhile
from typing import Any, TypeVar

import tyro

from errors import UserError
from training.device import keep_freed_memory
from training.stop import Stopped

Arguments = TypeVar("Arguments")


class Terminated(KeyboardInterrupt):
    """SIGTERM, where no run takes it."""


def parse_arguments(kind: type[Arguments], argv: Sequence[str], description: str | None, **options: Any) -> Arguments:
    """The arguments as a dataclass of that kind; --help prints and exits.

    Raises:
        UserError: an unknown flag or a value of the wrong type, in one line instead of tyro's box.
    """
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return tyro.cli(kind, args=argv, description=description, **options)
    except SystemExit as end:
        if not end.code:
            raise
        raise UserError(f"{_in_one_line(said.getvalue())}; --help shows every flag") from None


def _in_one_line(box: str) -> str:
    """What tyro says inside its box, from the rule with the title to the next one; drawn in Unicode or ASCII."""
    lines = [line.strip("│| ") for line in box.splitlines()]
    _, *inside = dropwhile(lambda line: not _is_rule(line), [*lines, "---"])
    return " ".join(takewhile(lambda line: not _is_rule(line), inside)) or " ".join(box.split())


def _is_rule(line: str) -> bool:
    return "───" in line or "---" in line


def run_program(main: Callable[[list[str]], None], argv: Sequence[str] | None = None) -> int:
    """Run `main(arguments)`, in memory that is kept; `--debug` among the arguments lets tracebacks through.

    Returns:
        the exit code: 0; 2 after a UserError, a shortage or a refused access, told in one line on standard error; 128 +
        signal number after a run that was asked to stop, after Ctrl-C or SIGTERM, or where nobody reads the output any
        more.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a path may have a name that the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    arguments = [argument for argument in arguments if argument != "--debug"]
    keep_freed_memory()
    try:
        with _sigterm_raises():
            _call(main, arguments)
    except UserError as error:
        if debug:
            raise
        print("error:", " ".join(str(error).splitlines()), file=sys.stderr)
        return 2
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return stopped.exit_code
    except Terminated:
        return 128 + signal.SIGTERM
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # whoever reads the output, `head` for one, has seen enough
        _drop_output()
        return 128 + signal.SIGPIPE
    except (OSError, MemoryError, RuntimeError) as error:
        shortage = _shortage(error)
        if debug or not shortage:
            raise
        print("error:", shortage, file=sys.stderr)
        return 2
    return 0


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Let SIGTERM unwind the program as Ctrl-C does: its child processes and temporary folders end with it."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def terminate(_number: int, _frame: object) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _call(main: Callable[[list[str]], None], arguments: list[str]) -> None:
    """Call, and find out now whether its output can be written: at its exit Python would only complain of it."""
    try:
        main(arguments)
    except SystemExit:  # --help
        sys.stdout.flush()
        raise
    sys.stdout.flush()


def split_flags(argv: list[str]) -> tuple[list[str], list[str]]:
    """A program's own flags, and those after `--`, which it hands on to another."""
    place = argv.index("--") if "--" in argv else len(argv)
    return argv[:place], argv[place + 1 :]


def _shortage(error: Exception) -> str | None:
    """What is too small for the program, too long for the system or closed to the user, where an error says that."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        _drop_output()  # it may be what is on the full disk
        return f"{error.strerror} ({error.filename or 'output'}); make room and give the same command again"
    if isinstance(error, OSError) and error.filename and error.errno in (errno.ENAMETOOLONG, errno.EACCES, errno.EPERM):
        return f"{error.strerror}: {error.filename}"
    if isinstance(error, MemoryError) or "out of memory" in str(error) or "can't allocate memory" in str(error):
        return "out of memory; smaller batches, fewer time steps and fewer images at once take less"
    return None


def _drop_output() -> None:
    """Let what cannot be printed any more vanish: Python would complain of it at its exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
