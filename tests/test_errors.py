"""What an error says to a user."""

import pytest

from errors import reason_of


@pytest.mark.parametrize(
    ("error", "reason"),
    [(ValueError("two\n  lines"), "two lines"), (EOFError(), "EOFError"), (OSError(2, "gone"), "[Errno 2] gone")],
)
def test_a_reason_is_one_line_and_never_empty(error: Exception, reason: str) -> None:
    assert reason_of(error) == reason
