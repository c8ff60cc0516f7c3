"""The one exception a user is meant to see."""


class UserError(Exception):
    """Something the user can mend: shown as one line, exit code 2, without a traceback."""
