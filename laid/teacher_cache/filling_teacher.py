"""A teacher that is asked once of each entry, while a run trains: ``online+cache:FOLDER``."""

from collections.abc import Collection, Sequence
from typing import Any

import torch

from laid.distributed.process_group import gather
from laid.signals.model_inputs import ModelInputs, haystack_alone
from laid.signals.model_signals import Signals, Wanted
from laid.signals.teacher_source import TeacherSource
from laid.teacher_cache.cached_teacher import CachedTeacher
from laid.teacher_cache.entry_signals import entry_item
from laid.teacher_cache.signal_store import SignalStore


class FillingTeacher(CachedTeacher):
    """Gives the signals of a cache, and asks a teacher for those that it lacks.

    An entry is asked for alone, as ``laid cache`` does, and stored before it is given; so in each
    epoch its signals are the same. Other runs may fill the cache at the same time.
    """

    def __init__(
        self,
        store: SignalStore,
        teacher: TeacherSource,
        ids: Sequence[str],
        missing: Collection[int],
        in_step: bool,
    ):
        """
        Args:
            store: with one entry in each shard.
            ids: of all entries of the cache, in order.
            missing: shards that are not there, or damaged.
            in_step: whether each rank must ask the teacher as often as the others.

        Raises:
            UserError: a part of the cache can't be read.
        """
        super().__init__(store, missing)
        self._lacks = {ids[shard]: shard for shard in missing}
        self._teacher, self._in_step = teacher, in_step

    def to(self, device: torch.device) -> None:
        super().to(device)
        self._teacher.to(device)

    @property
    def vision(self) -> Any:
        return self._teacher.vision

    def signals(self, inputs: ModelInputs, wanted: Wanted) -> Signals:
        """Raises:
        UserError: as ``CachedTeacher.signals``.
        OSError: an entry can't be stored.
        """
        self._fill(inputs)
        return super().signals(inputs, wanted)

    def _fill(self, inputs: ModelInputs) -> None:
        """Stores the entries of a batch that the cache lacks."""
        rows = [at for at, name in enumerate(inputs.entry_ids) if self._is_missing(name)]
        wanted = self._store.header.wanted
        asked = max(gather(len(rows))) if self._in_step else len(rows)
        for n in range(asked):
            alone = haystack_alone(inputs, rows[n] if n < len(rows) else 0)
            signals = self._teacher.signals(alone, wanted)
            if n < len(rows):
                entry = entry_item(alone, signals, wanted, self._store.header.stored_as)
                self._store.write(self._lacks[entry.id], [entry])
                self._found(entry.id)

    def _is_missing(self, name: str) -> bool:
        if name not in self._lacks:
            return False
        if self._store.has(self._lacks[name]):  # another process has stored it
            self._found(name)
            return False
        return True

    def _found(self, name: str) -> None:
        self._know(self._lacks.pop(name))
