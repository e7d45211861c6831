"""What is checked of all entries of a stage before its first step."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from datasets import Dataset

from laid.common.errors import UserError
from laid.data.conversation_files import entry_place
from laid.data.entries import HaystackEntry, Turn, shown_images
from laid.data.prompt import PromptEncoder
from laid.data.question_text import most_tokens
from laid.vlm.processor import IMAGE_MARK

_SHOWN = 3
"""Entries that a message names."""
_Form = tuple[tuple[str, int, bool], ...]
"""Of each turn of a conversation its role, how many images it has, and whether it is an answer with
spaces around, which some templates take off."""


def check_entries(
    setting: str,
    encoder: PromptEncoder,
    entries: Dataset,
    sizes: Mapping[str, tuple[int, int]],
    with_answer: bool,
) -> None:
    """Tries the chat template on every form of conversation, and looks for entries that are longer
    than ``encoder.max_length``.

    Most are bounded by ``most_tokens``; tokens are counted where that is too many.

    Args:
        setting: gives the entries, for the message.
        sizes: width and height of each image, upright.
        with_answer: as ``PromptEncoder.encode``.

    Raises:
        UserError: the template refuses a form, or an entry is too long; names entries.
    """
    limit, tokens = encoder.max_length, {}
    if limit is not None:
        tokens = encoder.processor.image_tokens(sizes[name] for name in shown_images(entries))
    rendered: dict[_Form, int] = {}
    near = []
    for at, row in enumerate(_rows(entries, limit is None)):
        turns = [(turn["role"], turn["text"]) for turn in row["turns"] or ()]
        if not turns:
            turns = [encoder.turn(len(row["images"]), row["question"])]
        form = tuple(
            (role, text.count(IMAGE_MARK), role == "assistant" and text != text.strip())
            for role, text in turns
        )
        if form not in rendered:
            rendered[form] = _bytes_of(form, encoder, with_answer, row)
        if limit is None:
            continue
        texts = [text for _, text in turns] + [row["answer"]] * with_answer
        visual = sum(tokens[sizes[name]] for name in row["images"])
        if rendered[form] + sum(map(most_tokens, texts)) + visual > limit:
            near.append(at)
    if limit is not None and near:
        some = entries.select(near)
        lengths = encoder.lengths(some, sizes, with_answer)
        _refuse_long(setting, limit, some, lengths, len(entries))


def _rows(entries: Dataset, conversations_only: bool) -> Iterator[dict[str, Any]]:
    """The columns that are needed, None where a haystack has none."""
    talks = "turns" in entries.column_names
    if conversations_only and not talks:
        return
    columns = ["id", "question", "answer", "images", *(["turns", "source"] if talks else [])]
    beside = {} if talks else {"turns": None, "source": None}
    for some in entries.select_columns(columns).iter(1000):
        for values in zip(*some.values(), strict=True):
            yield dict(zip(some, values, strict=True)) | beside


def _bytes_of(
    form: _Form, encoder: PromptEncoder, with_answer: bool, row: Mapping[str, Any]
) -> int:
    """Bytes of the rendered text beside what is said; of an image what belongs to it.

    The template is tried here: it may refuse a system turn, say.
    """
    turns = tuple(
        Turn(role, IMAGE_MARK * images + (" word\n" if spaced else "word"))
        for role, images, spaced in form
    )
    tried = HaystackEntry(id="", question="", size=0, images=(), turns=turns)
    try:
        return sum(len(piece.encode()) for piece in encoder.pieces(tried, None, with_answer))
    except UserError as reason:
        raise UserError(f"{_place(row)}: {reason}") from reason
    except Exception as reason:  # a template is a program, and raises what it wants
        roles = ", ".join(role for role, *_ in form)
        raise UserError(
            f"{_place(row)}: the chat template refuses turns of {roles}: {reason}. Leave such "
            "rows out, or take a model whose template has them"
        ) from reason


def _place(row: Mapping[str, Any]) -> str:
    # Of a JSON file, all rows before are read again: only for a message.
    return entry_place(row["id"], row["source"] or "")


def _refuse_long(
    setting: str, limit: int, some: Dataset, lengths: Sequence[int], total: int
) -> None:
    long = [at for at, length in enumerate(lengths) if length > limit]
    if not long:
        return
    named = []
    for at in long[:_SHOWN]:
        row = {"source": ""} | some[at]
        named.append(f"{_place(row)} ({lengths[at]:,} tokens, {row['size']} images)")
    more = ", such as " if len(long) > _SHOWN else ": "
    raise UserError(
        f"{setting}: {len(long):,} of {total:,} entries have more than data.max_length "
        f"{limit:,} tokens{more}{'; '.join(named)}. The longest has {max(lengths):,}. Raise "
        "data.max_length, reduce data.max_pixels, or leave such rows or haystack sizes out"
    )
