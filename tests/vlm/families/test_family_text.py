"""Entries without images, alone and beside haystacks, in every family."""

from dataclasses import replace

import torch
from bare_entry import BARE

from laid.signals.model_signals import Wanted
from laid.vlm.image_features import run_on_blank

WANTED = Wanted(layers=(0, 1), logits=True)


@torch.no_grad()
def test_a_text_is_what_the_model_makes_of_it_alone_padded_and_packed(vlm, batch):
    alone, beside = batch(rows=[BARE]), batch(rows=[3, BARE, 0])
    assert (alone.images, beside.images) == (0, 4)
    found = vlm.signals(alone, WANTED)
    stock = vlm.hf(input_ids=alone.input_ids_BL).logits[0, alone.answers.columns_N]
    torch.testing.assert_close(found.logits_NV, stock, atol=1e-5, rtol=1e-5)
    of_row = beside.answers.rows_N == 1
    lengths = beside.attention_mask_BL.sum(1).tolist()
    runs = [beside, replace(beside, lengths=lengths)] if vlm.family.packs else [beside]
    for inputs in runs:
        among = vlm.signals(inputs, WANTED)
        torch.testing.assert_close(among.logits_NV[of_row], found.logits_NV, atol=1e-5, rtol=1e-5)
        for layer, qk in found.qk.items():
            for kind in "qk":
                theirs = getattr(among.qk[layer], kind)[1:2, : lengths[1]]
                torch.testing.assert_close(theirs, getattr(qk, kind), atol=1e-5, rtol=1e-5)


def test_a_text_is_answered_as_alone(vlm, batch):
    ids_1T = vlm.answer(batch(with_answer=False, side="left", rows=[BARE]), 4)
    beside = vlm.answer(batch(with_answer=False, side="left", rows=[3, BARE]), 4)
    assert beside[1, : ids_1T.shape[1]].tolist() == ids_1T[0].tolist()


def test_a_tower_that_is_trained_and_one_that_others_wait_for(vlm, batch):
    run_on_blank(vlm.hf)
    for part in vlm.family.vision_parts(vlm.hf):
        part.requires_grad_(True)
    assert torch.isfinite(vlm.signals(batch(rows=[BARE]), WANTED).logits_NV).all()
