"""Features of images on disk: those of the pixels, made once, and made again where torn."""

import os
import shutil

import lightning as L
import pytest
import torch
from command_line.faults import DIED, inject
from PIL import Image

from laid.common.errors import UserError
from laid.data.datamodule import HaystackDataModule
from laid.data.entry_args import EvaluationArgs, TrainArgs
from laid.data.prompt import Collate
from laid.signals.model_signals import Wanted
from laid.training.image_learning import images_of, learn_images
from laid.vlm.families.vision_features import VisionFeatures
from laid.vlm.model_loading import ModelArgs
from laid.vlm.stored_features import StoredFeatures, feature_item
from laid.vlm.vision_language_model import VLM

WANTED = Wanted(layers=(0, 1), logits=True)
FULL = 28


@pytest.fixture
def images(drawn, tmp_path):
    """Images that a test may change."""
    return shutil.copytree(drawn, tmp_path / "coco")


@pytest.fixture
def data_of(images, pair):
    """A function of the settings: data of six haystacks, ready to train."""

    def make(**settings):
        data = HaystackDataModule(
            str(images),
            str(pair[0]),
            train=TrainArgs(entries=6, min_size=2, max_size=3),
            validate=EvaluationArgs(sizes=[2], per_size=2),
            global_batch_size=2,
            workers=0,
            **settings,
        )
        data.setup("fit")
        return data

    return make


def batch(data):
    """All training entries as the models get them."""
    samples = data._dataset(data.train_entries, with_answer=True)
    return Collate(data.encoder.pad_id, "right")([samples[at] for at in range(6)]).inputs


def looks(vlm):
    """Grows by one with each call of the vision tower."""
    calls = []
    vlm.family.vision_parts(vlm.hf)[0].register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_a_model_says_the_same_of_them_as_of_the_pixels(data_of, student, tmp_path):
    """To the last bit, as do features in memory."""
    said = []
    for kept in (False, True, str(tmp_path / "features"), str(tmp_path / "features")):
        data = data_of(cache_features=kept)
        learn_images([student], data, "fit")
        inputs = batch(data)
        assert len(inputs.pixel_values_PC) == 0 or kept is False
        said.append(student.signals(inputs, WANTED))
    for one in said[1:]:
        assert torch.equal(one.logits_NV, said[0].logits_NV)
        assert torch.equal(one.qk[1].k, said[0].qk[1].k)


def test_each_image_is_seen_once_whatever_runs_and_stages_there_are(
    data_of, student, teacher, tmp_path, pair
):
    """Each vision tower has its own; other weights are another tower."""
    folder = str(tmp_path / "features")
    data, calls = data_of(cache_features=folder), (looks(student), looks(teacher))
    learn_images([student, teacher], data, "fit")
    seen = [len(of) for of in calls]
    assert min(seen) > 0
    for model in (student, teacher):
        learn_images([model], data_of(cache_features=folder), "fit")
        learn_images([model], data_of(cache_features=folder), "validate")
    assert [len(of) for of in calls] == seen
    assert len(os.listdir(folder)) == 2
    changed = VLM.load(ModelArgs(str(pair[0])))
    with torch.no_grad():
        next(changed.family.vision_parts(changed.hf)[0].parameters()).mul_(2)
    learn_images([changed], data, "fit")
    assert len(os.listdir(folder)) == 3
    learn_images([student], data_of(cache_features=folder, max_pixels=28 * 28), "fit")
    assert len(os.listdir(folder)) == 4


@pytest.mark.parametrize("workers", [0, 1])
def test_data_workers_read_ahead_of_the_process_that_trains(
    data_of, student, tmp_path, monkeypatch, workers
):
    data = data_of(cache_features=str(tmp_path / "features"))
    monkeypatch.setattr(data, "workers", workers)
    learn_images([student], data, "fit")
    (of_features,), asked = data.ahead, tmp_path / "asked"

    def noted(entry, images):
        of_features(entry, images)
        with open(asked, "a") as file:
            file.write(f"{entry}\n")

    data.ahead[:] = [noted]
    entries = [entry.id for batch in data.train_dataloader() for entry in batch.entries]
    assert (asked.read_text().split() if workers else []) == entries * workers
    assert asked.exists() == bool(workers)


def test_an_image_that_has_changed_is_seen_again_and_no_other(data_of, images, student, tmp_path):
    folder = tmp_path / "features"
    data = data_of(cache_features=str(folder))
    learn_images([student], data, "fit")
    (key,) = folder.iterdir()
    before = set(key.iterdir())
    name, other = images_of(data, "fit")[:2]
    (of_name,) = student.features.of([name])
    shutil.copy(images / other, images / name)
    fresh = data_of(cache_features=str(folder))
    learn_images([student], fresh, "fit")
    assert set(key.iterdir()) == before  # what it shows now is known under its other name
    found = student.features.of([name, other])
    assert torch.equal(found[0].tokens_VE, found[1].tokens_VE)
    assert not torch.equal(found[0].tokens_VE, of_name.tokens_VE)


