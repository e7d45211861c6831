"""JSON that others wrote: reading files, and showing values in messages."""

import codecs
import json
import logging
from pathlib import Path
from typing import Any

from laid.common.errors import UserError

log = logging.getLogger(__name__)


def excerpt(value: object, most: int = 80) -> str:
    """A value as a message shows it: its JSON, of at most so many characters."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=repr)
    except (RecursionError, ValueError):
        text = "something nested too deeply"
    return text if len(text) <= most else text[: most - 3] + "..."


def read_json(path: str | Path, without: str | None = None) -> Any:
    """What a JSON file holds.

    Args:
        path: the file, in UTF-8; a byte order mark is passed over, and logged.
        without: the key of members that nobody wants, at any depth: they are dropped as they are
            decoded. COCO's polygons are nine tenths of its annotation files.

    Raises:
        UserError: the file cannot be read or is not JSON; names the file, what is wrong and where.
    """

    def shortened(found: dict[str, Any]) -> dict[str, Any]:
        found.pop(without, None)  # type: ignore[arg-type]  # called only with a key
        return found

    try:
        with open(path, "rb") as head:
            if head.read(3) == codecs.BOM_UTF8:
                log.info("%s begins with a byte order mark, which is passed over", path)
        with open(path, encoding="utf-8-sig") as file:
            return json.load(file, object_hook=None if without is None else shortened)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}.") from error
    except json.JSONDecodeError as error:
        ends = error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated")
        raise UserError(
            f"{path} is not JSON: {error.msg} (character {error.pos} of {len(error.doc)}; line "
            f"{error.lineno}, column {error.colno}).{' The file is cut off.' if ends else ''}"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text: {error.reason} (byte {error.start})."
        ) from error
    except RecursionError as error:
        raise UserError(f"{path}: lists or objects are nested too deeply.") from error
    except ValueError as error:  # a number of thousands of digits
        raise UserError(f"{path}: {error}.") from error
