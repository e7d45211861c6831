"""The haystacks that several models are shown, and how they are encoded for all of them."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from laid.common.errors import UserError, first_line
from laid.data.datamodule import HaystackDataModule
from laid.data.entry_args import EvaluationArgs
from laid.data.prompt import PREFIX, Batch
from laid.inspection.named_models import NamedModel
from laid.vlm.model_loading import ModelArgs

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShownHaystacks:
    """What all models are shown; each encodes it by its own tokenizer and image processor."""

    coco_root: str
    entries: EvaluationArgs
    seed: int
    encoding: dict[str, Any]
    device: torch.device
    image_root: str | None = None
    """Folder of the images that conversations name; None: that of each file."""

    def batches(self, args: ModelArgs) -> Iterator[Batch]:
        """One haystack each, of the entries that have images.

        Raises:
            UserError: none has.
        """
        data = HaystackDataModule(
            coco_root=self.coco_root,
            processor=args.path,
            revision=args.revision,
            test=self.entries,
            seed=self.seed,
            image_root=self.image_root,
            **self.encoding,
        )
        data.setup("test")
        entries = data.test_entries
        with_images = [at for at, size in enumerate(entries["size"]) if size]
        if not with_images:
            raise UserError(
                f"none of the {len(entries):,} entries of {', '.join(self.entries.source or [])} "
                "has an image; expected some with images, which the question comes after"
            )
        if without := len(entries) - len(with_images):
            log.info("left out: %d of %d entries, which have no image", without, len(entries))
        yield from data.probe(entries.select(with_images), self.device)


def encoding_of(
    models: Sequence[NamedModel], typed: dict[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Prefix and pixel limits, the same for all models: as typed, else as the runs have them. Notes
    name the runs that were trained with others.

    Raises:
        UserError: the runs differ in one that was not typed.
    """
    runs = {m.name: m.found.config["data"] for m in models if m.found is not None}
    chosen, notes = {}, []
    for key, value in typed.items():
        of_runs = {name: data[key] for name, data in runs.items()}
        if value is None and len(set(of_runs.values())) > 1:
            each = ", ".join(f"{name} {has!r}" for name, has in of_runs.items())
            raise UserError(f"the runs differ in data.{key} ({each}): say which with --{key}")
        chosen[key] = next(iter(of_runs.values()), None) if value is None else value
        for name, has in of_runs.items():
            if has != chosen[key]:
                notes.append(f"{name}: trained with data.{key} {has!r}, not {chosen[key]!r}")
    if chosen["prefix"] is None:
        chosen["prefix"] = PREFIX
    return chosen, notes


def device_of(given: str | None) -> torch.device:
    """The device that ``--device`` names; None: the first GPU if there is one.

    Raises:
        UserError: there is no such device.
    """
    if given is None:
        given = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        if (device := torch.empty(0, device=given).device).type == "meta":
            raise RuntimeError("it holds no numbers")
    except (RuntimeError, AssertionError, ImportError) as reason:
        raise UserError(
            f"--device {given}: {first_line(reason)}; expected such as cpu or cuda:0"
        ) from reason
    return device
