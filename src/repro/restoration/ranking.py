"""Ranks all parameters of two models exactly, a block at a time (§5, App. B.2).

A first pass counts the upper halves of all scores, a second the lower halves of those that share
theirs with a threshold; this gives the exact thresholds and sums of any number of shares. Counts
and sums are whole numbers, so nothing depends on the size of a block or the order of threads.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy as np
import pandas as pd
import torch

from repro.errors import ConfigError, ModelError
from repro.restoration import regions, score_kernels, tensor_pairs
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
    return Ranking(both, _spread(both, [Counts(measure, bins) for _ in range(both.threads)]))


def _spread(both: Pair, lanes: list):
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
        first, last = (_last(sample.counts, x) for x in ends)
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
    bins = {k: _last(ranking.counts.keys.counts, k) for k in counts.values() if k}
    lows = _refined(ranking, set(bins.values()) - set(ranking.counts.lows.bins))
    cuts = {
        k: _cut(ranking, k, upper, lows if upper in lows.bins else ranking.counts.lows)
        for k, upper in bins.items()
    }
    return {x: cuts.get(k, Cut(0)) for x, k in counts.items()}


def _last(counts: np.ndarray, k: int) -> int:
    """Return the highest place such that it and those above hold `k`."""
    beyond = counts[::-1].cumsum()
    return len(counts) - 1 - int(np.searchsorted(beyond, k))


def _refined(ranking: Ranking, bins: set[int]) -> Lows:
    """Count lower halves in the second pass, of the bins that the first did not count them in."""
    both, keys, zero = ranking.pair, ranking.counts.keys, ranking.counts.zero
    found = Lows(sorted(bins))
    if keys.lows[list(found.bins)].any():
        others = [Lows(found.bins) for _ in range(both.threads - 1)]
        _spread(both, [Second(ranking.measure, lows) for lows in (found, *others)])
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
    low = _last(table, inside)
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


def concentration(ranking: Ranking, percents: Sequence[float]) -> pd.DataFrame:
    """Return the share of the total change that the most changed parameters hold (Table 3).

    Returns:
        DataFrame[top_percent, share_of_change_percent, without_zero_base_percent, k, n,
        threshold, moved, zero_base, unchanged]. Sums are exact, rounded once. `moved` counts the
        k that differ at all; `zero_base` and `unchanged` count the parameters with p = 0 and
        s = p in the whole region. One with p = 0 that moved has a score of |s| / 1e-8 and
        outweighs thousands, so `without_zero_base_percent` is the same share with those left out
        of the chosen and of the total.

    Raises:
        ConfigError: the ranking is not by size, or a percentage is not between 0 and 100.
    """
    if ranking.measure.strategy not in ("top", "absolute"):
        raise ConfigError("concentration is of the largest changes: rank by top or absolute")
    total, zero = ranking.counts.keys.total(), ranking.counts.zero.total()
    rows = [
        {
            "top_percent": percent,
            "share_of_change_percent": percentage(cut.held, total),
            "without_zero_base_percent": percentage(cut.held - cut.held_zero, total - zero),
            "k": cut.k,
            "n": ranking.size,
            "threshold": cut.threshold,
            "moved": cut.k if cut.key else cut.k - cut.ties,
            "zero_base": ranking.zero_base,
            "unchanged": ranking.unchanged,
        }
        for percent, cut in thresholds(ranking, percents).items()
    ]
    return pd.DataFrame(rows)


def percentage(part: int, whole: int) -> float:
    """Return 100 · part / whole, rounded once; 0 where there is nothing."""
    return float(Fraction(100 * part, whole)) if whole else 0.0


def by_tensor(ranking: Ranking, percents: Sequence[float]) -> pd.DataFrame:
    """Return where the chosen parameters are, tensor by tensor (Table 10 by layer and module).

    Returns:
        DataFrame[tensor, layer, module, n, change_percent, one column per percentage]: the
        tensor's share of the sum of all keys, NaN where keys are no sizes, and how many of its
        parameters are among the chosen.
    """
    cuts = thresholds(ranking, percents)
    chosen = _chosen(ranking, list(cuts.values()))
    sizes, total = ranking.measure.strategy in ("top", "absolute"), ranking.counts.keys.total()
    rows = [
        {
            "tensor": name,
            "layer": regions.layer(name),
            "module": regions.module(name),
            "n": shape.numel(),
            "change_percent": percentage(ranking.counts.change.get(name, 0), total)
            if sizes
            else np.nan,
            **dict(zip(cuts, (int(k) for k in chosen[place]), strict=True)),
        }
        for place, (name, shape) in enumerate(ranking.shapes.items())
    ]
    return pd.DataFrame(rows)


def _chosen(ranking: Ranking, cuts: list[Cut]) -> np.ndarray:
    """Return how many parameters of each tensor (rows) each cut (columns) chooses."""
    place = {name: i for i, name in enumerate(ranking.shapes)}
    keys = np.array([cut.key for cut in cuts], np.uint32)
    found = np.zeros((ranking.pair.threads, 2, len(place), len(cuts)), np.int64)

    def worker(above: np.ndarray, equal: np.ndarray) -> Callable[[Block], None]:
        def count(block: Block) -> None:
            row = place[block.name]
            score_kernels.exceed(ranking.measure.keys(block), keys, above[row], equal[row])

        return count

    ranking.pair.spread([worker(*tables) for tables in found])
    above, equal = found.sum(0)
    before = equal.cumsum(0) - equal
    return above + np.clip(np.array([cut.ties for cut in cuts]) - before, 0, equal)