def test_what_is_torn_is_made_again(data_of, student, tmp_path):
    folder = tmp_path / "features"
    data = data_of(cache_features=str(folder))
    learn_images([student], data, "fit")
    names = images_of(data, "fit")
    before = [one.clone() for one in student.features.of(names)]  # not as the file is mapped
    (shard,) = folder.glob("*/*")
    (shard / "tensors.safetensors").write_bytes((shard / "tensors.safetensors").read_bytes()[:-9])
    learn_images([student], data_of(cache_features=str(folder)), "fit")
    for one, other in zip(student.features.of(names), before, strict=True):
        assert torch.equal(one.tokens_VE, other.tokens_VE)


def test_what_is_more_than_allowed_is_refused_before_it_is_made(data_of, student, tmp_path):
    data = data_of(cache_features=str(tmp_path / "features"), feature_gib=1e-6)
    with pytest.raises(UserError, match=r"would take .* GiB, more than data\.feature_gib 1e-06"):
        learn_images([student], data, "fit")
    assert not list((tmp_path / "features").glob("*/*"))
    (tmp_path / "file").touch()
    for name in ("", str(tmp_path / "file")):
        with pytest.raises(UserError, match="expected true, false or a folder"):
            learn_images([student], data_of(cache_features=name), "fit")
    student.requires_grad_(True)
    with pytest.raises(UserError, match="a vision tower that is trained"):
        learn_images([student], data, "fit")


def test_what_images_of_many_sizes_take_is_known_before(data_of, images, student, tmp_path):
    """The first ones are small and all others larger."""
    for name in images_of(data_of(), "fit")[8:]:
        with Image.open(images / name) as image:
            image.resize((140, 112)).save(images / name)
    learn_images([student], data_of(cache_features=str(tmp_path / "made")), "fit")
    takes = sum(path.stat().st_size for path in (tmp_path / "made").glob("*/*/tensors.*")) / 2**30
    refused = data_of(cache_features=str(tmp_path / "refused"), feature_gib=0.8 * takes)
    with pytest.raises(UserError, match=r"more than data\.feature_gib"):
        learn_images([student], refused, "fit")
    learn_images([student], data_of(cache_features=str(tmp_path / "b"), feature_gib=takes), "fit")


@pytest.mark.parametrize(("error", "code"), [(None, DIED), ("ENOSPC", FULL)])
def test_a_run_that_dies_or_meets_a_full_disk_leaves_nothing_half_made(
    data_of, student, tmp_path, error, code
):
    """The next run makes what is missing; its features are those of an undisturbed one."""
    log, whole = tmp_path / "operations", data_of(cache_features=str(tmp_path / "whole"))
    learn_images([student], whole, "fit")
    names = images_of(whole, "fit")
    before = student.features.of(names)
    ended, at = code, 0
    while ended == code:
        folder = tmp_path / str(at)
        folder.mkdir()
        data = data_of(cache_features=str(folder))
        ended = in_child(student, data, folder, log, at, error)
        learn_images([student], data, "fit")
        for one, other in zip(student.features.of(names), before, strict=True):
            assert torch.equal(one.tokens_VE, other.tokens_VE)
        assert not list(folder.glob("*/.*"))
        at += 3
    assert ended == 0
    assert at > 3


def in_child(student, data, folder, log, at, error):
    """Makes features in a process of its own, with a fault at an operation; gives its exit code."""
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 1
    try:
        inject(str(folder), str(log), at, error)
        learn_images([student], data, "fit")
        code = 0
    except OSError as reason:
        code = reason.errno
    finally:
        os._exit(code)


def test_several_tensors_of_an_image_come_back(tmp_path):
    """As DeepStack has them."""
    made = StoredFeatures(tmp_path, "key", torch.device("cpu"))
    tensors = torch.randn(3, 4, 8)
    one = VisionFeatures(tensors[0], (tensors[1], tensors[2]))
    made.write([feature_item("a", one, torch.tensor([1, 4, 4]))])
    made.find(remove_damaged=False)
    assert made.lacks(["a", "b"]) == {"b"}
    assert made.show({"a.jpg": "a"})["a.jpg"].tolist() == [1, 4, 4]
    (found,) = made.of(["a.jpg"])
    assert torch.equal(found.tokens_VE, tensors[0])
    assert torch.equal(torch.stack(found.more_VE), tensors[1:])


def test_in_mixed_precision_they_are_those_of_a_step_and_others_than_in_float32(
    data_of, student, tmp_path
):
    """A step multiplies in bfloat16 then, and so do the features, in memory and on disk."""
    trainer = L.Trainer(
        accelerator="cpu", precision="bf16-mixed", logger=False, enable_checkpointing=False
    )
    folder = str(tmp_path / "features")
    learn_images([student], data_of(cache_features=folder), "fit")
    said = []
    for kept in (False, True, folder):
        data = data_of(cache_features=kept)
        data.trainer = trainer
        learn_images([student], data, "fit")
        with trainer.precision_plugin.forward_context():
            said.append(student.signals(batch(data), WANTED).logits_NV)
    assert all(torch.equal(one, said[0]) for one in said[1:])
    assert len(os.listdir(folder)) == 2
