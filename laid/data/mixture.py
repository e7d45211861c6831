"""Several sources in fixed shares of the training haystacks."""

from collections.abc import Sequence
from dataclasses import dataclass

from laid.common.errors import UserError
from laid.common.random_streams import stream


@dataclass(frozen=True)
class Mixture:
    """Which entries an epoch draws, of sources that stand one after another in one list.

    An epoch has every entry of the first source once, and of each other source as many as its
    weight says. Those go on where the epoch before ended: a source is gone through in an order of
    its own, and again in another order when all its entries were drawn.

    Attributes:
        counts: entries of each source.
        drawn: entries of each source in an epoch.
    """

    counts: tuple[int, ...]
    drawn: tuple[int, ...]

    @classmethod
    def of(cls, weights: dict[str, float], counts: Sequence[int]) -> "Mixture":
        """Shares as the weights are to each other, of ``counts`` entries of each source.

        Raises:
            UserError: a weight is so small that its source has no entry in an epoch.
        """
        first = counts[0] / next(iter(weights.values()))
        drawn = tuple(round(first * weight) for weight in weights.values())
        if none := [name for name, n in zip(weights, drawn, strict=True) if not n]:
            raise UserError(
                f"data.train.mixture: of {none[0]!r} an epoch has no entry: it is as long as the "
                f"first source, {counts[0]} entries; give it a larger weight, or another order"
            )
        return cls(tuple(counts), drawn)

    @property
    def total(self) -> int:
        """Entries of an epoch."""
        return sum(self.drawn)

    def epoch(self, seed: int, number: int) -> list[int]:
        """The entries of an epoch, source after source; by seed and number alone."""
        found: list[int] = []
        for source, (count, drawn) in enumerate(zip(self.counts, self.drawn, strict=True)):
            offset = sum(self.counts[:source])
            places = range(number * drawn, (number + 1) * drawn)
            rounds = range(places.start // count, places[-1] // count + 1)
            orders = [stream(seed, "mixture", source, k).permutation(count) for k in rounds]
            begin = rounds.start * count
            found += [
                offset + int(orders[(at - begin) // count][(at - begin) % count]) for at in places
            ]
        return found
