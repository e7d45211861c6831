"""Right answers of a validation: in all, by haystack size, and by source.

Shape suffixes: K counters.
"""

from collections.abc import Sequence

import torch
from datasets import Dataset
from torch import Tensor

from laid.data.entry_groups import by_source, short_names
from laid.data.prompt import Batch
from laid.evaluation.records import Record

HAYSTACKS = "haystacks"
"""What the haystacks among several sources are called."""


class ValidationTally:
    """Counts answers; the same counters on every rank, whatever it meets itself.

    Attributes:
        counts_K2: right answers, and answers.
    """

    def __init__(self, entries: Dataset, device: torch.device):
        """Raises:
        UserError: two sources would be called the same.
        """
        self._sizes = sorted(set(entries["size"]))
        names = short_names(by_source(entries), "data.validate.source", HAYSTACKS)
        self._names = names if len(names) > 1 else {}
        counters = [*self._sizes, *self._names]
        self._at = {counter: at for at, counter in enumerate(counters)}
        self.counts_K2 = torch.zeros(len(counters), 2, device=device)

    def add(self, records: Sequence[Record], batch: Batch) -> None:
        """Counts the answers of a batch that are to be counted."""
        for record, entry, counted in zip(records, batch.entries, batch.counted, strict=True):
            found = torch.tensor([record.correct and counted, counted], dtype=torch.float32)
            of = [record.size, *[entry.source] * bool(self._names)]
            self.counts_K2[[self._at[counter] for counter in of]] += found.to(self.counts_K2)

    def accuracies(self, counts_K2: Tensor) -> dict[str, Tensor]:
        """By what they are logged as; of those that were asked at all, since the sanity check
        before training sees only the first.

        Args:
            counts_K2: those of all ranks together.
        """
        of_size_S2, of_source_N2 = counts_K2.tensor_split([len(self._sizes)])
        right, total = of_size_S2.sum(0)
        found = {"val/accuracy": right / total}
        named = [f"val/accuracy_{size}" for size in self._sizes]
        named += [f"val/{name}/accuracy" for name in self._names.values()]
        for name, (right, total) in zip(named, [*of_size_S2, *of_source_N2], strict=True):
            if total > 0:
                found[name] = right / total
        return found
