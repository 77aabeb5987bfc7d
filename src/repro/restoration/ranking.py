"""Ranks all parameters of two models exactly, a block at a time (§5, App. B.2).

Sorting billions of scores would take too much memory, so scores are counted instead, in two passes:

1. The first pass, in this module, counts all scores by their upper half. This shows in which bin of
   upper halves the threshold of each share lies.
2. The second pass, in `thresholds`, counts the scores of these bins by their lower half. This gives
   the exact thresholds, and the exact sums of the scores above them.

If a sample shows beforehand in which bins the thresholds probably lie, the first pass counts the
lower halves of these bins too, and no second pass is needed. Counts and sums are integers, so no
result depends on the size of a block or on the order of threads.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import torch

from repro.errors import ConfigError, ModelError
from repro.restoration import device_scores, score_kernels, shared_counts, tensor_pairs
from repro.restoration.histograms import Histogram
from repro.restoration.score_kernels import BINS, LOWER_HALVES, MAX_PACKED, TABLES
from repro.restoration.tensor_pairs import Block, Pair, Weights

# The most bins, over all threads, whose lower halves the first pass counts: each takes 1 MiB.
MAX_LIKELY_BINS = 96
SAMPLING_SIZE = 1 << 27  # parameters from which a sample takes less time than the pass it saves
STRATEGIES = {  # name: (kind of score, whether the lowest come first)
    "top": (score_kernels.RELATIVE, False),
    "bottom": (score_kernels.RELATIVE, True),
    "random": (score_kernels.RANDOM, False),
    "absolute": (score_kernels.ABSOLUTE, False),
}


@dataclass(frozen=True)
class Criterion:
    """The rule by which parameters are ranked.

    Attributes:
        strategy: a name of `STRATEGIES`.
        dtype: of the arithmetic of the score.
        seed: of the strategy `random`.
    """

    strategy: str = "top"
    dtype: torch.dtype = torch.float32
    seed: int = 0

    def keys(self, block: Block) -> np.ndarray:
        """Return the ranking keys of a block, uint32; the highest are chosen first.

        Raises:
            ModelError: a weight is NaN or infinite.
        """
        if not block.on_host:
            return self.on_device(block).keys.cpu().numpy().view(np.uint32)
        out = np.empty(block.base.numel(), np.uint32)
        if not score_kernels.write_keys(*self.arguments(block), out):  # type: ignore[call-arg]
            raise _not_finite(block)
        return out

    def arguments(self, block: Block) -> tuple:
        """Return the first arguments of the functions of `score_kernels`."""
        return *block.raw(), block.start, self._settings(block)

    def _settings(self, block: Block) -> tuple:
        kind, lowest_first = STRATEGIES[self.strategy]
        seed = _seed(f"{self.seed}:{block.name}")
        return kind, self.dtype is torch.bfloat16, lowest_first, seed

    def on_device(self, block: Block) -> device_scores.Keys:
        """Return the keys of a block that is on a GPU, where they stay.

        Raises:
            ModelError: a weight is NaN or infinite.
        """
        settings = self._settings(block)
        scored = device_scores.keys_of(block.tuned, block.base, block.start, settings)
        if not scored.finite:
            raise _not_finite(block)
        return scored


@cache
def _seed(label: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.sha256(label.encode()).digest()[:8], "little"))


def _not_finite(block: Block) -> ModelError:
    return ModelError(f"{block.name} holds NaN or infinity in one of the models")


class LowerHalfCounts:
    """The number of keys by lower half, for some bins of upper halves; and of those with p = 0."""

    def __init__(self, bins: Sequence[int]):
        """Set all counts to zero."""
        self.bins = tuple(bins)
        self.rows = np.zeros(BINS, np.int16)
        self.rows[list(bins)] = range(1, len(bins) + 1)
        self.table, self.table_zero = np.zeros((2, len(bins), LOWER_HALVES), np.int64)

    def __getitem__(self, upper: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the counts of one bin: (all keys, those with p = 0)."""
        row = self.rows[upper] - 1
        return self.table[row], self.table_zero[row]

    @property
    def arguments(self) -> tuple:
        """The last arguments of the functions of `score_kernels`."""
        return self.rows, self.table, self.table_zero

    @property
    def arrays(self) -> list[np.ndarray]:
        """The counts, to be added up over processes."""
        return [self.table, self.table_zero]

    def add_on_device(self, scored: device_scores.Keys) -> None:
        """Count the keys of a block that is on a GPU."""
        if self.bins:
            device_scores.add_lower_halves(scored.keys, self.rows, self.table)
            device_scores.add_lower_halves(scored.keys[scored.zero], self.rows, self.table_zero)

    def merge(self, other: "LowerHalfCounts") -> None:
        """Add another thread's counts."""
        self.table += other.table
        self.table_zero += other.table_zero


