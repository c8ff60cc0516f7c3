"""What the programs share: turning arguments into a configuration, and errors into one line and an exit code."""

import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from itertools import dropwhile, takewhile
from typing import Any, TypeVar

import tyro

from errors import UserError

Arguments = TypeVar("Arguments")


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
    """Run `main(arguments)`; `--debug` among the arguments lets tracebacks through.

    Returns:
        the exit code: 0; 2 after a UserError, told in one line on standard error; 128 + signal number after
        a run that was asked to stop, or where nobody reads the output any more.
    """
    from training.stop import Stopped

    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        main(arguments)
    except UserError as error:
        if debug:
            raise
        print("error:", " ".join(str(error).splitlines()), file=sys.stderr)
        return 2
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return stopped.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever reads the output, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return 0
