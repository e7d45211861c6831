"""The example of docs/extending.md: one file and one line make a term."""

import re
import shutil
from pathlib import Path

import pytest
import seeded
import torch
from command_line.commands import Running

import laid
from laid.checkpoints.runs import find_checkpoint

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
IMPORT = "from laid.losses.reverse_divergence import ReverseDivergenceArgs\n"


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy of the package with the page's file and line in it."""
    root = tmp_path_factory.mktemp("extended")
    home = root / "laid"
    shutil.copytree(Path(laid.__file__).parent, home, ignore=shutil.ignore_patterns("__pycache__"))
    file, line = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)[:2]
    (home / "losses" / "reverse_divergence.py").write_text(file)
    objective = home / "training" / "objective.py"
    text = objective.read_text()
    last = max(text.rfind(f"= field(default_factory={name})") for name in ("CrossEntropyArgs",))
    end = text.index("\n", last) + 1
    text = text[:end] + line + text[end:]
    objective.write_text(
        text.replace("from laid.losses.retrieval", f"{IMPORT}from laid.losses.retrieval")
    )
    return root


def test_the_example_trains_by_the_command_line(server, extended, drawn):
    words = [*seeded.variants()["kd_tiny"], "--data.coco_root", drawn, "--name", "reverse"]
    words += ["--model.objective.reverse_kl.weight", 0.5]
    done = Running(server, ["fit", *words], extended / "logs", extended, own_laid=True).wait()
    assert done.code == 0, str(done)
    logged = seeded.scalars(extended / "runs" / "reverse")
    for loss, *terms in zip(
        logged["train/loss"],
        logged["train/kl"],
        logged["train/sft"],
        logged["train/reverse_kl_weighted"],
        strict=True,
    ):
        assert loss == pytest.approx(sum(terms), rel=1e-5)
    assert min(logged["train/reverse_kl"]) > 0
    found = find_checkpoint(str(extended / "runs" / "reverse"), extended / "runs")
    state = torch.load(found.path, weights_only=True)["state_dict"]
    assert any(key.startswith("objective.terms.reverse_kl.") for key in state)
