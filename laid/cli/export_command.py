"""``laid export``: a checkpoint as a plain Hugging Face folder."""

import logging
import os
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError

from laid.checkpoints.module_state import part_of
from laid.checkpoints.runs import Found, find_checkpoint
from laid.checkpoints.sharded_checkpoints import WEIGHTS, read_whole
from laid.common.atomic_files import atomic_dir, only_writer
from laid.common.disk_space import not_written
from laid.common.errors import UserError
from laid.sharing.export_card import write_card
from laid.sharing.hub_push import check_repo, push
from laid.vlm.export_marker import check_replaceable, exported_files, mark_export
from laid.vlm.hf_folder import write_model, write_processor
from laid.vlm.lora import LoraArgs, base_of, check_base, merged
from laid.vlm.model_loading import ModelArgs
from laid.vlm.processor import ProcessorArgs, load_processor
from laid.vlm.rope_gain import RopeGainArgs, folded
from laid.vlm.weight_files import is_gain

log = logging.getLogger(__name__)

STUDENT = "student.hf."
"""Prefix of the student's parameters in a checkpoint."""


def export(
    ckpt_path: str | None = None,
    out: str = "export",
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
    overwrite: bool = False,
    push_to: str | None = None,
    private: bool = True,
    dry_run: bool = False,
) -> None:
    """Write a checkpoint's student as a plain Hugging Face folder.

    transformers 5 loads it, and 4.57 Qwen2.5-VL's, with tokenizer and processor; adapters (LoRA)
    are merged into the weights, and RoPE response gains folded into them. A model card (README.md)
    says how it was trained, and has the results of this checkpoint if it was tested. The folder
    appears whole or not at all.

    Args:
        ckpt_path: A checkpoint, a run's folder (for its newest checkpoint), or last. None: with
            push_to, the export that is in the folder already.
        out: Folder to write.
        dtype: The weights' dtype. None: as they were trained.
        overwrite: Replace the folder if it exists and is an export of laid.
        push_to: Repository on the Hugging Face hub, USER/NAME, to upload the folder to.
        private: Whether a repository that is made there is private.
        dry_run: List what would be uploaded, and send nothing.

    Raises:
        UserError: there is no such checkpoint, it is damaged, the folder exists and is not to
            be replaced or can't be written, or it is no whole export and is not pushed.
    """
    if push_to is not None:
        check_repo(push_to)
    elif ckpt_path is None:
        raise UserError("nothing to do: give --ckpt_path, --push_to, or both")
    elif dry_run:
        raise UserError("--dry_run lists what --push_to would upload: give that too")
    if ckpt_path is None:
        if dtype is not None or overwrite:
            raise UserError("--dtype and --overwrite are of an export from --ckpt_path: give that")
    else:
        _export(ckpt_path, out, dtype, overwrite)
    if push_to is not None:
        folder = Path(out)
        push(folder, exported_files(folder), push_to, "model", private, dry_run)


def _export(ckpt_path: str, out: str, dtype: str | None, overwrite: bool) -> None:
    target = Path(os.path.realpath(out))

    def replaces(there: Path) -> bool:
        if not overwrite:
            raise UserError(f"--out {out} exists: name another folder, or add --overwrite true")
        check_replaceable(there, protected)
        return True

    protected = [Path.cwd()]
    if os.path.lexists(target):
        replaces(target)
    found = find_checkpoint(ckpt_path, Path("runs"))
    models = [found.config["model"]["student"], found.config["model"].get("teacher") or {}]
    protected += [found.path, found.run, *(Path(m["path"]) for m in models if "path" in m)]
    if target.exists():
        replaces(target)
    with only_writer(target), atomic_dir(target, replaces) as folder:
        try:
            write_card(folder, found, *_write(folder, found, dtype))
        except SafetensorError as reason:
            raise not_written(target, reason, target) from None
        mark_export(folder, str(found.path))
    log.info("%s -> %s", found.path, out)


def _write(folder: Path, found: Found, dtype: str | None) -> tuple[str, str]:
    model = found.config["model"]
    args = ModelArgs(**model["student"])
    data = found.config["data"]
    processor = load_processor(
        ProcessorArgs(args.path, args.revision, data["min_pixels"], data["max_pixels"]),
    )
    content = read_whole(found.path, with_optimizer=False)
    state, written = part_of(content[WEIGHTS], STUDENT), dtype
    gain = model.get("rope_gain")
    logs = {name: state.pop(name) for name in list(state) if gain is not None and is_gain(name)}
    if (lora := model.get("lora")) is not None:
        check_base(base_of(args), content["base"])
        state = merged(args, LoraArgs(**lora), state)
        written = dtype or args.dtype
    if gain is not None:
        state = folded(args, RopeGainArgs(**gain), state, logs)
        written = dtype or args.dtype
    write_processor(folder, processor)
    return write_model(folder, args, state, getattr(torch, written) if written else None)
