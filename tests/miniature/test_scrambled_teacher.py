"""The teacher in another basis of queries and keys."""

import runpy
from pathlib import Path

import torch

from laid.signals.model_signals import Wanted
from laid.vlm.model_loading import ModelArgs
from laid.vlm.vision_language_model import VLM

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "scrambled_teacher.py"


def test_it_is_the_same_function_with_other_queries_and_keys(haystacks):
    inputs = haystacks().inputs
    plain, other = (VLM.load(ModelArgs("tiny/teacher")) for _ in range(2))
    runpy.run_path(str(SCRIPT))["scramble_qk"](other.hf, seed=1)
    wanted = Wanted(layers=(0, 3), logits=True)
    with torch.no_grad():
        before, after = plain.signals(inputs, wanted), other.signals(inputs, wanted)
    torch.testing.assert_close(after.logits_NV, before.logits_NV, atol=1e-4, rtol=1e-4)
    for layer in (0, 3):
        for ours, theirs in zip(
            vars(before.qk[layer]).values(), vars(after.qk[layer]).values(), strict=False
        ):
            apart = (ours - theirs).square().mean() / ours.square().mean()
            assert apart > 0.5
