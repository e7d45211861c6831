"""Entries that would end a run in its midst are named before the first step."""

import json
from dataclasses import replace

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from laid.common.errors import UserError
from laid.data.coco_index import CocoIndex
from laid.data.datamodule import HaystackDataModule
from laid.data.entries import CONVERSATION_FEATURES, HaystackEntry, Turn, dataset_of
from laid.data.entry_args import EvaluationArgs, PredictArgs, TrainArgs
from laid.data.entry_checks import check_entries
from laid.data.haystack_builder import build_entries
from laid.data.image_files import check_images, load_image
from laid.data.prompt import PromptEncoder

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"


def talk(*turns, answer="It is red.", images=(), at=7):
    turns = tuple(Turn(*turn) for turn in turns)
    return HaystackEntry(
        id=f"my-{at:06d}", question="?", answer=answer, size=len(images), images=images,
        turns=turns, source="my.jsonl",
    )  # fmt: skip


TALKS = [
    talk((USER, "Why?")),
    talk(
        (SYSTEM, "Kurz: größer als 3 €?"), (USER, "<image><image>und 日本語 🦙?"), images=("a", "b")
    ),
    talk((USER, "<image>\n\n"), (ASSISTANT, "  A.\n"), (USER, "No <image>?"), images=("a", "a")),
]
TALKS.append(talk((USER, 60 * "\N{MUSICAL SYMBOL EIGHTH NOTE}")))  # NFC makes three of each
SIZES = {"a": (300, 40), "b": (57, 111)}


@pytest.mark.parametrize("with_answer", [True, False])
@pytest.mark.parametrize("every_turn", [True, False])
@pytest.mark.parametrize("entry", TALKS, ids=["text", "system", "turns", "NFC"])
def test_an_entry_of_exactly_the_longest_length_is_taken_and_one_token_less_refuses_it(
    encoder, entry, every_turn, with_answer
):
    entries = dataset_of([entry], CONVERSATION_FEATURES)
    (length,) = encoder.lengths(entries, SIZES, with_answer)
    one = PromptEncoder(encoder.processor, max_length=length, every_turn=every_turn)
    check_entries("data.test", one, entries, SIZES, with_answer)
    one = replace(one, max_length=length - 1)
    with pytest.raises(UserError, match=rf"my\.jsonl, line 7 \({length} tokens"):
        check_entries("data.test", one, entries, SIZES, with_answer)


def test_the_file_is_read_again_only_for_a_message(encoder):
    entries = dataset_of([replace(TALKS[0], source="not_there.json")], CONVERSATION_FEATURES)
    check_entries("data.train", encoder, entries, {}, with_answer=True)


def data_module(pair, coco_root, **settings):
    return HaystackDataModule(str(coco_root), str(pair[0]), global_batch_size=1, **settings)


def write(path, lengths):
    """Conversations of so many words, in the lines of a file with an empty second line."""
    rows = [
        {"messages": [{"role": USER, "content": "dog " * n}, {"role": ASSISTANT, "content": "A."}]}
        for n in lengths
    ]
    first, *others = map(json.dumps, rows)
    path.write_text("\n".join([first, "", *others]))
    return str(path)


@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
def test_a_stage_names_the_rows_that_are_too_long_and_the_longest(
    pair, small_coco, tmp_path, stage
):
    long = write(tmp_path / "my.jsonl", [3, 900, 3, 800, 700, 3, 1000])
    short = write(tmp_path / "short.jsonl", [3])
    of = {"validate": EvaluationArgs([short])} if stage == "fit" else {}
    given = {"fit": TrainArgs(long), "predict": PredictArgs(long)}.get(
        stage, EvaluationArgs([long])
    )
    part = "train" if stage == "fit" else stage
    data = data_module(pair, small_coco, max_length=500, **of, **{part: given})
    with pytest.raises(UserError) as caught:
        data.setup(stage)
    said = str(caught.value)
    assert f"data.{part}: 4 of 7 entries have more than data.max_length 500 tokens" in said
    assert [f"line {at} (" in said for at in (3, 5, 6, 8)] == [True, True, True, False]
    longest = data.encoder.lengths(data.entries_of(stage)[part], {}, stage == "fit")
    assert f"The longest has {max(longest):,}." in said


def longest_of(entries, root, encoder):
    sizes = check_images(root, {n for row in entries["images"] for n in row}, encoder.patches)
    return max(encoder.lengths(entries, sizes, with_answer=False))


def test_haystacks_are_named_by_their_ids(pair, small_coco):
    test = EvaluationArgs(sizes=[1, 4], per_size=2)
    data = data_module(pair, small_coco, test=test)
    data.setup("test")
    longest = longest_of(data.test_entries, small_coco, data.encoder)
    data_module(pair, small_coco, max_length=longest, test=test).setup("test")
    with pytest.raises(UserError, match=r" of 4 entries .* entry test-4-00000\d \("):
        data_module(pair, small_coco, max_length=longest - 1, test=test).setup("test")


