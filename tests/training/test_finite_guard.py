"""Training stops at the first number that is not finite, and keeps the checkpoints before it."""

import pytest
import seeded
import torch
from command_line.commands import Running

from laid.checkpoints.runs import find_checkpoint
from laid.common.errors import UserError
from laid.training.finite_guard import check_finite


def test_finite_numbers_pass_and_others_are_named_with_step_and_haystacks():
    check_finite({"train/loss": torch.tensor(1e38), "grad_norm/student": torch.tensor(3e38)}, 1, [])
    values = {"train/loss": torch.tensor(1.0), "grad_norm/student": torch.tensor(float("inf"))}
    with pytest.raises(UserError, match=r"step 7: grad_norm/student inf;.* a-0, .* and 2 more"):
        check_finite(values, 7, [f"a-{i}" for i in range(10)])


def test_a_learning_rate_that_is_too_high_stops_the_run_and_keeps_good_weights(
    server, tmp_path, drawn
):
    words = [
        "fit", *seeded.variants()["tiny"], "--data.coco_root", drawn,
        "--model.optimizer.student_lr", 1e30, "--model.optimizer.warmup_ratio", 0.9,
        "--checkpoint.every_n_train_steps", 1, "--checkpoint.save_top_k", -1,
        "--trainer.gradient_clip_val", "null",
    ]  # fmt: skip
    done = Running(server, words, tmp_path / "logs", tmp_path).wait()
    assert done.code == 2, str(done)
    assert "expected finite numbers" in done.err
    assert "train-" in done.err
    found = find_checkpoint(str(tmp_path / "runs" / "tiny"), tmp_path / "runs")
    state = torch.load(found.path, weights_only=True)["state_dict"]
    assert all(value.isfinite().all() for value in state.values())
