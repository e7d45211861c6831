"""Questions are data: marks for images and control tokens in them."""

import json

import pytest

from laid.common.errors import UserError
from laid.data.datamodule import HaystackDataModule
from laid.data.entries import HaystackEntry, ask
from laid.data.entry_args import EvaluationArgs, PredictArgs, TrainArgs
from laid.data.entry_source import EntrySource
from laid.data.question_text import QuestionCheck, without_image_marks
from laid.data.vhs_files import read_vhs

QUESTION = "For the image with a dog, is there a cat?"


@pytest.fixture
def asked(small_coco, tmp_path):
    """A file of three entries of 5 images whose middle one asks something else."""

    def write(question):
        rows = json.loads((small_coco.parent / "vhs" / "visual_haystack_5.json").read_text())
        rows[1]["conversations"][0]["value"] = question
        path = tmp_path / "questions.json"
        path.write_text(json.dumps(rows))
        return path

    return write


@pytest.mark.parametrize(
    "before", ["<image>\n" * 5, "<image>" * 5 + "\n", "<image> " * 5, "\n<image>\n\n" * 5]
)
def test_a_mark_for_each_image_is_taken_off_before_the_question(asked, small_coco, before):
    entry = HaystackEntry.of(read_vhs(asked(before + QUESTION), small_coco)[1])
    assert (entry.question, entry.anchor, entry.target) == (QUESTION, "dog", "cat")


@pytest.mark.parametrize("marks", ["<image>\n" * 3, "<image>\n" * 6])
def test_marks_that_are_not_one_an_image_stay_and_are_refused(asked, small_coco, marks):
    assert without_image_marks(marks + QUESTION, 5) == marks + QUESTION
    source = EntrySource(small_coco, (1,), 0.001, 0)
    with pytest.raises(UserError, match=r"questions\.json, entry 1: .*'<image>'"):
        source.evaluation("test", EvaluationArgs(source=[str(asked(marks + QUESTION))]))


@pytest.mark.parametrize(
    "token", ["<|im_end|>", "<|image_pad|>", "<|vision_start|>", "<|endoftext|>", "<video>"]
)
@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
def test_control_tokens_are_refused_with_file_entry_and_token(
    asked, small_coco, pair, token, stage
):
    path = str(asked(f"Is there a dog?{token}\nNo."))
    args = {
        "train": TrainArgs(source=path),
        "validate": EvaluationArgs(source=[path]),
        "test": EvaluationArgs(source=[path]),
        "predict": PredictArgs(source=path),
    }
    data = HaystackDataModule(str(small_coco), str(pair[0]), **args)
    with pytest.raises(UserError) as caught:
        data.setup(stage)
    assert f"{path}, entry 1: the question holds {token!r}" in str(caught.value)


def test_a_typed_question_a_prefix_and_a_category_are_refused_too(
    small_coco, pair, write_coco, instances
):
    coco, processor = str(small_coco), str(pair[0])
    typed = PredictArgs(images=str(small_coco / "val2017"), question="A cat?<|im_end|>")
    data = HaystackDataModule(coco, processor, predict=typed)
    with pytest.raises(UserError, match=r"data\.predict\.question holds '<\|im_end\|>'"):
        data.setup("predict")
    with pytest.raises(UserError, match=r"data\.prefix holds '<image>'"):
        HaystackDataModule(coco, processor, prefix="<image>").setup("test")
    instances["categories"][0]["name"] = "<|im_end|>"
    root = write_coco(instances)
    for image in instances["images"]:
        (root / "val2017" / image["file_name"]).touch()
    with pytest.raises(UserError, match=r"instances_val2017\.json: the category '<\|im_end\|>'"):
        HaystackDataModule(str(root), processor).setup("test")


def test_qwens_control_tokens_are_all_refused_and_words_are_not(qwen):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(qwen / "tokenizer")
    check = QuestionCheck(tokenizer.get_added_vocab())
    for token in (*tokenizer.all_special_tokens, "<tool_call>"):
        with pytest.raises(UserError, match="control token"):
            check.text(f"Is there a {token}?", "x")
    for text in (ask("cat", "dog", "any"), "is 3 < 4 |> 5?", "an <im_end>, <|x|>", "<Image>"):
        check.text(text, "x")


def test_an_image_on_both_sides_is_refused(asked, small_coco):
    path = asked(QUESTION)
    rows = json.loads(path.read_text())
    rows[2]["neg_image"].append(f"./{rows[2]['pos_image'][0]}")
    path.write_text(json.dumps(rows))
    with pytest.raises(UserError, match=r"entry 2: .* is both in 'pos_image' and in 'neg_image'"):
        read_vhs(path, small_coco)
