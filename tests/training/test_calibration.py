"""What a run finds out before its first step: layer pairs, and where mixing weights begin."""

import pytest
import torch

from laid.data.datamodule import HaystackDataModule
from laid.data.entry_args import TrainArgs
from laid.losses.alignment import AlignmentArgs, layer_pairs
from laid.losses.head_mixing import MixingArgs, MixingWeights
from laid.miniature.decoder_training import grow
from laid.training.calibration import calibrate
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


def calibrated(base, teacher, data, **changes):
    args = ObjectiveArgs(laid=0, attn=1, alignment=AlignmentArgs(layers="matched"))
    args = ObjectiveArgs(**{**vars(args), **changes})
    pairs = layer_pairs(args.alignment, 3, 4)
    mixing = MixingWeights(
        pairs, (4, 2), (4, 2), 32, MixingArgs(calibration=4), rows=True, calibrated=True
    )
    objective = Objective(args, pairs, 700, base.turn)
    calibrate(mixing, objective, base, teacher, data, CPU)
    return mixing, objective


def test_matched_finds_the_layers_and_heads_that_are_the_same(base, grown, data):
    mixing, objective = calibrated(base, grown, data)
    student, teacher = base.hf.model.language_model, grown.vlm.hf.model.language_model
    for s, t in objective.pairs:
        assert torch.equal(
            student.layers[s].self_attn.q_proj.weight, teacher.layers[t].self_attn.q_proj.weight
        )
    for rows in mixing.rows:
        w_ST = rows.weights()
        torch.testing.assert_close(w_ST.sum(1), torch.ones(4))
        assert w_ST.argmax(1).tolist() == [0, 1, 2, 3]


def test_it_is_done_once(base, grown, data):
    """A run that is taken up again has the pairs and weights of its checkpoint."""
    mixing, objective = calibrated(base, grown, data)
    resumed = MixingWeights(
        [(0, 0), (1, 1), (2, 2)], (4, 2), (4, 2), 32, MixingArgs(), rows=True, calibrated=True
    )
    resumed.load_state_dict(mixing.state_dict())
    with torch.no_grad():
        resumed.rows[0].raw.zero_()
    again = Objective(objective.args, [(0, 0), (1, 1), (2, 2)], 700, objective.rotary)
    calibrate(resumed, again, base, grown, None, CPU)
    assert again.pairs == objective.pairs
    assert (resumed.rows[0].raw == 0).all()


def test_named_layers_stay(base, grown, data):
    _, objective = calibrated(base, grown, data, alignment=AlignmentArgs(layers="final"))
    assert objective.pairs == [(2, 3)]
