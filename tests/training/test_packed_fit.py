"""Training on packed haystacks: the losses of padded ones, however it is done."""

import json

import lightning as L
import pytest
import torch

from laid.checkpoints.checkpoint_callback import RunCheckpoint
from laid.data.datamodule import HaystackDataModule
from laid.data.entry_args import TrainArgs
from laid.losses.alignment import AlignmentArgs
from laid.losses.divergence import DivergenceArgs
from laid.losses.retrieval import RetrievalArgs
from laid.training.module import LaidModule
from laid.training.objective import ObjectiveArgs
from laid.training.optimizer import OptimizerArgs
from laid.vlm.model_loading import ModelArgs

STEPS, STEP = 3, 6
EPOCH = 2
"""Steps of one; so the last one is in the next."""
TERMS = {
    "laid": AlignmentArgs(weight=1.0, layers="all"),
    "kl": DivergenceArgs(weight=1.0),
    "retrieval": RetrievalArgs(weight=0.3, distractors="none", reach=0, calibration=4),
}


class Losses(L.Callback):
    """What is logged of each optimizer step, and how many micro-batches there were."""

    def __init__(self, stop_after=None):
        self.seen, self.tokens, self.stop_after = [], [], stop_after

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.tokens.append(batch.inputs.tokens)
        if len(self.tokens) % trainer.accumulate_grad_batches == 0:
            logged = trainer.callback_metrics.items()
            self.seen.append({n: x.item() for n, x in logged if n.startswith(("train/", "grad"))})
        if len(self.tokens) == self.stop_after:
            raise RuntimeError("stopped")


@pytest.fixture(scope="module")
def fit(pair, drawn, tmp_path_factory):
    """Trains for ``STEPS``; gives what ``Losses`` saw."""

    def run(stop_after=None, resume=None, trainer=(), folder=None, **data):
        torch.manual_seed(0)
        student, teacher = (ModelArgs(str(folder)) for folder in pair)
        rates = OptimizerArgs(student_lr=1e-3, mixing_lr=1e-2)
        module = LaidModule(
            student=student, teacher=teacher, objective=ObjectiveArgs(**TERMS), optimizer=rates
        )
        train = TrainArgs(entries=EPOCH * STEP + 2, min_size=1, max_size=6)
        sizes = {"global_batch_size": STEP, "workers": 0, "order_seed": 2, "train": train, **data}
        losses = Losses(stop_after)
        folder = tmp_path_factory.mktemp("saved") if folder is None else folder
        saved = RunCheckpoint(dirpath=folder, every_n_train_steps=1, save_top_k=-1)
        options = {
            "accelerator": "cpu", "logger": False, "enable_progress_bar": False,
            "enable_model_summary": False, "limit_val_batches": 0, "num_sanity_val_steps": 0,
            "max_steps": STEPS, "use_distributed_sampler": False, "gradient_clip_val": 1.0,
        }  # fmt: skip
        of_run = L.Trainer(**options, **dict(trainer), callbacks=[losses, saved])
        module_data = HaystackDataModule(str(drawn), str(pair[0]), **sizes)
        of_run.fit(module, datamodule=module_data, ckpt_path=resume)
        return losses

    return run


@pytest.fixture(scope="module")
def packed(fit):
    """Three micro-batches a step."""
    found = fit(pack_tokens=130)
    assert len(found.tokens) == STEPS * 3
    return found


def same(found, expected, tolerance):
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert len(ours) > 5
        assert ours == pytest.approx(theirs, rel=tolerance)


def test_losses_are_those_of_padded_haystacks(fit, packed):
    padded = fit(batch_size=STEP)
    assert len({round(step["train/loss"], 4) for step in padded.seen}) == STEPS
    assert len(padded.tokens) == STEPS
    assert sum(padded.tokens) == sum(packed.tokens)
    same(packed.seen[:1], padded.seen[:1], 1e-5)
    same(packed.seen, padded.seen, 1e-4)  # float32, and Adam divides by small numbers


