"""What a user can fix."""

_FROM_ANOTHER_RANK = "laid_from_another_rank"


class UserError(ValueError):
    """Something that the user gave does not fit; the command line shows its message alone.

    The message says what was given, what was found, what was expected and how to fix it. It is a
    ``ValueError``, so that argument parsing and callers in Python treat it as one. Whatever else is
    raised is a bug, or the system's own ``OSError``, and keeps its traceback.
    """


def from_another_rank(error: Exception) -> Exception:
    """Marks an error that another rank raised first: it is said there."""
    setattr(error, _FROM_ANOTHER_RANK, True)
    return error


def is_from_another_rank(error: Exception) -> bool:
    """Whether ``from_another_rank`` marked it."""
    return hasattr(error, _FROM_ANOTHER_RANK)


def first_line(reason: BaseException, most: int | None = 160) -> str:
    """What an error says, in one line of at most so many characters; None: of any length."""
    return (str(reason).strip().splitlines() or [type(reason).__name__])[0][:most]
