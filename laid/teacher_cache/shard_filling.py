"""Which entries a process gives to a cache, and their shards as they are done."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from torch.utils.data import Sampler

from laid.common.atomic_files import only_writer
from laid.common.errors import UserError
from laid.common.tensor_shards import Item
from laid.teacher_cache.signal_store import SignalStore


class ShardFilling(Sampler[int]):
    """The entries of some shards, in order, as a DataLoader takes them. A shard is claimed before
    its first entry and written after its last.

    Other processes may fill the same cache: a process that is alone in its run passes over shards
    that they write or have written. Ranks of one run must ask a sharded teacher equally often, so
    there this is an error, and a rank with fewer entries ends with repeats, ``~place``, that are
    not stored.

    Attributes:
        left: shards that other processes are writing.
    """

    def __init__(
        self, store: SignalStore, ids: Sequence[str], missing: Sequence[int], rank: int, ranks: int
    ):
        """
        Args:
            ids: of all entries of the cache, in order.
            missing: shards to be written by all ranks together.
        """
        self._store, self._alone = store, ranks == 1
        self._places = {name: at for at, name in enumerate(ids)}
        by_rank = [missing[r::ranks] for r in range(ranks)]
        counts = [sum(len(store.entries_of(shard)) for shard in part) for part in by_rank]
        self._mine, self._count = by_rank[rank], max(counts)
        self._claims: dict[int, ExitStack] = {}
        self._got: dict[int, list[Item]] = {}
        self.left: list[int] = []

    def __len__(self) -> int:
        """Entries of this rank; less where others have written some."""
        return self._count

    def __iter__(self) -> Iterator[int]:
        given = 0
        for shard in self._mine:
            if self._claim(shard):
                yield from self._store.entries_of(shard)
                given += len(self._store.entries_of(shard))
        if not self._alone:
            yield from [~0] * (self._count - given)

    def _claim(self, shard: int) -> bool:
        claim = ExitStack()
        try:
            claim.enter_context(only_writer(self._store.place(shard)))
        except UserError:
            if not self._alone:
                raise
            self.left.append(shard)
            return False
        if self._alone and self._store.has(shard):
            claim.close()
            return False
        self._claims[shard] = claim
        return True

    def add(self, entry: Item) -> None:
        """Takes an entry's signals; with the last entry of a shard, writes the shard.

        Raises:
            OSError: it can't be written.
        """
        shard = self._places[entry.id] // self._store.header.entries_per_shard
        got = self._got.setdefault(shard, [])
        got.append(entry)
        if len(got) == len(self._store.entries_of(shard)):
            self._store.write(shard, self._got.pop(shard))
            self._claims.pop(shard).close()

    def close(self) -> None:
        """Gives up what is claimed."""
        while self._claims:
            self._claims.popitem()[1].close()
