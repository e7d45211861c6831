"""What differs between two nested settings."""

from collections.abc import Mapping
from typing import Any

ABSENT = "(absent)"


def differences(
    before: Mapping[str, Any], after: Mapping[str, Any], *, one_sided: bool = True
) -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ, each with both values; dictionaries may be nested.

    Args:
        one_sided: whether a key that only one of them has differs too; the missing value then
            reads `ABSENT`.
    """
    changed: dict[str, tuple[Any, Any]] = {}
    for key in {**before, **after} if one_sided else [key for key in before if key in after]:
        old, new = before.get(key, ABSENT), after.get(key, ABSENT)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            inside = differences(old, new, one_sided=one_sided)
            changed |= {f"{key}.{name}": pair for name, pair in inside.items()}
        elif old != new:
            changed[key] = (old, new)
    return changed
