"""One case: what is done, how it has to end, and what it may not do."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

from campaign.world import Place, tree
from command_line.commands import Done

LONGEST_MESSAGE = 3000
"""Characters of an error; more would hide what it says."""
_BOLD = re.compile(r"\x1b\[[01]m")
"""In transformers' own report on weights that do not fit."""
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x9b]")


@dataclass(frozen=True)
class Case:
    """One case of a kind.

    Attributes:
        kind: the kind, as the table names it.
        what: what is done, in words.
        check: does it in a place, and fails if it does not end as it has to.
        sample: whether ``make test`` runs it too.
    """

    kind: str
    what: str
    check: Callable[[Place], None]
    sample: bool = False


def refusal(
    kind: str,
    what: str,
    prepare: Callable[[Place], Sequence[object]],
    *expected: str,
    sample: bool = False,
    leaves: Sequence[str] = (),
) -> Case:
    """A case that has to end with exit code 2 and one sentence.

    Args:
        prepare: makes the inputs and returns the command's words.
        expected: parts of the error message, each of them or alternatives joined by ``|``.
        leaves: patterns of the only files that may be new or other afterwards.
    """

    def check(place: Place) -> None:
        words = prepare(place)
        before = tree(place.folder)
        done = place.laid(*words)
        assert done.code == 2, str(done)
        assert_clean(place, done)
        error = error_of(done)
        for part in expected:
            assert any(one in error for one in part.split("|")), f"{part!r} not in: {error}"
        changed = changes(before, tree(place.folder))
        left = [name for name in changed if not any(fnmatch(name, known) for known in leaves)]
        assert not left, f"left behind: {left}"

    return Case(kind, what, check, sample)


def error_of(done: Done) -> str:
    """The sentence that a command ended with."""
    assert "laid: error: " in done.err, str(done)
    error = done.err[done.err.rindex("laid: error: ") :]
    assert len(error) <= LONGEST_MESSAGE, f"{len(error)} characters: {error[:300]} …"
    return error


def assert_clean(place: Place, done: Done) -> None:
    """No traceback, no code that ran, no control characters on the terminal."""
    text = _BOLD.sub("", done.out + done.err)
    assert "Traceback" not in text, str(done)
    assert not place.marker.exists(), f"code was run: {done}"
    assert not _CONTROL.search(text), str(done)


def changes(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Names that are new, gone or of other content; an empty ``runs/`` does not count."""
    names = before.keys() | after.keys()
    return sorted(n for n in names if n != "runs/" and before.get(n) != after.get(n))


def no_litter(place: Place) -> list[str]:
    """Temporary files and folders that are left."""
    return [n for n in tree(place.folder) if re.search(r"(^|/)\.[^/]*(tmp|old|claim)", n)]
