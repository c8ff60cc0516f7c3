"""The errors a user is meant to see."""


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
