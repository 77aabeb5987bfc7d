"""Ranks all parameters of two models exactly, a block at a time (§5, App. B.2).

The first pass, here, counts the upper halves of all scores; the second, in `thresholds`, the lower
halves of those that share theirs with a threshold. This gives the exact thresholds and sums of any
number of shares. Counts and sums are whole numbers, so nothing depends on the size of a block or
the order of threads.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy as np
import torch

from repro.errors import ConfigError, ModelError
from repro.restoration import score_kernels, tensor_pairs
from repro.restoration.score_kernels import BINS, LOWS, MOST, TABLES, Histogram
from repro.restoration.tensor_pairs import Block, Pair, Weights

LIKELY = 96  # bins whose lower halves the first pass may count, in all threads: a MiB each
WORTH = 1 << 27  # parameters from which a reading spared is worth a sample
STRATEGIES = {  # what parameters are ranked by, and whether the lowest come first
    "top": (score_kernels.RELATIVE, False),
    "bottom": (score_kernels.RELATIVE, True),
    "random": (score_kernels.RANDOM, False),
    "absolute": (score_kernels.ABSOLUTE, False),
}


@dataclass(frozen=True)
class Measure:
    """What parameters are ranked by: a strategy, its arithmetic, the seed of `random`."""

    strategy: str = "top"
    dtype: torch.dtype = torch.float32
    seed: int = 0

    def keys(self, block: Block) -> np.ndarray:
        """Return the keys of a block, uint32: the highest are chosen first.

        Raises:
            ModelError: a weight is NaN or infinite.
        """
        out = np.empty(block.base.numel(), np.uint32)
        if not score_kernels.fill(*self.arguments(block), out):
            raise _not_finite(block)
        return out

    def arguments(self, block: Block) -> tuple:
        """Return what the functions of `repro.restoration.score_kernels` take."""
        kind, lowest = STRATEGIES[self.strategy]
        seed = _seed(f"{self.seed}:{block.name}")
        return *block.raw(), block.start, (kind, self.dtype is torch.bfloat16, lowest, seed)


@cache
def _seed(label: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.sha256(label.encode()).digest()[:8], "little"))


def _not_finite(block: Block) -> ModelError:
    return ModelError(f"{block.name} holds NaN or infinity in one of the models")


class Lows:
    """Numbers of keys by their lower halves, for some upper halves; those with p = 0 once more."""

    def __init__(self, bins: Sequence[int]):
        """Start at zero."""
        self.bins = tuple(bins)
        self.rows = np.zeros(BINS, np.int16)
        self.rows[list(bins)] = range(1, len(bins) + 1)
        self.table, self.zero = np.zeros((2, len(bins), LOWS), np.int64)

    def __getitem__(self, upper: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the counts of one bin: (all keys, those with p = 0)."""
        row = self.rows[upper] - 1
        return self.table[row], self.zero[row]

    @property
    def arguments(self) -> tuple:
        """Return what the functions of `repro.restoration.score_kernels` take."""
        return self.rows, self.table, self.zero

    def merge(self, other: "Lows") -> None:
        """Add another thread's counts."""
        self.table += other.table
        self.zero += other.zero


class Counts:
    """What the first pass counts; each thread has its own, and they are added."""

    def __init__(self, measure: Measure, bins: Sequence[int] = ()):
        """Start at zero; `bins` are those whose lower halves are counted already."""
        self.measure = measure
        self.keys, self.lows = Histogram(), Lows(bins)
        self.change: dict[str, int] = {}
        self.unchanged = 0
        self._packed = np.zeros((2, TABLES, BINS), np.int64)
        self._zero, self._waiting = Histogram(), 0

    def __call__(self, block: Block) -> None:
        """Count a block of at most `scores.MOST` parameters."""
        if self._waiting + len(block.base) > MOST:
            self._settle()
        given = self.measure.arguments(block)
        unchanged, zeros = score_kernels.count(*given, *self._packed, *self.lows.arguments)
        if unchanged < 0:
            raise _not_finite(block)
        self.unchanged += unchanged
        self._waiting += zeros
        self._add(block.name, self.keys.take(self._packed[0]))

    @property
    def zero(self) -> Histogram:
        """Of the keys of those with p = 0 alone."""
        self._settle()
        return self._zero

    def _settle(self) -> None:
        # To empty a table costs as much as to count a hundred thousand parameters: not each time.
        if self._waiting:
            self._zero.take(self._packed[1])
            self._waiting = 0

    def _add(self, name: str, change: int) -> None:
        self.change[name] = self.change.get(name, 0) + change

    def merge(self, other: "Counts") -> None:
        """Add another thread's counts."""
        self.keys.merge(other.keys)
        self.zero.merge(other.zero)
        self.lows.merge(other.lows)
        self.unchanged += other.unchanged
        for name, change in other.change.items():
            self._add(name, change)