def test_entries_that_callbacks_ask_for_are_looked_at_too(pair, small_coco):
    validate = EvaluationArgs(sizes=[1], per_size=2)
    data = data_module(pair, small_coco, validate=validate)
    data.setup("validate")
    longest = longest_of(data.probes("spectrum", [7], 2, of_built=()), small_coco, data.encoder)
    data = data_module(pair, small_coco, max_length=longest, validate=validate)
    data.setup("validate")
    with pytest.raises(UserError, match=r"spectrum: \d of 2 entries have more than"):
        data.probes("spectrum", [7], 2, of_built=())


def refused(encoder, monkeypatch, before, after, entry, **settings):
    stock = encoder.processor.stock
    template = stock.chat_template.replace(before, after)
    assert template != stock.chat_template
    monkeypatch.setattr(stock, "chat_template", template)
    one = PromptEncoder(encoder.processor, **settings)
    entries = dataset_of([talk((USER, "Why?"), at=1), entry], CONVERSATION_FEATURES)
    with pytest.raises(UserError, match=r"^my\.jsonl, line 7: the chat template ") as caught:
        check_entries("data.train", one, entries, {}, with_answer=True)
    return str(caught.value)


def test_what_a_chat_template_refuses_is_named(encoder, monkeypatch):
    loop = "{%- for message in messages -%}"
    raising = "{%- if message.role == 'system' -%}{{ raise_exception('no system') }}{%- endif -%}"
    said = refused(encoder, monkeypatch, loop, loop + raising, TALKS[1])
    assert "refuses turns of system, user: no system. Leave such rows out" in said


def test_a_template_that_rewrites_earlier_answers_is_found_where_they_are_trained(
    encoder, monkeypatch
):
    loop = "{%- for message in messages -%}"
    forgetful = "{%- for message in messages if message.role != 'assistant' -%}"
    said = refused(encoder, monkeypatch, loop, forgetful, TALKS[2], every_turn=True)
    assert "data.train.turns last" in said


def test_a_template_that_takes_spaces_off_answers_is_found_where_one_has_some(encoder, monkeypatch):
    plain = talk((USER, "Why?"), (ASSISTANT, "A."), (USER, "No?"))
    text, trimmed = "{{ part.text }}", "{{ part.text | trim }}"
    said = refused(encoder, monkeypatch, text, trimmed, TALKS[2], every_turn=True)
    assert "data.train.turns last" in said
    one = PromptEncoder(encoder.processor, every_turn=True)
    entries = dataset_of([plain], CONVERSATION_FEATURES)
    check_entries("data.train", one, entries, {}, with_answer=True)


def test_an_image_that_is_turned_is_measured_upright(tmp_path, encoder):
    for at in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = at
        for kind in ("jpg", "png", "webp", "tiff"):
            Image.new("RGB", (80, 56)).save(tmp_path / f"{at}.{kind}", exif=exif)
        xmp = PngInfo()
        xmp.add_itxt("XML:com.adobe.xmp", f'<a tiff:Orientation="{at}"/>')
        Image.new("RGB", (80, 56)).save(tmp_path / f"{at}xmp.png", pnginfo=xmp)
    names = [path.name for path in tmp_path.iterdir()]
    sizes = check_images(tmp_path, names, encoder.patches)
    assert sizes == {name: load_image(tmp_path / name).size for name in names}
    assert sizes == {name: (56, 80) if name[0] in "5678" else (80, 56) for name in names}


def test_only_files_without_their_end_are_decoded(tmp_path, encoder, small_coco):
    whole = (small_coco / "val2017" / "000000000005.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole + bytes(1000))  # as telephones append
    check_images(tmp_path, ["a.jpg"], encoder.patches)
    Image.radial_gradient("L").save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    for name, cut in (("a.jpg", whole[:-100]), ("a.png", content[: len(content) // 2])):
        (tmp_path / name).write_bytes(cut)
        with pytest.raises(UserError, match=rf"{name} cannot be read"):
            check_images(tmp_path, [name], encoder.patches)


WRONG = {
    "size": ({"size": 3}, "'size' is 3 and there are 4 'images'"),
    "answer": ({"answer": "maybe"}, "'answer' is 'maybe', expected yes or no"),
    "no answer": ({"answer": None}, "'answer' is None"),
    "needle": ({"needles": [4]}, r"'needles' is \[4\], expected positions in 'images', 0 to 3"),
    "no needle": ({"needles": []}, r"'needles' is \[\]"),
    "question": ({"question": " "}, "'question' is empty"),
    "mode": ({"mode": "some"}, "'mode' is 'some'"),
    "images": ({"images": None}, "there are 0 'images'"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_row_of_a_saved_dataset_that_is_no_haystack_is_named(small_coco, tmp_path, pair, kind):
    change, message = WRONG[kind]
    entries = build_entries(CocoIndex.load(small_coco, "val2017"), "test", [4], per_size=2)
    entries = entries.map(lambda row, at: row | change if at else row, with_indices=True)
    entries.save_to_disk(tmp_path / "saved")
    source = str(tmp_path / "saved")
    data = data_module(pair, small_coco, test=EvaluationArgs([source]), predict=PredictArgs(source))
    with pytest.raises(UserError, match=f"saved, row 1: .*{message}"):
        data.setup("test")
    if kind in ("answer", "no answer", "needle", "no needle"):  # not needed to answer
        data.setup("predict")
