"""The models of ``--models NAME=WHAT``: a model's path, or a checkpoint of a run."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from laid.checkpoints.module_state import check_fits, part_of, refuse_not_finite, without_frozen
from laid.checkpoints.runs import SUFFIX, Found, find_checkpoint
from laid.checkpoints.sharded_checkpoints import WEIGHTS, read_whole
from laid.common.errors import UserError
from laid.losses.head_mixing import HeadMixing, MixingArgs
from laid.vlm.lora import LoraArgs, check_base
from laid.vlm.model_loading import ModelArgs, load_config
from laid.vlm.rope_gain import RopeGainArgs
from laid.vlm.vision_language_model import VLM

log = logging.getLogger(__name__)

Dtype = Literal["float32", "bfloat16", "float16"]
_STUDENT = "student."
_ALIGNMENT = "objective.terms.laid."


@dataclass(frozen=True)
class NamedModel:
    """A model and what it is called; ``found`` is the checkpoint that its weights are in, None for
    those of ``args.path``."""

    name: str
    what: str
    args: ModelArgs
    found: Found | None

    def load(self, device: torch.device) -> VLM:
        """The model, frozen.

        Raises:
            UserError: its weights can't be read, are not finite, or don't fit.
        """
        if self.found is None:
            vlm = VLM.load(self.args)
        else:
            lora, gain = (self.found.config["model"].get(key) for key in ("lora", "rope_gain"))
            lora_args = None if lora is None else LoraArgs(**lora)
            gain_args = None if gain is None else RopeGainArgs(**gain)
            # A checkpoint of adapters has no other weights.
            vlm = VLM.load(self.args, lora_args, weights=lora is not None, gain=gain_args)
            content = read_whole(self.found.path, with_optimizer=False)
            state = part_of(content[WEIGHTS], _STUDENT)
            ours = vlm.state_dict()
            check_fits(ours if lora is None else without_frozen(vlm, ours), state)
            check_base(vlm.base, content.get("base"))
            vlm.load_state_dict(state, strict=lora is None)
        refuse_not_finite(dict(vlm.named_parameters()), f"the model {self.name}")
        return vlm.requires_grad_(False).eval().to(device)

    def mixings(self) -> dict[tuple[int, int], HeadMixing]:
        """How the run's alignment term mixes the teacher's queries, by (student layer, teacher
        layer); empty where there is no such term."""
        if self.found is None:
            return {}
        content = read_whole(self.found.path, with_optimizer=False)
        state = part_of(content[WEIGHTS], _ALIGNMENT)
        if not state:
            return {}
        # Where a run leaves a part of its settings out, it has the default.
        objective = self.found.config["model"].get("objective") or {}
        args = MixingArgs(**(objective.get("laid") or {}).get("mixing") or {})
        found = {}
        for number, (s, t) in enumerate(state["layers"].tolist()):
            raw = state[f"q.{number}.raw"]
            # Complex weights have two more dimensions, the last of them of size 2.
            head_dim = 2 * raw.shape[2] if raw.dim() > 2 else 0
            found[s, t] = HeadMixing(raw.shape[0], raw.shape[1], head_dim, args)
            found[s, t].load_state_dict({"raw": raw})
        return found

    @property
    def teacher(self) -> ModelArgs | None:
        """The teacher that a run names; none where it has none, or takes that of its cache."""
        assert self.found is not None
        named = self.found.config["model"].get("teacher")
        return None if named is None else ModelArgs(**named)


def named_models(words: Sequence[str], dtype: Dtype | None) -> list[NamedModel]:
    """The models that ``--models`` names, in order.

    Args:
        dtype: of the weights; None: as a run has it, float32 for a model's path.

    Raises:
        UserError: a word that is not NAME=WHAT, a name given twice, or no such model.
    """
    models: list[NamedModel] = []
    for word in words:
        name, equals, what = word.partition("=")
        if not (name and equals and what):
            raise UserError(f"--models {word!r}: expected NAME=WHAT, such as base=tiny/student")
        if name in [model.name for model in models]:
            raise UserError(f"--models names two models {name}: give each a name of its own")
        try:
            models.append(_named(name, str(Path(what).expanduser()), dtype))
        except UserError as error:
            raise UserError(f"--models {word}: {error}") from error
    return models


def models_of_run(given: str, dtype: Dtype | None) -> list[NamedModel]:
    """Of a checkpoint's run: base, the student before training; student, after it; and the teacher,
    if the run names one.

    Args:
        given: as ``--ckpt_path``: a checkpoint, a run's folder, or last.
        dtype: as in ``named_models``.

    Raises:
        UserError: no such checkpoint.
    """
    found = find_checkpoint(given, Path("runs"))
    args = ModelArgs(**found.config["model"]["student"])
    student = NamedModel("student", given, args, found)
    models = [NamedModel("base", args.path, args, None), student]
    if (teacher := student.teacher) is not None:
        models.append(NamedModel("teacher", teacher.path, teacher, None))
    return [replace(of, args=_held_as(of.args, dtype)) for of in models]


def _named(name: str, what: str, dtype: Dtype | None) -> NamedModel:
    path = Path(what)
    is_folder = path.is_dir() and path.suffix != SUFFIX
    if is_folder and (path / "config.json").is_file():
        found = None
    elif what == "last" or path.exists() or path.suffix == SUFFIX:
        try:
            found = find_checkpoint(what, Path("runs"))
        except UserError as error:
            if not is_folder:
                raise
            reason = str(error).removeprefix(f"--ckpt_path {what}: ")
            raise UserError(f"it is no model (there is no config.json), and {reason}") from error
    else:
        found = None
    args = ModelArgs(what) if found is None else ModelArgs(**found.config["model"]["student"])
    load_config(args)
    return NamedModel(name, what, _held_as(args, dtype), found)


def _held_as(args: ModelArgs, dtype: Dtype | None) -> ModelArgs:
    return replace(args, dtype=dtype or args.dtype)
