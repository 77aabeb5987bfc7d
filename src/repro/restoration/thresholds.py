"""Finds the exact threshold of each restored share, and the parameters above it (§5).

The first pass, in `ranking`, shows which bin of upper halves holds each threshold. The second pass,
in this module, counts the scores of these bins by their lower half. The threshold of a share of k
parameters is then the lower half at which the count, from the highest score down, reaches k.
Several parameters may have exactly this score; the first of them, in the order of tensors and
positions, are chosen until there are k.
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
    """A share of chosen parameters: those above a key, and the first of those that equal it.

    Attributes:
        k: the number of chosen parameters.
        key: the key of the threshold.
        ties: how many of the parameters whose key equals `key` are chosen.
        equal: how many parameters have the key `key`.
        score_sum: the sum of the chosen keys as floats, in units of 2⁻¹⁴⁹.
        score_sum_zero_base: the same sum over the chosen parameters with p = 0.
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
    k_by_percent = {percent: how_many(ranking.size, percent) for percent in percents}
    bins = {k: bin_of_rank(ranking.counts.keys.counts, k) for k in k_by_percent.values() if k}
    first_pass = ranking.counts.lower_counts  # of the bins that a sample found likely
    second_pass = _lower_half_counts(ranking, set(bins.values()) - set(first_pass.bins))
    cuts = {
        k: _cut(ranking, k, upper, second_pass if upper in second_pass.bins else first_pass)
        for k, upper in bins.items()
    }
    return {percent: cuts.get(k, Cut(0)) for percent, k in k_by_percent.items()}


def _lower_half_counts(ranking: Ranking, bins: set[int]) -> LowerHalfCounts:
    """Count the lower halves of `bins`, in a second pass unless all of them are zero."""
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
        if not block.on_host:
            self.lower_counts.add_on_device(self.criterion.on_device(block))
            return
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
    # All parameters of the bins above are chosen; the rest of the k come from this bin.
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
    # Some have p = 0 and some not, and their positions decide which are chosen. So the blocks are
    # read once more.
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

    Blocks come in order, because the first of the parameters that equal a threshold are chosen.
    `size` is the number of parameters in a block; 0 yields whole tensors.
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
