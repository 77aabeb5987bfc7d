"""Finds the exact threshold of each restored share, and which parameters lie above it (§5).

A second pass over the two models counts the lower halves of the scores that share their upper half
with a threshold. The first pass is in `ranking`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from repro.restoration import histograms, score_kernels
from repro.restoration.ranking import (
    Criterion,
    LowerHalfCounts,
    Ranking,
    bin_of_rank,
    count_in_threads,
    how_many,
)
from repro.restoration.score_kernels import BINS, LOWER_HALVES
from repro.restoration.tensor_pairs import Block


@dataclass(frozen=True)
class Cut:
    """A share of `k` chosen parameters: those whose key is above `key`, and the first `ties` equal.

    `equal` parameters have exactly the key `key`. `score_sum` is the sum of the chosen keys as
    floats and `score_sum_zero_base` the sum of those with p = 0, both in units of 2⁻¹⁴⁹.
    """

    k: int
    key: int = BINS * LOWER_HALVES  # greater than every key
    ties: int = 0
    equal: int = 0
    score_sum: int = 0
    score_sum_zero_base: int = 0

    @property
    def threshold(self) -> float | None:
        """The smallest chosen key as a float; None if nothing is chosen."""
        return float(np.uint32(self.key).view(np.float32)) if self.k else None


def thresholds(ranking: Ranking, percents: Sequence[float]) -> dict[float, Cut]:
    """Return the cut of each percentage; all are found in one pass over the two models.

    Raises:
        ConfigError: a percentage is not between 0 and 100.
    """
    numbers = {x: how_many(ranking.size, x) for x in percents}
    bins = {k: bin_of_rank(ranking.counts.keys.counts, k) for k in numbers.values() if k}
    lower_counts = _lower_half_counts(
        ranking, set(bins.values()) - set(ranking.counts.lower_counts.bins)
    )
    cuts = {
        k: _cut(
            ranking,
            k,
            upper,
            lower_counts if upper in lower_counts.bins else ranking.counts.lower_counts,
        )
        for k, upper in bins.items()
    }
    return {x: cuts.get(k, Cut(0)) for x, k in numbers.items()}


def _lower_half_counts(ranking: Ranking, bins: set[int]) -> LowerHalfCounts:
    """Count the lower halves of `bins` in a second pass; none is needed if all of them are zero."""
    pair, keys, zero = ranking.pair, ranking.counts.keys, ranking.counts.zero
    lower_counts = LowerHalfCounts(sorted(bins))
    if keys.lower_sums[list(lower_counts.bins)].any():
        counters = [
            lower_counts,
            *(LowerHalfCounts(lower_counts.bins) for _ in range(pair.threads - 1)),
        ]
        count_in_threads(pair, [SecondPass(ranking.criterion, counts) for counts in counters])
    else:  # all lower halves are zero, as those of scores in bfloat16 are
        lower_counts.table[:, 0] = keys.counts[list(lower_counts.bins)]
        lower_counts.table_zero[:, 0] = zero.counts[list(lower_counts.bins)]
    return lower_counts


@dataclass(frozen=True, eq=False)
class SecondPass:
    """The counter of one thread in the second pass."""

    criterion: Criterion
    lower_counts: LowerHalfCounts

    def __call__(self, block: Block) -> None:
        """Count a block."""
        score_kernels.count_lower_halves(
            *self.criterion.arguments(block), *self.lower_counts.arguments
        )

    @property
    def arrays(self) -> list[np.ndarray]:
        """The counts, to be added up over processes."""
        return self.lower_counts.arrays

    def merge(self, other: "SecondPass") -> None:
        """Add another thread's counts."""
        self.lower_counts.merge(other.lower_counts)


def _cut(ranking: Ranking, k: int, upper: int, lower_counts: LowerHalfCounts) -> Cut:
    """Return the cut that chooses exactly `k` parameters, whose threshold is in the bin `upper`."""
    keys, zeros, (table, table_zero) = ranking.counts.keys, ranking.counts.zero, lower_counts[upper]
    chosen_in_bin = k - int(keys.counts[upper + 1 :].sum())
    low = bin_of_rank(table, chosen_in_bin)
    equal, key = int(table[low]), upper << 16 | low
    ties = chosen_in_bin - int(table[low + 1 :].sum())
    zero_ties = _zero_ties(ranking, Cut(k, key, ties, equal), int(table_zero[low]))
    on_threshold = histograms.units(key)
    return Cut(
        k, key, ties, equal,
        keys.total(upper) + _sum_above(table, upper, low) + ties * on_threshold,
        zeros.total(upper) + _sum_above(table_zero, upper, low) + zero_ties * on_threshold,
    )  # fmt: skip


def _zero_ties(ranking: Ranking, cut: Cut, zero_equal: int) -> int:
    """Return how many of the chosen parameters on the threshold have p = 0."""
    if cut.ties == cut.equal or zero_equal == 0 or cut.key == 0:
        return zero_equal
    if zero_equal == cut.equal:
        return cut.ties
    # Position decides how many of either kind are chosen, so the blocks are read once more.
    return sum(
        int(((block.base == 0).cpu().numpy() & masks[0] & (keys == cut.key)).sum())
        for block, keys, masks in selection(ranking, [cut])
    )


def _sum_above(table: np.ndarray, upper: int, low: int) -> int:
    """Return the sum, as floats, of the keys of bin `upper` whose lower half is above `low`."""
    counts = table[low + 1 :]
    first = histograms.units(upper << 16)
    step = 1 << max((upper >> 7) - 1, 0)
    return int(counts.sum()) * first + int((counts * np.arange(low + 1, LOWER_HALVES)).sum()) * step


def selection(
    ranking: Ranking, cuts: Sequence[Cut], size: int | None = None
) -> Iterator[tuple[Block, np.ndarray, list[np.ndarray]]]:
    """Yield each block with its keys and, per cut, a mask of the parameters chosen.

    Blocks come in order, because of the parameters that tie at a threshold the first are chosen.
    `size` is that of a block; 0 yields whole tensors.
    """
    ties_left = [cut.ties for cut in cuts]
    for block in ranking.pair.blocks(size):
        keys = ranking.criterion.keys(block)
        masks = [np.empty(len(keys), bool) for _ in cuts]
        for i, (cut, mask) in enumerate(zip(cuts, masks, strict=True)):
            ties_left[i] = score_kernels.mark_chosen(keys, cut.key, ties_left[i], mask)
        yield block, keys, masks


def selected(ranking: Ranking, percent: float) -> np.ndarray:
    """Return a flat boolean mask of exactly floor(percent · n / 100) parameters.

    The highest keys are chosen; of those that tie at the threshold, the first in the order of
    tensors and positions.
    """
    cut = thresholds(ranking, [percent])[percent]
    return np.concatenate([masks[0] for _, _, masks in selection(ranking, [cut])])
