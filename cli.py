"""What the programs share: turning arguments into a configuration, and errors into one line and an exit code."""

import sys
from collections.abc import Callable, Sequence


def run_program(main: Callable[[list[str]], None], argv: Sequence[str] | None = None) -> int:
    """Run `main(arguments)`; `--debug` among the arguments lets tracebacks through.

    Returns:
        the exit code: 0; 2 after a UserError, told in one line on standard error; 128 + signal number after
        a run that was asked to stop.
    """
    from errors import UserError
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
    return 0
