"""What terms find out before the first step: layer pairs."""

import pytest
import torch

from laid.data.datamodule import HaystackDataModule
from laid.data.entry_args import TrainArgs
from laid.losses.alignment import AlignmentArgs
from laid.losses.divergence import DivergenceArgs
from laid.losses.term import ModelPair
from laid.miniature.decoder_training import grow
from laid.signals.model_signals import AttentionShape
from laid.training.objective import Objective, ObjectiveArgs
from laid.vlm.model_loading import ModelArgs
from laid.vlm.online_teacher import OnlineTeacher
from laid.vlm.vision_language_model import VLM

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(drawn):
    module = HaystackDataModule(
        coco_root=str(drawn), train=TrainArgs(entries=8, max_size=4), prefix=""
    )
    module.setup("fit")
    return module


@pytest.fixture(scope="module")
def base():
    return VLM.load(ModelArgs("tiny/student"))


@pytest.fixture(scope="module")
def grown(base):
    """The student with one more layer that adds nothing."""
    config = VLM.load(ModelArgs("tiny/teacher")).hf.config
    model = VLM.load(ModelArgs("tiny/teacher", random_weights=True))
    model.hf.load_state_dict(grow(base.hf, config, seed=0).state_dict())
    return OnlineTeacher(model)


def objective_of(base, layers="matched"):
    args = ObjectiveArgs(
        laid=AlignmentArgs(weight=1, layers=layers, calibration=4),
        kl=DivergenceArgs(weight=0),
    )
    teacher = AttentionShape(layers=4, heads=4, kv_heads=2, head_dim=32)
    return Objective(args, ModelPair(base.shape, teacher, 700, base.rotate, base.rotate))


def calibrated(base, teacher, data, layers="matched"):
    objective = objective_of(base, layers)
    objective.calibrate(base.signals, teacher.signals, data, CPU)
    return objective.terms["laid"]


def test_matched_finds_the_layers_that_are_the_same(base, grown, data):
    term = calibrated(base, grown, data)
    student, teacher = base.hf.model.language_model, grown.vlm.hf.model.language_model
    for s, t in term.pairs:
        assert torch.equal(
            student.layers[s].self_attn.q_proj.weight, teacher.layers[t].self_attn.q_proj.weight
        )


def test_it_is_done_once(base, grown, data):
    """A resumed run has the pairs and weights of its checkpoint."""
    term = calibrated(base, grown, data)
    resumed = objective_of(base)
    resumed.terms["laid"].load_state_dict(term.state_dict())
    again = resumed.terms["laid"]
    with torch.no_grad():
        again.q[0].raw.zero_()
    again.pairs = [(0, 0), (1, 1), (2, 2)]
    resumed.calibrate(base.signals, grown.signals, None, CPU)
    resumed.restored()
    assert again.pairs == term.pairs
    assert (again.q[0].raw == 0).all()


def test_named_layers_stay(base, grown, data):
    assert calibrated(base, grown, data, "final").pairs == [(2, 3)]
