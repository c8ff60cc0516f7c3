"""The errors a user is meant to see, and the commonest check of what a user gave."""


class UserError(Exception):
    """Something the user can mend: shown as one line, exit code 2, without a traceback."""


class BusyError(UserError):
    """Another process trains in the run folder."""


class DamagedError(UserError):
    """A file was read and holds something else than it should."""


class DivergedError(UserError):
    """Training has left the finite numbers."""


class AbsentError(UserError, AttributeError):
    """A model was asked for what it has not got. Also an AttributeError, so that `hasattr` answers False."""


class UnavailableError(UserError):
    """A metric cannot be measured with the files at hand: left out with a line that says so, the others go on."""


def reason_of(error: BaseException) -> str:
    """What an error says, in one line; its kind where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def flag_of(name: str) -> str:
    """A setting as it is written on the command line."""
    return f"--{name.replace('_', '-')}"


def check_at_least(least: int, **settings: int | None) -> None:
    """UserError for a setting that is smaller; None, the default of some, is not."""
    for name, value in settings.items():
        if value is not None and value < least:
            raise UserError(f"{flag_of(name)} must be at least {least}, got {value}")


def check_seed(seed: int) -> None:
    """UserError for a seed that is negative or, for PyTorch's sake, too large."""
    if not 0 <= seed < 2**32:
        raise UserError(f"--seed must be at least 0 and below 2**32, got {seed}")