def test_entries_without_images_are_packed_as_others(fit, tmp_path):
    """In a mixture, of which the first source has nothing else: the losses are those of padded
    ones, and of one at a time."""
    text = tmp_path / "text.jsonl"
    said = [{"from": "human", "value": "Why {}?"}, {"from": "gpt", "value": "Because of {}."}]
    rows = [[turn | {"value": turn["value"].format(n)} for turn in said] for n in range(8)]
    text.write_text("\n".join(json.dumps({"conversations": row}) for row in rows))
    mixture = {str(text): 0.4, "built": 0.6}
    train = TrainArgs(entries=40, min_size=1, max_size=6, mixture=mixture)
    packed = fit(train=train, pack_tokens=130)
    for size in (STEP, 1):
        padded = fit(train=train, batch_size=size)
        assert sum(padded.tokens) == sum(packed.tokens)
        same(packed.seen[:1], padded.seen[:1], 1e-5)
        same(packed.seen, padded.seen, 1e-4)


def test_workers_change_nothing(fit, packed):
    assert fit(pack_tokens=130, workers=2).seen == packed.seen


def test_an_interruption_in_the_midst_of_accumulation_changes_nothing(fit, packed, tmp_path):
    """It is of step 2, so the run resumes after step 1."""
    with pytest.raises(RuntimeError, match="stopped"):
        fit(pack_tokens=130, stop_after=3 + 2, folder=tmp_path)
    (last,) = tmp_path.iterdir()
    assert "step=1" in last.name
    resumed = fit(pack_tokens=130, resume=last)
    assert resumed.seen == packed.seen[1:]
    assert resumed.tokens == packed.tokens[3:]


def test_two_ranks_share_a_step_of_packed_haystacks(pair, drawn):
    """Their weighted losses have the mean of all haystacks as their mean, as gradients are
    averaged."""
    data = HaystackDataModule(
        str(drawn), str(pair[0]), train=TrainArgs(entries=20, min_size=1, max_size=6),
        global_batch_size=STEP, workers=0, pack_tokens=85,
    )  # fmt: skip
    data.setup("fit")
    one = list(data.train_dataloader())
    data._packing, data.rank = None, lambda: {"rank": 0, "world_size": 2}
    first = list(data.train_dataloader())
    data.rank = lambda: {"rank": 1, "world_size": 2}
    both = [batch for pair in zip(first, data.train_dataloader(), strict=True) for batch in pair]
    assert (len(one), len(both)) == (15, 18)  # of 3 steps: 5 micro-batches, or 3 on each rank
    for batches in (one, both):
        in_step = len(batches) // 3
        for at in range(0, len(batches), in_step):
            step = batches[at : at + in_step]
            assert sum(batch.weight for batch in step) == pytest.approx(in_step)
            each = [batch.weight / len(batch.entries) for batch in step]
            assert each == pytest.approx([in_step / STEP] * in_step)
    names = [sorted(e.id for batch in batches for e in batch.entries) for batches in (one, both)]
    assert names[0] == names[1]


def test_contradictions_are_refused(fit):
    with pytest.raises(ValueError, match=r"data\.pack_tokens 0: expected at least 1"):
        fit(pack_tokens=0)
    with pytest.raises(ValueError, match="accumulate_grad_batches 7 contradicts"):
        fit(pack_tokens=130, trainer={"accumulate_grad_batches": 7})
    with pytest.raises(ValueError, match=r"overfit_batches 2 and data\.pack_tokens"):
        fit(pack_tokens=130, trainer={"overfit_batches": 2})


@pytest.mark.parametrize("how", [{"pack_tokens": 130}, {"batch_size": 2}], ids=str)
def test_an_epoch_that_would_end_within_a_step_is_refused(fit, how):
    with pytest.raises(ValueError, match=r"limit_train_batches 4: 4 micro-batches .* has 3; exp"):
        fit(**how, trainer={"limit_train_batches": 4})
    assert len(fit(**how, trainer={"limit_train_batches": 3}).tokens) == STEPS * 3
