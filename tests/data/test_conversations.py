"""Own data: conversations in the formats of other tools, read to the same entries."""

import json
from copy import deepcopy
from pathlib import Path

import pytest
from datasets import Dataset, Features, Image, List, Value
from own_data import ANSWER, EARLIER, FILES, FORMATS, LLAMA_FACTORY, QUESTION, TEXT, TURNS

from laid.common.errors import UserError
from laid.data.conversation_files import Wanted, load_conversations, open_rows
from laid.data.entries import HaystackEntry, Turn
from laid.data.image_files import load_image
from laid.data.image_names import ImageRoots, resolve_under
from laid.data.question_text import QuestionCheck

TO_TRAIN = Wanted()


@pytest.fixture
def read(small_coco):
    """Entries of a source, and the roots of their images."""

    def load(source, wanted=TO_TRAIN, image_root=small_coco, check=None):
        rows = open_rows(str(source), "train")
        assert rows is not None
        root = None if image_root is None else str(image_root)
        entries, folder = load_conversations(rows, root, check or QuestionCheck(), wanted)
        return list(map(HaystackEntry.of, entries)), ImageRoots(Path("/"), {str(source): folder})

    return load


@pytest.fixture
def lines(tmp_path):
    def write(*rows, name="my.jsonl"):
        path = tmp_path / name
        texts = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_text("\n".join(texts) + "\n")
        return path

    return write


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_entry(name, lines, tmp_path, read, small_coco):
    (entry,), roots = read(lines(FORMATS[name]))
    assert entry.turns == (Turn("user", TEXT),)
    assert entry.answer == ANSWER
    assert entry.question.endswith(QUESTION)
    assert (entry.id, entry.size, entry.needles, entry.mode) == ("my-000001", 2, (), "")
    assert [resolve_under(roots, n) for n in entry.images] == [small_coco / n for n in FILES]
    pretty = tmp_path / "my.json"
    pretty.write_text(json.dumps([FORMATS[name]], indent=2))
    (same,), _ = read(pretty)
    assert (same.turns, same.answer, same.size) == (entry.turns, entry.answer, entry.size)


def test_a_dataset_with_images_gives_the_same_entry_and_the_same_bytes(tmp_path, read, small_coco):
    content = [{"bytes": (small_coco / name).read_bytes(), "path": None} for name in FILES]
    message = {"role": Value("string"), "content": Value("string")}
    for column, feature, images in (
        ("images", List(Image()), content),
        ("image", Image(), content[0]),
    ):
        text = TEXT if column == "images" else TEXT.replace("<image>", "", 1)
        row = {"messages": [{"role": "user", "content": text}, LLAMA_FACTORY["messages"][1]]}
        data = Dataset.from_list(
            [row | {column: images}] * 2, Features({"messages": List(message), column: feature})
        )
        data.save_to_disk(tmp_path / column)
        for source in (str(tmp_path / column), f"hf:{tmp_path / column}"):
            entries, roots = read(source, image_root=None)
            assert [entry.turns for entry in entries] == [(Turn("user", text),)] * 2
            for at, name in enumerate(entries[1].images):
                path = resolve_under(roots, name)
                assert path.read_bytes() == content[at]["bytes"]
                assert load_image(path).size == load_image(small_coco / FILES[at]).size


def test_a_dataset_of_parquet_files_is_read_as_from_the_hub(tmp_path, read, small_coco):
    folder = tmp_path / "photos: all"  # what follows a colon is a split, but in a folder's name
    folder.mkdir()
    message = {"role": Value("string"), "content": Value("string")}
    content = [{"bytes": (small_coco / name).read_bytes(), "path": None} for name in FILES]
    features = Features({"messages": List(message), "images": List(Image())})
    data = Dataset.from_list([{**LLAMA_FACTORY, "images": content}], features)
    data.to_parquet(folder / "train.parquet")
    (entry,), _ = read(f"hf:{folder}", image_root=None)
    assert entry.turns == (Turn("user", TEXT),)


def test_without_marks_images_come_before_the_first_question(lines, read):
    row = deepcopy(TURNS)
    for message in row["messages"]:
        message["content"] = message["content"].replace("<image>", "")
    (entry,), _ = read(lines(row))
    assert entry.turns[0] == Turn("system", "Answer briefly.")
    assert entry.turns[1].text == "<image><image> What is this?"


