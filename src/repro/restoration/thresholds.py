"""Finds the exact threshold of each restored share, and which parameters lie above it (§5).

A second pass over the two models counts the lower halves of the scores that share their upper half
with a threshold. The first pass is in `ranking`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from repro.restoration import score_kernels
from repro.restoration.ranking import (
    Lows,
    Measure,
    Ranking,
    bin_of_rank,
    count_in_threads,
    how_many,
)
from repro.restoration.score_kernels import BINS, LOWS
from repro.restoration.tensor_pairs import Block


@dataclass(frozen=True)
class Cut:
    """A share: the `k` parameters above `key`, of which the first `ties` of `equal` on it.

    `held` is the sum of their keys as floats and `held_zero` that of those with p = 0, both in
    units of 2⁻¹⁴⁹.
    """

    k: int
    key: int = BINS * LOWS  # above every key
    ties: int = 0
    equal: int = 0
    held: int = 0
    held_zero: int = 0

    @property
    def threshold(self) -> float | None:
        """The smallest key that is chosen, as a float; None where nothing is."""
        return float(np.uint32(self.key).view(np.float32)) if self.k else None


def thresholds(ranking: Ranking, percents: Sequence[float]) -> dict[float, Cut]:
    """Return the cut of each percentage, all found in one reading of the two models.

    Raises:
        ConfigError: a percentage is not between 0 and 100.
    """
    counts = {x: how_many(ranking.size, x) for x in percents}
    bins = {k: bin_of_rank(ranking.counts.keys.counts, k) for k in counts.values() if k}
    lows = _refined(ranking, set(bins.values()) - set(ranking.counts.lows.bins))
    cuts = {
        k: _cut(ranking, k, upper, lows if upper in lows.bins else ranking.counts.lows)
        for k, upper in bins.items()
    }
    return {x: cuts.get(k, Cut(0)) for x, k in counts.items()}


def _refined(ranking: Ranking, bins: set[int]) -> Lows:
    """Count lower halves in the second pass, of the bins that the first did not count them in."""
    both, keys, zero = ranking.pair, ranking.counts.keys, ranking.counts.zero
    found = Lows(sorted(bins))
    if keys.lows[list(found.bins)].any():
        others = [Lows(found.bins) for _ in range(both.threads - 1)]
        count_in_threads(both, [Second(ranking.measure, lows) for lows in (found, *others)])
    else:  # all lower halves are zero, as they are for scores in bfloat16
        found.table[:, 0] = keys.counts[list(found.bins)]
        found.zero[:, 0] = zero.counts[list(found.bins)]
    return found


@dataclass(frozen=True, eq=False)
class Second:
    """What the second pass counts in one thread."""

    measure: Measure
    lows: Lows

    def __call__(self, block: Block) -> None:
        """Count a block."""
        score_kernels.refine(*self.measure.arguments(block), *self.lows.arguments)

    def merge(self, other: "Second") -> None:
        """Add another thread's counts."""
        self.lows.merge(other.lows)


def _cut(ranking: Ranking, k: int, upper: int, lows: Lows) -> Cut:
    """Return the cut that chooses exactly `k`, whose threshold is in the bin `upper`."""
    keys, zeros, (table, zero) = ranking.counts.keys, ranking.counts.zero, lows[upper]
    inside = k - int(keys.counts[upper + 1 :].sum())
    low = bin_of_rank(table, inside)
    equal, key = int(table[low]), upper << 16 | low
    ties = inside - int(table[low + 1 :].sum())
    zero_ties = _zero_ties(ranking, Cut(k, key, ties, equal), int(zero[low]))
    return Cut(
        k, key, ties, equal,
        keys.total(upper) + _beyond(table, upper, low) + ties * score_kernels.units(key),
        zeros.total(upper) + _beyond(zero, upper, low) + zero_ties * score_kernels.units(key),
    )  # fmt: skip


def _zero_ties(ranking: Ranking, cut: Cut, zero_equal: int) -> int:
    """Return how many of the chosen on the threshold have p = 0."""
    if cut.ties == cut.equal or zero_equal == 0 or cut.key == 0:
        return zero_equal
    if zero_equal == cut.equal:
        return cut.ties
    # Position decides which of the two kinds are chosen.
    return sum(
        int(((block.base == 0).cpu().numpy() & masks[0] & (keys == cut.key)).sum())
        for block, keys, masks in selection(ranking, [cut])
    )


def _beyond(table: np.ndarray, upper: int, low: int) -> int:
    """Return the sum of the keys of one bin whose lower half is above `low`, as floats."""
    rest = table[low + 1 :]
    first = score_kernels.units(upper << 16)
    step = 1 << max((upper >> 7) - 1, 0)
    return int(rest.sum()) * first + int((rest * np.arange(low + 1, LOWS)).sum()) * step


def selection(
    ranking: Ranking, cuts: Sequence[Cut], size: int | None = None
) -> Iterator[tuple[Block, np.ndarray, list[np.ndarray]]]:
    """Yield each block with its keys and, per cut, a mask of the parameters chosen.

    In order, since of those that tie at a threshold the first are chosen. `size` 0 yields whole
    tensors.
    """
    left = [cut.ties for cut in cuts]
    for block in ranking.pair.blocks(size):
        keys = ranking.measure.keys(block)
        masks = [np.empty(len(keys), bool) for _ in cuts]
        for i, (cut, mask) in enumerate(zip(cuts, masks, strict=True)):
            left[i] = score_kernels.pick(keys, cut.key, left[i], mask)
        yield block, keys, masks


def selected(ranking: Ranking, percent: float) -> np.ndarray:
    """Return a flat boolean mask of exactly floor(percent · n / 100) parameters.

    The highest are chosen; where they tie at the threshold, those that come first in the order of
    tensors and positions.
    """
    cut = thresholds(ranking, [percent])[percent]
    return np.concatenate([masks[0] for _, _, masks in selection(ranking, [cut])])
