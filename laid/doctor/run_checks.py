"""What one run needs: its models, its data, space for its checkpoints."""

from collections.abc import Iterator
from pathlib import Path

import torch
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import GatedRepoError
from jsonargparse import Namespace
from safetensors import SafetensorError, safe_open

from laid.common.disk_space import free_bytes
from laid.common.errors import UserError, first_line
from laid.data.datamodule import HaystackDataModule
from laid.data.entries import shown_images
from laid.data.entry_source import EntrySource
from laid.doctor.findings import Finding, gib
from laid.minicoco.drawing import MINICOCO
from laid.settings.run_settings import RUNS
from laid.training.module import LaidModule
from laid.vlm.model_loading import ModelArgs, empty_model, load_config
from laid.vlm.model_paths import resolve_model
from laid.vlm.pair_check import check_teacher
from laid.vlm.processor import load_tokenizer
from laid.vlm.weight_files import local_weights, shard_names

_SECONDS = 20
_ADAM = 12
"""Bytes of a checkpoint a trained parameter: the weight and two moments, in float32."""


def run_findings(
    config: Namespace, module: LaidModule, data: HaystackDataModule
) -> Iterator[Finding]:
    """Whether a run's models and data can be had, from its settings; no weight is loaded."""
    yield from _devices(config)
    models = {"student": module.student_args}
    if module.teacher_args is not None:
        models["teacher"] = module.teacher_args
    states = {}
    for role, args in models.items():
        stored = role == "teacher" and module.chosen_teacher.from_cache
        found = _settings_only(args) if stored else _model(args)
        states[role] = found.state
        yield Finding(f"{role} {args.path}", found.state, found.found, found.advice)
    if "problem" not in states.values():
        yield from _pair(module)
        yield _checkpoints(config, module)
    yield from _data(data)


def _devices(config: Namespace) -> Iterator[Finding]:
    asked, there = config.trainer.devices, torch.cuda.device_count()
    accelerator = config.trainer.accelerator
    if accelerator in ("gpu", "cuda") and not there:
        advice = "use a machine with a GPU, or --trainer.accelerator cpu"
        yield Finding("devices", "problem", f"trainer.accelerator {accelerator}, no GPU", advice)
    elif there and isinstance(asked, int) and asked > there and accelerator != "cpu":
        advice = f"--trainer.devices {there}"
        yield Finding("devices", "problem", f"trainer.devices {asked}, {there} GPUs", advice)


def _model(args: ModelArgs) -> Finding:
    """Whether a model's configuration and weights can be had."""
    try:
        found = resolve_model(args.path)
        if Path(found).is_dir():
            load_config(args)
            if args.random_weights:
                return Finding("", "ok", "random weights of its configuration")
            names = shard_names(Path(found))
            for name in names:
                with safe_open(Path(found) / name, framework="pt"):
                    pass  # it compares the header with the length of the file
            size = sum((Path(found) / name).stat().st_size for name in names)
            return Finding("", "ok", f"in {args.path}, {gib(size)}")
        return _on_hub(args)
    except SafetensorError as reason:
        found = f"{name} is damaged or cut off ({reason})"
        return Finding("", "problem", found, "copy or download it again")
    except FileNotFoundError as reason:
        advice = "download the whole model, or name another folder"
        return Finding("", "problem", f"there is no {reason.filename}", advice)
    except (UserError, OSError) as reason:
        return Finding("", "problem", "can't be had", str(reason))


def _settings_only(args: ModelArgs) -> Finding:
    try:
        load_config(args)
    except UserError as reason:
        return Finding("", "problem", "its configuration can't be had", str(reason))
    return Finding("", "ok", "configuration there; its weights are not needed (a cache)")


def _on_hub(args: ModelArgs) -> Finding:
    if files := local_weights(args.path, args.revision):
        size = sum(file.stat().st_size for file in files)
        return Finding("", "ok", f"downloaded, {gib(size)}")
    try:
        info = HfApi().model_info(
            args.path, revision=args.revision, timeout=_SECONDS, files_metadata=True
        )
    except GatedRepoError as reason:
        return Finding("", "problem", "gated on the hub", f"hf auth login: {first_line(reason)}")
    except Exception as reason:  # whatever the network raises
        return Finding(
            "",
            "problem",
            "not downloaded, and the hub does not give it",
            f"download it on another machine, or give a folder ({first_line(reason)})",
        )
    on_hub = [one for one in info.siblings or [] if one.rfilename.endswith(".safetensors")]
    size = sum(one.size or 0 for one in on_hub)
    if not on_hub:
        return Finding("", "problem", "on the hub, without safetensors", "choose another model")
    load_config(args)
    free = free_bytes(Path(constants.HF_HUB_CACHE))
    if free < size:
        advice = "free space, or set HF_HOME to a larger disk"
        return Finding("", "problem", f"{gib(size)} to download, {gib(free)} free", advice)
    return Finding("", "note", f"on the hub, {gib(size)} to download")


def _pair(module: LaidModule) -> Iterator[Finding]:
    if module.teacher_args is None:
        return
    terms = module.objective_args.of_teacher
    try:
        check_teacher(module.student_args, module.teacher_args, load_tokenizer, terms)
    except UserError as reason:
        yield Finding("pair", "problem", "student and teacher do not fit", str(reason))
    else:
        yield Finding("pair", "ok", "student and teacher fit together")


def _checkpoints(config: Namespace, module: LaidModule) -> Finding:
    trained = [p.numel() for p in empty_model(module.student_args).parameters() if p.requires_grad]
    if module.lora_args is not None:
        return Finding("a checkpoint", "ok", "LoRA's matrices alone")
    size = _ADAM * sum(trained)
    free = free_bytes(Path(config.trainer.default_root_dir or RUNS))
    # A new one is written before the old is removed.
    if free < 2 * size:
        advice = "free space, or --trainer.default_root_dir on a larger disk"
        found = f"some {gib(size)}, {gib(free)} free; two are there while one is replaced"
        return Finding("a checkpoint", "problem", found, advice)
    return Finding("a checkpoint", "ok", f"some {gib(size)} (estimated), {gib(free)} free")


def _data(data: HaystackDataModule) -> Iterator[Finding]:
    if data.coco_root == MINICOCO:
        yield Finding("images", "ok", "minicoco, drawn on first use")
        typed = data.train_args.source, data.train_args.mixture
        if not any((*typed, data.validate_args.source, data.test_args.source)):
            return
    built = data.needles, data.min_area, data.seed
    source = EntrySource(data.coco_root, *built, image_root=data.image_root)
    parts = {
        "training data": lambda: source.mixed(data.train_args)[0],
        "validation data": lambda: source.evaluation("validate", data.validate_args)[0],
        "test data": lambda: source.evaluation("test", data.test_args)[0],
    }
    for name, load in parts.items():
        try:
            entries = load()
        except UserError as reason:
            yield Finding(name, "problem", "can't be had", str(reason))
        else:
            found = f"{len(entries)} entries on {len(shown_images(entries))} images"
            yield Finding(name, "ok", found)
