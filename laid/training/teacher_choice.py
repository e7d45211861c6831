"""Which teacher a run has, and where its signals come from."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning as L

from laid.common.errors import UserError
from laid.distributed.process_group import on_rank_zero
from laid.signals.model_signals import AttentionShape, Wanted
from laid.signals.teacher_source import TeacherSource
from laid.teacher_cache.cache_identity import reading_identity, teacher_identity
from laid.teacher_cache.cached_teacher import CachedTeacher, cache_of_run
from laid.teacher_cache.filling_teacher import FillingTeacher
from laid.teacher_cache.hub_cache import HUB, hub_cache
from laid.teacher_cache.signal_store import SignalStore, is_complete
from laid.teacher_cache.stored_numbers import StoredAs
from laid.training.cache_request import CacheRequest
from laid.training.placement import Placement
from laid.vlm.families.registry import family_of
from laid.vlm.model_loading import ModelArgs, load_config
from laid.vlm.model_paths import model_folder
from laid.vlm.online_teacher import OnlineTeacher
from laid.vlm.pair_check import check_pair, check_teacher

ONLINE, CACHE, FILLS = "online", "cache", "online+cache"


class TeacherChoice:
    """``model.teacher``, ``model.teacher_source`` and ``model.teacher_stored_as``.

    Attributes:
        args: the teacher; None where none is named.
        hub: name of a cache on the hub.
        folder: of a cache on this machine; of one on the hub, once it is fetched.
        from_cache: whether no teacher runs beside the student.
        fills: whether the teacher is asked for what the cache lacks.
        stored_as: numbers of a cache.
    """

    def __init__(self, args: ModelArgs | None, source: str, stored_as: StoredAs = "teacher"):
        """Raises:
        UserError: a source that is none.
        """
        kind, _, folder = source.partition(":")
        on_hub = folder.startswith(HUB)
        named = kind == CACHE or (kind == FILLS and not on_hub)
        if source != ONLINE and not (named and folder):
            raise UserError(
                f"model.teacher_source {source!r}: expected {ONLINE}, {CACHE}:FOLDER of a folder "
                f"that laid cache has made, {CACHE}:{HUB}USER/NAME of one on the hub, or "
                f"{FILLS}:FOLDER, which makes it while it trains"
            )
        self.args, self.stored_as = args, stored_as
        self.hub = folder if on_hub else None
        self.folder = None if on_hub or not folder else Path(folder).expanduser()
        self.fills, self.from_cache = kind == FILLS, kind == CACHE
        self._cached: CachedTeacher | None = None
        self._trainer: L.Trainer | None = None

    def fetch(self) -> None:
        """Brings the teacher or its cache from the hub; one process of each machine calls it.

        Raises:
            UserError: as ``model_folder`` or ``hub_cache``.
        """
        if self.hub is not None:
            hub_cache(self.hub, local_files_only=False)
        elif (args := self.online) is not None and not args.random_weights:
            model_folder(args.path, args.revision)

    @property
    def online(self) -> ModelArgs | None:
        """The teacher whose weights a run needs; None where a cache stands in for it."""
        if self.fills:
            assert self.folder is not None
            return None if is_complete(self.folder) else self.args
        return None if self.from_cache else self.args

    def check(
        self,
        student: ModelArgs,
        tokenizer_of: Callable[[ModelArgs], Any],
        terms: Mapping[str, bool],
        trainer: L.Trainer,
    ) -> None:
        """Before any weight is read: whether it can teach the student, as ``check_teacher``; and
        whether a cache is the run's, and whole where the teacher isn't asked for what it lacks.

        Raises:
            UserError: it can't, or as ``cache_of_run``.
        """
        if self.hub is not None:
            self.folder = hub_cache(self.hub, local_files_only=True)
        if self.folder is None:
            if self.stored_as != "teacher":
                raise UserError(
                    f"model.teacher_stored_as {self.stored_as}: the teacher's numbers are taken as "
                    "it computes them; name a cache (model.teacher_source cache:FOLDER), or leave "
                    "it out"
                )
            check_teacher(student, self.args, tokenizer_of, terms)
            return
        folder = self.folder
        # Asked once, since another run may fill the last gap meanwhile.
        if self.fills and not on_rank_zero(lambda: is_complete(folder)):
            self._trainer = trainer
            check_teacher(student, self.args, tokenizer_of, terms)
            return
        named = None if self.args is None else teacher_identity(self.args, trainer)
        store = cache_of_run(folder, named, reading_identity(trainer.datamodule), self.stored_as)
        store.check_whole()
        self._cached = CachedTeacher(store)
        # The teacher's tokenizer was compared with this one when the cache was made.
        ids = tokenizer_of(student).get_vocab()
        of_heads = [name for name, as_vectors in terms.items() if as_vectors]
        check_pair(load_config(student), self._cached.config, ids, ids, of_heads)

    @property
    def shape(self) -> AttentionShape:
        """The teacher's attention; once it is checked."""
        if self._cached is not None:
            return self._cached.shape
        assert self.args is not None
        return family_of(load_config(self.args)).shape

    def source(self, placement: Placement, wanted: Wanted) -> TeacherSource:
        """The teacher itself, its cache, or both; once it is checked.

        Args:
            wanted: all that the run may ask.

        Raises:
            UserError: it can't supply that.
        """
        teacher: TeacherSource
        if self._cached is not None:
            teacher = self._cached
        elif self._trainer is not None:
            teacher = self._filling(placement, wanted, self._trainer)
        else:
            assert self.args is not None
            teacher = OnlineTeacher(placement.teacher(self.args))
        if reason := teacher.missing(wanted):
            raise UserError(f"the teacher can't supply what the objective asks for: {reason}")
        return teacher

    def _filling(self, placement: Placement, wanted: Wanted, trainer: L.Trainer) -> TeacherSource:
        assert self.folder is not None and self.args is not None
        request = CacheRequest(
            self.folder, self.args, wanted, self.stored_as, trainer, trainer.datamodule
        )
        ids = request.ids
        header, missing = on_rank_zero(lambda: request.begun(by_entry=True, may_hold_more=True))
        store = SignalStore(self.folder, header)
        if missing and header.entries_per_shard > 1:
            raise UserError(
                f"{len(missing)} of {len(store.shards)} shards of the cache {self.folder} are "
                f"missing or damaged, and a run fills one whose shards have one entry; these have "
                f"{header.entries_per_shard}. {store.advice}"
            )
        vlm = placement.teacher(self.args)
        return FillingTeacher(store, OnlineTeacher(vlm), ids, missing, vlm.in_step)