class ScoreCounts:
    """The counts of the first pass; each thread has its own, and `merge` adds them up."""

    def __init__(self, criterion: Criterion, bins: Sequence[int] = ()):
        """Set all counts to zero; `bins` are those whose lower halves this pass counts too."""
        self.criterion = criterion
        self.keys, self.lower_counts = Histogram(), LowerHalfCounts(bins)
        self.change: dict[str, int] = {}
        self.unchanged = 0
        self._packed = np.zeros((2, TABLES, BINS), np.int64)
        self._zero, self._zeros_in_tables = Histogram(), 0

    def __call__(self, block: Block) -> None:
        """Count a block of at most `MAX_PACKED` parameters."""
        if not block.on_host:
            self._count_on_device(block)
            return
        if self._zeros_in_tables + len(block.base) > MAX_PACKED:
            self._count_zero_base()
        arguments = self.criterion.arguments(block)
        unchanged, zeros = score_kernels.count_upper_halves(
            *arguments, *self._packed, *self.lower_counts.arguments
        )
        if unchanged < 0:
            raise _not_finite(block)
        self.unchanged += unchanged
        self._zeros_in_tables += zeros
        self._add(block.name, self.keys.add_tables(self._packed[0]))

    def _count_on_device(self, block: Block) -> None:
        scored = self.criterion.on_device(block)
        self._add(block.name, self.keys.add_counts(*device_scores.upper_halves(scored.keys)))
        self._zero.add_counts(*device_scores.upper_halves(scored.keys[scored.zero]))
        self.lower_counts.add_on_device(scored)
        self.unchanged += scored.unchanged

    @property
    def zero(self) -> Histogram:
        """The histogram of the keys with p = 0 alone."""
        self._count_zero_base()
        return self._zero

    def _count_zero_base(self) -> None:
        # Unpacking a table takes as long as counting 100,000 parameters. So it is done when the
        # tables are full or the counts are needed, and not after each block.
        if self._zeros_in_tables:
            self._zero.add_tables(self._packed[1])
            self._zeros_in_tables = 0

    def _add(self, name: str, change: int) -> None:
        self.change[name] = self.change.get(name, 0) + change

    @property
    def arrays(self) -> list[np.ndarray]:
        """The counts that are arrays, to be added up over processes."""
        zero = self.zero
        histograms = [h for x in (self.keys, zero) for h in (x.counts, x.lower_sums)]
        return histograms + self.lower_counts.arrays

    @property
    def numbers(self) -> dict[str, int]:
        """The other counts by name, to be added up over processes: integers of any size."""
        return {"": self.unchanged, **self.change}

    @numbers.setter
    def numbers(self, summed: dict[str, int]) -> None:
        self.unchanged = summed.pop("")
        self.change = summed

    def merge(self, other: "ScoreCounts") -> None:
        """Add another thread's counts."""
        self.keys.merge(other.keys)
        self.zero.merge(other.zero)
        self.lower_counts.merge(other.lower_counts)
        self.unchanged += other.unchanged
        for name, change in other.change.items():
            self._add(name, change)


@dataclass(frozen=True, eq=False)
class Ranking:
    """A pair of models and the counts of their scores. `thresholds` finds the thresholds."""

    pair: Pair
    counts: ScoreCounts

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """The tensors ranked, in the order in which ties are broken."""
        return self.pair.shapes

    @property
    def size(self) -> int:
        """Number of parameters ranked."""
        return self.pair.parameters

    @property
    def criterion(self) -> Criterion:
        """What the parameters are ranked by."""
        return self.counts.criterion

    @property
    def zero_base(self) -> int:
        """Number of parameters with p = 0, whose relative change is |s| / 1e-8."""
        return self.counts.zero.size

    @property
    def unchanged(self) -> int:
        """Number of parameters with s = p."""
        return self.counts.unchanged


