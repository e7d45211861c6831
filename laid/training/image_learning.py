"""Features of a stage's images, computed once before it begins: in memory, or on disk."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from laid.common.disk_space import free_bytes
from laid.common.errors import UserError
from laid.common.file_hashes import file_hashes
from laid.common.tensor_shards import Item
from laid.data.datamodule import HaystackDataModule
from laid.data.entries import shown_images
from laid.data.image_files import patches_of
from laid.data.image_names import resolve_under
from laid.distributed.process_group import gather, on_rank_zero
from laid.vlm.stored_features import StoredFeatures, feature_item, vision_identity
from laid.vlm.vision_language_model import VLM

log = logging.getLogger(__name__)

FEATURE_BATCH = 32
"""Images of one forward pass of the vision towers."""
SHARD_BYTES = 256 * 2**20
_LEAST = 8
"""Images of a batch at the least: the products of one or two small ones are rounded otherwise."""


def learn_images(models: Sequence[VLM], data: HaystackDataModule, stage: str) -> None:
    """With ``data.cache_features``, shows models every image of a stage, once, and drops those of
    an earlier stage: a name may have been another image's there.

    Raises:
        UserError: a vision tower is trained, and its features are to be kept or other devices wait
            for it; or the features take more than is allowed or free.
        OSError: they can't be stored.
    """
    frozen = all(model.vision_frozen for model in models)
    bare = any(0 in entries["size"] for entries in data.entries_of(stage).values())
    if bare and not frozen and data.rank()["world_size"] > 1:
        raise UserError(
            "some entries have no image, and on several devices each must run a vision tower that "
            "is trained as often as the others: set model.student.freeze_vision true, or leave "
            "these entries out"
        )
    if data.cache_features is False:
        return
    kept = data.cache_features
    if kept == "" or (isinstance(kept, str) and Path(kept).expanduser().is_file()):
        raise UserError(f"data.cache_features {kept!r}: expected true, false or a folder")
    if not frozen:
        raise UserError(
            "data.cache_features: the features of a vision tower that is trained change; set it "
            "false, or model.student.freeze_vision true"
        )
    for model in models:
        model.forget_images()
    names = images_of(data, stage)
    # In the precision of a step, so that they are the features that it would compute.
    plugin = data.trainer and data.trainer.precision_plugin
    with plugin.forward_context() if plugin else nullcontext():
        if isinstance(data.cache_features, str):
            _on_disk(models, data, names, Path(data.cache_features).expanduser())
            return
        for some, patches_PC, grid_I3 in _batches(data, names):
            for model in models:
                model.learn(some, patches_PC, grid_I3, data.feature_gib)


def images_of(data: HaystackDataModule, stage: str) -> list[str]:
    """Names of the images of a stage, in order."""
    return sorted(set().union(*map(shown_images, data.entries_of(stage).values())))


def _batches(
    data: HaystackDataModule, names: Sequence[str]
) -> Iterator[tuple[list[str], Tensor, Tensor]]:
    """Names, patches and grids of images, ``FEATURE_BATCH`` at a time.

    The models know their features afterwards; the loaders' batches carry no pixels of these images
    from then on.
    """
    bar = partial(tqdm, desc="image features", unit=f" x {FEATURE_BATCH} images", mininterval=1)
    for at in bar(range(0, len(names), FEATURE_BATCH), disable=data.rank()["rank"] > 0):
        some = list(names[at : at + FEATURE_BATCH])
        patches_PC, grid_I3 = patches_of(data.root, some, data.encoder.patches)
        yield some, patches_PC, grid_I3
        data.grids.update(zip(some, grid_I3, strict=True))


def _on_disk(
    models: Sequence[VLM], data: HaystackDataModule, names: list[str], folder: Path
) -> None:
    ids = dict(
        zip(names, file_hashes(resolve_under(data.root, name) for name in names), strict=True)
    )
    processor = data.encoder.processor.identity()["image_processor"]
    stores = []
    for model in models:
        key = vision_identity(model.hf, model.family, processor, _precision(model))
        stores.append(StoredFeatures(folder, key, model.device))

    def lacking() -> list[set[str]]:
        for store in stores:
            store.find(remove_damaged=True)
        return [store.lacks(ids.values()) for store in stores]

    missing = on_rank_zero(lacking)
    one_each = {one: name for name, one in ids.items()}
    wanted = sorted(one_each[one] for one in set().union(*missing))
    if wanted:
        _make(list(zip(models, stores, missing, strict=True)), data, ids, wanted)
        gather(None)  # every rank has written its part
    for model, store in zip(models, stores, strict=True):
        store.find(remove_damaged=False)
        if left := store.lacks(ids.values()):
            raise UserError(
                f"data.cache_features {folder}: the features of {len(left)} images are not there "
                "after they were made; expected a folder that all machines share"
            )
        data.grids |= store.show(ids)
        data.ahead.append(store.read_ahead)
        model.features = store
    log.info("the features of %s images are in %s", f"{len(names):,}", folder)


def _precision(model: VLM) -> str:
    """In which a vision tower multiplies now; empty: as its weights are held."""
    kind = model.device.type
    if torch.is_autocast_enabled(kind):
        return f"autocast to {torch.get_autocast_dtype(kind)}"
    return "" if model.computes is None else f"sharded in {model.computes}"


def _make(
    each: list[tuple[VLM, StoredFeatures, set[str]]],
    data: HaystackDataModule,
    ids: dict[str, str],
    wanted: list[str],
) -> None:
    """Computes and stores the features of images; each rank those of its part, as many as the
    others, since a sharded model runs on all of them together."""
    some = list(islice(cycle(wanted), _LEAST))
    pieces = patches_of(data.root, some, data.encoder.patches)
    takes = [sum(f.bytes for f in model.seen(*pieces)) for model, _, _ in each]

    def check() -> None:
        tokens = data.encoder.processor.image_tokens(data.image_sizes[name] for name in ids)
        of = {one: tokens[data.image_sizes[name]] for name, one in ids.items()}
        measured = sum(of[ids[name]] for name in some)
        more = [
            bytes_ * sum(of[one] for one in missing) / measured
            for bytes_, (_, _, missing) in zip(takes, each, strict=True)
        ]
        _check_space(each, more, data.feature_gib)

    on_rank_zero(check)
    place = data.rank()
    length = -(-len(wanted) // place["world_size"])
    mine = wanted[place["rank"] * length :][:length]
    if 0 < length % FEATURE_BATCH < _LEAST:
        length += _LEAST - length % FEATURE_BATCH
    part = list(islice(cycle(mine or wanted), length))
    waiting: list[dict[str, Item]] = [{} for _ in each]
    left = [missing & {ids[name] for name in mine} for _, _, missing in each]
    for some, patches_PC, grid_I3 in _batches(data, part):
        for (model, store, _), items, lacks in zip(each, waiting, left, strict=True):
            made = zip(some, model.seen(patches_PC, grid_I3), grid_I3, strict=True)
            for name, features, grid_3 in made:
                if ids[name] in lacks:
                    lacks.remove(ids[name])
                    items[ids[name]] = feature_item(ids[name], features, grid_3)
            if (
                sum(x.nbytes for item in items.values() for x in item.tensors.values())
                > SHARD_BYTES
            ):
                store.write(list(items.values()))
                items.clear()
    for (_, store, _), items in zip(each, waiting, strict=True):
        if items:
            store.write(list(items.values()))


def _check_space(
    each: list[tuple[VLM, StoredFeatures, set[str]]], takes: list[float], limit_gib: float
) -> None:
    """Says what will be stored, and refuses what is not allowed or does not fit.

    Args:
        takes: bytes of what is missing, for each.
    """
    for (_, store, _), more in zip(each, takes, strict=True):
        if store.bytes + more > limit_gib * 2**30:
            raise UserError(
                f"data.cache_features: {store.folder} would take "
                f"{(store.bytes + more) / 2**30:,.2f} GiB, more than data.feature_gib "
                f"{limit_gib:g}: raise it, or set data.cache_features false"
            )
    total = sum(takes)
    folder = each[0][1].folder.parent
    free, counts = free_bytes(folder), [len(missing) for _, _, missing in each]
    text = (
        f"features of {' and '.join(f'{n:,}' for n in counts)} images take about "
        f"{total / 1e9:,.2f} GB in {folder}, where {free / 1e9:,.2f} GB are free"
    )
    log.info("%s", text)
    if total > free:
        raise UserError(f"data.cache_features: {text}; name a folder elsewhere, or set it false")