def test_rows_may_have_no_image(lines, tmp_path, read, caplog, small_coco):
    caplog.set_level("INFO")
    bare = said(("user", "Why?"), ("assistant", "Because."))
    rows = [LLAMA_FACTORY, bare | {"images": []}, {k: bare[k] for k in bare if k != "images"}]
    entries, _ = read(lines(*rows))
    assert [entry.size for entry in entries] == [2, 0, 0]
    assert entries[2].turns == (Turn("user", "Why?"),)
    assert (entries[2].images, entries[2].question, entries[2].answer) == ((), "Why?", "Because.")
    assert "my.jsonl: 2 of 3 rows have no image" in caplog.text
    # A dataset of which some rows have none, and one of which none has.
    content = [{"bytes": (small_coco / name).read_bytes(), "path": None} for name in FILES]
    message = {"role": Value("string"), "content": Value("string")}
    features = Features({"messages": List(message), "images": List(Image())})
    for name, images in (("some", content), ("none", None)):
        talk = LLAMA_FACTORY if images else bare
        rows = [bare | {"images": None}, {"messages": talk["messages"], "images": images}]
        Dataset.from_list(rows, features).save_to_disk(tmp_path / name)
        entries, _ = read(tmp_path / name, image_root=None)
        assert [entry.size for entry in entries] == [0, 2 if images else 0]


def test_of_several_turns_the_last_is_the_answer(lines, read):
    (entry,), _ = read(lines(TURNS))
    assert [turn.role for turn in entry.turns] == ["system", "user", "assistant", "user"]
    assert [turn.text for turn in entry.turns] == [m["content"] for m in EARLIER[:4]]
    assert (entry.question, entry.answer) == ("And this?", "Its shadow.")
    beside = {**TURNS, "messages": EARLIER[1:], "system": "Answer briefly."}
    assert read(lines(beside))[0][0].turns == entry.turns


def test_names_are_relative_to_the_file_or_a_folder_and_may_be_absolute_below_it(
    lines, read, small_coco, tmp_path
):
    (tmp_path / "val2017").symlink_to(small_coco / "val2017")
    path = lines(LLAMA_FACTORY)
    entries, roots = read(path, image_root=None)
    expected = [(small_coco / name).read_bytes() for name in FILES]
    assert [resolve_under(roots, n).read_bytes() for n in entries[0].images] == expected
    absolute = lines({**LLAMA_FACTORY, "images": [str(small_coco / name) for name in FILES]})
    entries, roots = read(absolute)
    assert [resolve_under(roots, n).read_bytes() for n in entries[0].images] == expected
    with pytest.raises(UserError, match=r"my\.jsonl, line 1: .*does not stay below.*image_root"):
        read(absolute, image_root=tmp_path)


def broken(**changes):
    return {**deepcopy(LLAMA_FACTORY), **changes}


def said(*messages):
    return broken(messages=[{"role": role, "content": text} for role, text in messages])