def rank(
    base: Weights,
    tuned: Weights,
    region: str = "transformer",
    score_dtype: torch.dtype = torch.float32,
    *,
    layers: str = "",
    strategy: str = "top",
    seed: int = 0,
    threads: int | None = None,
    block_size: int = tensor_pairs.BLOCK_SIZE,
    progress: Callable[[int], object] = lambda size: None,
    expected_percents: Sequence[float] = (),
    shared: bool = False,
) -> Ranking:
    """Score every parameter of a region (r_i of Appendix B.2) and count the scores.

    Args:
        base: name → weights before fine-tuning.
        tuned: name → weights afterwards; the same names and shapes.
        region: a name of `regions.REGIONS`, or a regular expression searched in tensor names.
        score_dtype: arithmetic of the score; bfloat16 rounds each step, as the authors' tool.
        layers: such as `0-3`; empty for all.
        strategy: a name of `STRATEGIES`.
        seed: of the strategy `random`.
        threads: number of threads; by default that of PyTorch.
        block_size: number of parameters that a thread reads at a time.
        progress: called with the bytes read.
        expected_percents: percentages whose thresholds will be needed. A sample of the scores shows
            roughly where they are, so that the first pass nearly always suffices. This changes the
            time alone, never a result.
        shared: each process of a launch counts a part of the blocks. The counts are integers, so
            their sums, and with them all that follows, are those of one process. All processes
            must ask for the ranking and for its thresholds.

    Raises:
        ConfigError: an unknown strategy; the region matches nothing, or is no expression; a
            percentage is not between 0 and 100.
        ModelError: a tensor is missing, differs in shape, or holds NaN or infinity.
    """
    if strategy not in STRATEGIES:
        raise ConfigError(f"unknown strategy {strategy!r}: give one of {', '.join(STRATEGIES)}")
    pair = tensor_pairs.pair(base, tuned, region, layers, threads, block_size, progress)
    pair = replace(pair, shared=shared)
    criterion = Criterion(strategy, score_dtype, seed)
    return Ranking(pair, _count_scores(pair, criterion, expected_percents))


def _count_scores(
    pair: Pair, criterion: Criterion, expected_percents: Sequence[float]
) -> ScoreCounts:
    """Return the counts of the first pass; a large region is sampled beforehand."""
    bins: list[int] = []
    if expected_percents and pair.parameters >= SAMPLING_SIZE:
        bins = _likely_bins(pair, criterion, expected_percents)
    return count_in_threads(pair, [ScoreCounts(criterion, bins) for _ in range(pair.threads)])


def count_in_threads(pair: Pair, counters: list[Any]) -> Any:
    """Count all blocks with one counter per thread, and return the sum of the counters.

    If the pair is shared among processes, it is the sum over all processes.

    Raises:
        ModelError: a weight is NaN or infinite; if the pair is shared, in every process.
    """
    if not pair.shared:
        return _count(pair, counters)
    error = None
    try:
        total = _count(pair, counters)
    except ModelError as raised:  # the other processes must know, as they wait for these counts
        total, error = counters[0], raised
    shared_counts.raise_everywhere(error)
    shared_counts.add_up(total)
    return total


def _count(pair: Pair, counters: list[Any]) -> Any:
    """Count the blocks of this process, each thread with its counter; return the sum."""
    pair.spread(counters)
    total, *rest = counters
    for counter in rest:
        total.merge(counter)
    return total


def _likely_bins(pair: Pair, criterion: Criterion, percents: Sequence[float]) -> list[int]:
    """Return the bins in which the thresholds probably lie, estimated from a sample of the scores.

    Returns none if there are too many of them to count all their lower halves in the first pass.
    """
    sample = Histogram()
    for block in pair.sample():
        sample.add(criterion.keys(block))
    bins: set[int] = set()
    for percent in percents:
        k = how_many(sample.size, percent)
        # The interval of ranks in which the threshold lies: k plus and minus three standard errors
        # of a binomial count, doubled because neighbours in a tensor are correlated.
        margin = 6 * int((k * (sample.size - k) / max(sample.size, 1)) ** 0.5)
        ranks = (min(max(rank, 1), sample.size) for rank in (k + margin, k - margin))
        first, last = (bin_of_rank(sample.counts, rank) for rank in ranks)
        # If all lower halves of a bin are zero, as in bfloat16, there is nothing to count in it.
        bins |= {b for b in range(first, last + 1) if sample.lower_sums[b] or not sample.counts[b]}
    return sorted(bins) if len(bins) * pair.threads <= MAX_LIKELY_BINS else []


def how_many(size: int, percent: float) -> int:
    """Return floor(percent · size / 100), exact for the percentage in its decimal notation.

    Raises:
        ConfigError: the percentage is not between 0 and 100.
    """
    if not 0 <= percent <= 100:
        raise ConfigError(f"cannot restore {percent} %: give a percentage from 0 to 100")
    # Computed from the decimal text: 0.29 means 29/100, not the nearest binary number.
    return int(Fraction(str(percent)) * size / 100)


def bin_of_rank(counts: np.ndarray, k: int) -> int:
    """Return the bin that holds the k-th highest item.

    Args:
        counts: number of items by bin, from the lowest bin.
        k: rank of the item, from 1, the highest.
    """
    numbers_from_above = counts[::-1].cumsum()  # of items in a bin and all bins above it
    return len(counts) - 1 - int(np.searchsorted(numbers_from_above, k))
