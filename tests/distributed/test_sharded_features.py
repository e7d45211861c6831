"""Features of images on disk: those of a sharded vision tower."""

import os

import torch

from laid.data.datamodule import HaystackDataModule
from laid.data.entry_args import EvaluationArgs, TrainArgs
from laid.training.image_learning import images_of, learn_images
from laid.training.placement import Placement
from laid.vlm.model_loading import ModelArgs


def learned(mesh, path, data):
    """In the three ways in which a student can multiply."""
    data.setup("fit")
    places = Placement(), Placement(mesh), Placement(mesh, torch.bfloat16)
    found = []
    for place in places:
        vlm = place.student(ModelArgs(path))
        learn_images([vlm], data, "fit")
        name = images_of(data, "fit")[0]
        found.append((len(os.listdir(data.cache_features)), vlm.features.of([name])[0].tokens_VE))
    return [(count, tokens_VE.clone()) for count, tokens_VE in found]


def test_those_in_bfloat16_are_not_taken_for_those_in_float32(on_ranks, drawn, pair, tmp_path):
    """The weights are the same, and sharded ones in float32 have the features of whole ones."""
    data = HaystackDataModule(
        str(drawn),
        str(pair[0]),
        train=TrainArgs(entries=4),
        validate=EvaluationArgs(sizes=[2], per_size=2),
        global_batch_size=2,
        workers=0,
        cache_features=str(tmp_path / "features"),
    )
    ((whole, sharded, mixed),) = on_ranks(1, learned, str(pair[0]), data)
    assert [count for count, _ in (whole, sharded, mixed)] == [1, 1, 2]
    assert torch.equal(whole[1], sharded[1])
    assert mixed[1].dtype == torch.bfloat16
