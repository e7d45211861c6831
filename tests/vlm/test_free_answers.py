"""Answers of several words: the same in any batch, for training and for answering."""

import json

import pytest
import torch

from laid.data.conversation_files import Wanted, load_conversations, open_rows
from laid.data.image_names import ImageRoots
from laid.data.prompt import Collate, HaystackDataset
from laid.data.question_text import QuestionCheck
from laid.losses.cross_entropy import CrossEntropy
from laid.losses.divergence import Divergence, DivergenceArgs
from laid.losses.term import ModelPair
from laid.signals.model_signals import Wanted as Signals

ANSWERS = ["A red disc.", "It has two squares and a green cross, I think.", "No", "3 discs"]


@pytest.fixture(scope="module")
def conversations(drawn, encoder, tmp_path_factory):
    """Conversations of one to three images and one or two turns: a function to a batch."""
    names = sorted(str(p.relative_to(drawn)) for p in (drawn / "val2017").iterdir())[:6]
    path = tmp_path_factory.mktemp("own") / "my.jsonl"
    rows = []
    for at, answer in enumerate(ANSWERS):
        images = names[at : at + 1 + at % 3]
        first = " then ".join(["<image>"] * len(images))
        turns = [("user", f"See {first}. What is it?"), ("assistant", answer)]
        if at % 2:
            turns[1:1] = [("assistant", "An image."), ("user", "And in it?")]
        messages = [{"role": role, "content": text} for role, text in turns]
        rows.append({"messages": messages, "images": images})
    path.write_text("\n".join(map(json.dumps, rows)))
    rows = open_rows(str(path), "train")
    entries, folder = load_conversations(rows, str(drawn), QuestionCheck(), Wanted())
    roots = ImageRoots(drawn, {str(path): folder})

    def batch(rows, with_answer=True):
        data = HaystackDataset(entries, roots, encoder, with_answer)
        side = "right" if with_answer else "left"
        return Collate(encoder.pad_id, side)([data[row] for row in rows]).inputs

    return batch


def test_the_batch_size_does_not_change_answers(student, conversations):
    alone = [student.answer(conversations([row], False), 12)[0].tolist() for row in range(4)]
    for size in (2, 3, 4):
        together = []
        for start in range(0, 4, size):
            rows = range(start, min(4, start + size))
            together += student.answer(conversations(rows, False), 12).tolist()
        assert [row[: len(one)] for row, one in zip(together, alone, strict=True)] == alone


def test_logits_and_losses_of_a_batch_are_those_of_its_conversations(
    student, teacher, conversations, encoder
):
    wanted = Signals(logits=True)
    decode = encoder.processor.tokenizer.decode
    whole, apart = conversations(range(4)), [conversations([row]) for row in range(4)]
    expected = "".join(f"{answer}<|im_end|>" for answer in ANSWERS)
    assert decode(whole.answers.labels_N) == expected
    pair = [[model.signals(one, wanted) for one in apart] for model in (student, teacher)]
    together = [model.signals(whole, wanted) for model in (student, teacher)]
    for model, of_each in zip(together, pair, strict=True):
        expected = torch.cat([signals.logits_NV for signals in of_each])
        torch.testing.assert_close(model.logits_NV, expected, rtol=1e-4, atol=1e-5)
    shapes = ModelPair(student.shape, teacher.shape, len(encoder.processor.tokenizer), None, None)
    for term in (CrossEntropy(), Divergence(DivergenceArgs(), shapes)):
        of_each = [term(*signals, one) for *signals, one in zip(*pair, apart, strict=True)]
        torch.testing.assert_close(
            term(*together, whole), torch.stack(of_each).mean(), rtol=1e-4, atol=1e-5
        )