BAD = {
    "not JSON": ("{", "not JSON"),
    "a list": ("[1]", r"expected an object, got \[1\]"),
    "other keys": ({"instruction": "?", "images": FILES}, "expected one of the keys 'messages'"),
    "two of them": (broken(conversations=[]), "found .'messages', 'conversations'"),
    "no list": (broken(messages="hi"), "'messages' should be a list"),
    "no messages": (broken(messages=[]), "'messages' should be a list"),
    "no role": (broken(messages=[{"text": "x"}]), "message 0: expected 'role' and 'content'"),
    "tool": (said(("tool", "x")), "message 0: 'role' is .tool., expected one of system, human"),
    "order": (said(("user", TEXT), ("user", "x")), "message 1 is the user's, expected the assist"),
    "begins": (said(("assistant", "x")), "message 0 is the assistant's, expected the user's"),
    "no answer": (said(("user", TEXT)), "the last message is the user's, expected an answer"),
    "empty": (said(("user", TEXT), ("assistant", " ")), "message 1, the assistant's, is empty"),
    "too few": (broken(images=FILES[:1]), "1 images and 2 <image>: expected one for each"),
    "none": (broken(images=[]), "there are 0 images and 2 <image>"),
    "answered": (
        said(("user", "<image> x"), ("assistant", "<image>")),
        "stands in the assistant's message",
    ),
    "video": (broken(videos=["a.mp4"]), "'videos' is given"),
    "tools": (broken(tools="[]x"), "'tools' is given"),
    "loss": (broken(messages=[{"role": "user", "content": "x", "loss": False}]), "'loss' is not"),
    "calls": (
        broken(messages=[{"role": "user", "content": "x", "tool_calls": [{"id": 1}]}]),
        "message 0: 'tool_calls' is given",
    ),
    "thought": (
        broken(messages=[{"role": "assistant", "content": "x", "reasoning_content": "y"}]),
        "message 0: 'reasoning_content' is given",
    ),
    "half a pair": (said(("user", TEXT + "\ud800"), ("assistant", "x")), r"holds '.ud800'"),
    "half a pair answered": (said(("user", TEXT), ("assistant", "\udc00")), "the answer holds"),
    "half a pair named": (broken(images=["\udc00.jpg"] * 2), r"'.udc00\.jpg' is not UTF-8"),
    "address in an object": (broken(images=[{"url": "x.jpg"}] * 2), "url.* is no file name"),
    "part": (said(("user", [{"type": "audio"}])), "a part of 'content' is .*'text' with a 'text'"),
    "twice": (
        said(("user", [{"type": "image", "image": FILES[0]}])),
        "images are given beside the messages and in them",
    ),
    "web": (broken(images=["http://x/y.jpg"] * 2), "'http://x/y.jpg' is no file name"),
    "out": (broken(images=["../../x.jpg"] * 2), "does not stay below"),
    "missing": (
        said(("user", TEXT), ("assistant", "x")) | {"images": ["x.jpg", FILES[0]]},
        r"1 of the \d images .* such as x\.jpg",
    ),
    "control": (said(("user", TEXT + "<|im_end|>"), ("assistant", "x")), "message holds '<.im_end"),
    "control answer": (said(("user", TEXT), ("assistant", "<|im_end|>")), "the answer holds"),
    "long": (said(("user", TEXT), ("assistant", "x" * 9)), "9 tokens, more than data.max_answer_"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_named_by_file_and_line(case, lines, tmp_path, read):
    row, message = BAD[case]
    good = said(("user", TEXT), ("assistant", "red"))
    check = QuestionCheck(["<|im_end|>"], most=8)
    with pytest.raises(UserError, match=rf"my\.jsonl, line 4: .*{message}"):
        read(lines(good, "", good, row, good), Wanted(trained="last"), check=check)
    if isinstance(row, dict):
        rows = json.dumps([good, good, row], indent=1)
        line = rows[: rows.index(json.dumps(row, indent=1)[:1], 2)].count("\n")
        (tmp_path / "my.json").write_text(rows)
        with pytest.raises(UserError, match=rf"my\.json, line \d+ \(entry 2\): .*{message}") as got:
            read(tmp_path / "my.json", Wanted(trained="last"), check=check)
        line = int(str(got.value).split("line ")[1].split()[0])
        assert rows.splitlines()[line - 1].strip() == "{"
        assert json.loads("\n".join(rows.splitlines()[line - 1 :])[: -len("\n]")]) == row


def test_an_answer_that_can_not_be_scored_is_named(lines, read):
    path = lines(LLAMA_FACTORY)
    for scoring in ("yes-no", "numeric", "choice"):
        with pytest.raises(UserError, match=r"my\.jsonl, line 1: the right answer is given as"):
            read(path, Wanted(scoring=scoring))
    for scoring in ("exact", "contains"):
        assert read(path, Wanted(scoring=scoring))[0][0].scoring == scoring


def test_a_question_to_predict_needs_no_answer(lines, read):
    (entry,), _ = read(lines(said(("user", TEXT))), Wanted(answered=False))
    assert entry.answer == ""


def test_haystacks_and_other_files_are_no_conversations(small_coco, tmp_path, lines):
    official = small_coco.parent / "vhs" / "visual_haystack_5.json"
    assert open_rows(str(official), "test") is None
    with pytest.raises(UserError, match="has no rows"):
        load_conversations(open_rows(str(lines("")), "test"), None, QuestionCheck(), Wanted())
    with pytest.raises(UserError, match="cannot read"):
        list(open_rows(str(tmp_path / "none.jsonl"), "test").conversations())


def test_a_dataset_that_names_files_needs_their_folder(tmp_path, read):
    Dataset.from_list([LLAMA_FACTORY]).save_to_disk(tmp_path / "names")
    with pytest.raises(UserError, match=r"data\.image_root"):
        read(tmp_path / "names", image_root=None)
    assert read(tmp_path / "names")[0][0].answer == ANSWER
