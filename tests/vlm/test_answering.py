"""Greedy answers."""

import shutil

import torch
from transformers import GenerationConfig

from laid.vlm.model_loading import ModelArgs
from laid.vlm.vision_language_model import VLM


def test_an_answer_is_the_most_probable_continuation(student, haystacks):
    """Against a reference that runs the whole forward anew for every token, with no cache."""
    inputs = haystacks(with_answer=False, side="left", rows=[2]).inputs
    answer = student.answer(inputs, max_new_tokens=5)[0].tolist()
    ids = inputs.input_ids_BL
    expected = []
    for _ in range(5):
        types = torch.cat(
            [
                inputs.mm_token_type_ids_BL,
                torch.zeros(1, ids.shape[1] - inputs.input_ids_BL.shape[1], dtype=torch.long),
            ],
            dim=1,
        )
        logits = student.hf(
            input_ids=ids,
            mm_token_type_ids=types,
            pixel_values=inputs.pixel_values_PC,
            image_grid_thw=inputs.image_grid_thw_I3,
        ).logits[0, -1]
        expected.append(int(logits.argmax()))
        if expected[-1] == student.hf.config.text_config.eos_token_id:
            break
        ids = torch.cat([ids, logits.argmax()[None, None]], dim=1)
    assert answer[: len(expected)] == expected


def test_the_batch_size_does_not_change_answers(student, haystacks):
    options = {"with_answer": False, "side": "left"}
    alone = [
        student.answer(haystacks(**options, rows=[row]).inputs, 4)[0].tolist() for row in range(6)
    ]
    for size in (2, 3, 6):
        together = []
        for start in range(0, 6, size):
            rows = range(start, start + size)
            together += student.answer(haystacks(**options, rows=rows).inputs, 4).tolist()
        assert [row[: len(one)] for row, one in zip(together, alone, strict=True)] == alone


def test_the_hubs_generation_settings_do_not_reach_the_answer(pair, haystacks, tmp_path):
    inputs = haystacks(with_answer=False, side="left").inputs
    plain = VLM.load(ModelArgs(str(pair[0]))).answer(inputs, 6)
    shutil.copytree(pair[0], tmp_path, dirs_exist_ok=True)
    GenerationConfig(
        do_sample=True,
        temperature=5.0,
        repetition_penalty=1.5,
        no_repeat_ngram_size=1,
        bad_words_ids=[[int(plain[0, 0])]],
        eos_token_id=[2],
    ).save_pretrained(tmp_path)
    assert torch.equal(VLM.load(ModelArgs(str(tmp_path))).answer(inputs, 6), plain)


def test_answering_leaves_training_as_it_was(student, haystacks):
    """generate() keeps position offsets in the model; a forward with positions ignores them."""
    from laid.signals.model_signals import Wanted

    inputs = haystacks().inputs
    before = student.signals(inputs, Wanted(logits=True)).logits_NV
    student.answer(haystacks(with_answer=False, side="left").inputs, 3)
    after = student.signals(inputs, Wanted(logits=True)).logits_NV
    torch.testing.assert_close(after, before)


def test_an_answer_has_ended_where_its_last_token_is_an_end_token(student):
    stop = student.hf.generation_config.eos_token_id
    end = stop[0] if isinstance(stop, list) else stop
    ids_BT = torch.tensor([[5, end, end], [5, 6, end], [5, 6, 7]])
    assert student.ended(ids_BT).tolist() == [True, True, False]
