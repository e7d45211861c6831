"""Weights of every family: read whole and sharded, written, and read by plain transformers."""

import shutil

import torch
from PIL import Image
from safetensors.torch import save_file
from tiny_families import CASES

from laid.distributed.sharded_tensors import full_tensor
from laid.signals.model_signals import Wanted
from laid.training.placement import Placement
from laid.vlm.hf_folder import write_model, write_processor
from laid.vlm.model_loading import ModelArgs, empty_model, load_model, materialise
from laid.vlm.processor import ProcessorArgs, load_processor
from laid.vlm.weight_files import all_rows

EVERYTHING = Wanted(layers=(0, 1), logits=True)


def test_weights_read_row_by_row_are_those_of_from_pretrained(models):
    args = ModelArgs(str(models[0]))
    ours, stock = empty_model(args), load_model(args)
    materialise(ours, args, "cpu", all_rows)
    for (name, one), other in zip(ours.named_parameters(), stock.parameters(), strict=True):
        assert torch.equal(one, other), name
    for (name, one), other in zip(ours.named_buffers(), stock.buffers(), strict=True):
        assert torch.equal(one, other), name


def test_names_in_files_are_the_models_or_the_hubs(vlm, family):
    for name, _ in vlm.hf.named_parameters():
        assert family.parameter_name(name) == name
        assert family.parameter_name(CASES[family].hub_name(name)) == name


@torch.no_grad()
def test_an_exported_model_is_one_of_plain_transformers(vlm, models, family, batch, tmp_path):
    args = ModelArgs(str(models[0]))
    write_model(tmp_path, args, vlm.hf.state_dict(), dtype=None)
    write_processor(tmp_path, load_processor(ProcessorArgs(args.path)))
    again = family.model_class.from_pretrained(tmp_path)
    inputs = batch()
    arguments = {**vlm.family.arguments(inputs), "pixel_values": inputs.pixel_values_PC}
    assert torch.equal(again(**arguments).logits, vlm.hf(**arguments).logits)
    back = load_processor(ProcessorArgs(str(tmp_path)))
    picture = [Image.new("RGB", (200, 130), "olive")]
    pixels, _ = back.pieces(picture)
    assert torch.equal(pixels, load_processor(ProcessorArgs(args.path)).pieces(picture)[0])


def built(mesh, args, inputs):
    """What a rank has: parameters, logits, an answer."""
    vlm = Placement(mesh).student(args)
    found = {name: full_tensor(p.detach()) for name, p in vlm.hf.named_parameters()}
    with torch.no_grad():
        logits_NV = vlm.signals(inputs, EVERYTHING).logits_NV
    return found, logits_NV, vlm.answer(inputs, 3)


def test_a_model_that_is_built_sharded_is_the_one_of_one_process(on_ranks, models, batch):
    args, inputs = ModelArgs(str(models[0])), batch(rows=range(2))
    parameters, logits_NV, answer = built(None, args, inputs)
    for found, logits, said in on_ranks(2, built, args, inputs):
        assert found.keys() == parameters.keys()
        assert all(torch.equal(found[name], parameters[name]) for name in found)
        assert torch.equal(logits, logits_NV)
        assert torch.equal(said, answer)


def test_files_with_the_hubs_names_are_read_alike_row_by_row_and_by_transformers(
    vlm, models, family, tmp_path
):
    shutil.copytree(models[0], tmp_path, dirs_exist_ok=True)
    expected = dict(vlm.hf.named_parameters())
    stored = {CASES[family].hub_name(name): x.detach().clone() for name, x in expected.items()}
    save_file(stored, tmp_path / "model.safetensors", {"format": "pt"})
    args = ModelArgs(str(tmp_path))
    ours = empty_model(args)
    materialise(ours, args, "cpu", all_rows)
    for read in (ours, load_model(args)):
        for name, parameter in read.named_parameters():
            assert torch.equal(parameter, expected[name]), name