@dataclass(frozen=True, eq=False)
class Ranking:
    """A pair of models and the counts of their scores; thresholds take a second reading."""

    pair: Pair
    counts: Counts

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """The tensors ranked, in the order in which ties are broken."""
        return self.pair.shapes

    @property
    def size(self) -> int:
        """Number of parameters ranked."""
        return self.pair.parameters

    @property
    def measure(self) -> Measure:
        """What they are ranked by."""
        return self.counts.measure

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
    block: int = tensor_pairs.SIZE,
    progress: Callable[[int], object] = lambda size: None,
    likely: Sequence[float] = (),
) -> Ranking:
    """Score every parameter of a region (r_i of Appendix B.2) and count the scores.

    Args:
        base: name → weights before fine-tuning.
        tuned: name → weights afterwards; the same names and shapes.
        region: a name of `regions.REGIONS`, or a regular expression searched in tensor names.
        score_dtype: arithmetic of the score; bfloat16 rounds each step, as the authors' tool.
        layers: such as `0-3`; empty for all.
        strategy: of `STRATEGIES`.
        seed: of `random`.
        threads: by default as many as PyTorch uses.
        block: parameters a thread takes at a time.
        progress: called with the bytes read.
        likely: percentages that thresholds will be asked of. A sample tells about where they
            are, so that one reading nearly always suffices; nothing but the time depends on it.

    Raises:
        ConfigError: an unknown strategy; the region matches nothing, or is no expression; a
            percentage is not between 0 and 100.
        ModelError: a tensor is missing, differs in shape, or holds NaN or infinity.
    """
    if strategy not in STRATEGIES:
        raise ConfigError(f"unknown strategy {strategy!r}: give one of {', '.join(STRATEGIES)}")
    both = tensor_pairs.pair(base, tuned, region, layers, threads, block, progress)
    measure = Measure(strategy, score_dtype, seed)
    worth = likely and both.parameters >= WORTH
    bins = _likely_bins(both, measure, likely) if worth else []
    return Ranking(
        both, count_in_threads(both, [Counts(measure, bins) for _ in range(both.threads)])
    )


def count_in_threads(both: Pair, lanes: list):
    """Let each thread count what it is given, and return the sum."""
    both.spread(lanes)
    for other in lanes[1:]:
        lanes[0].merge(other)
    return lanes[0]


def _likely_bins(both: Pair, measure: Measure, percents: Sequence[float]) -> list[int]:
    """Return the upper halves that thresholds may have, as a sample of the scores has them."""
    sample = Histogram()
    for block in both.sample():
        sample.add(measure.keys(block))
    bins: set[int] = set()
    for percent in percents:
        k = how_many(sample.size, percent)
        # Three standard errors, twice, since neighbours in a tensor are alike.
        margin = 6 * int((k * (sample.size - k) / max(sample.size, 1)) ** 0.5)
        ends = (min(max(x, 1), sample.size) for x in (k + margin, k - margin))
        first, last = (bin_of_rank(sample.counts, x) for x in ends)
        # Where all lower halves are zero, there is nothing to count.
        bins |= {b for b in range(first, last + 1) if sample.lows[b] or not sample.counts[b]}
    return sorted(bins) if len(bins) * both.threads <= LIKELY else []


def how_many(size: int, percent: float) -> int:
    """Return floor(percent · size / 100), exactly, for the percentage as it is written.

    Raises:
        ConfigError: the percentage is not between 0 and 100.
    """
    if not 0 <= percent <= 100:
        raise ConfigError(f"cannot restore {percent} %: give a percentage from 0 to 100")
    # Through the decimal text: 0.29 means 29/100, not the binary number next to it.
    return int(Fraction(str(percent)) * size / 100)


def bin_of_rank(counts: np.ndarray, k: int) -> int:
    """Return the highest place such that it and those above hold `k`."""
    beyond = counts[::-1].cumsum()
    return len(counts) - 1 - int(np.searchsorted(beyond, k))
