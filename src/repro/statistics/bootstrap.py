"""Paired intervals: the same questions put to several models, several data samples of each.

The models of a comparison answer the same questions, and a question that is easy for one is easy
for the other. So questions are drawn anew together for all of them, within each stratum (level).
Data samples are drawn anew together for the runs of one group (training level), whose samples of
one number are nested. The two are drawn apart and their deviations added; what depends on both is
counted twice, so the interval is, if anything, wide.

Two corrections for small numbers. One unit fewer than there are is drawn, which makes the variance
unbiased (Rao and Wu, 1988). And the interval is stretched by Student's t over the normal quantile
at Satterthwaite's degrees of freedom, since five samples say little of their own variance.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from scipy import stats

DRAWS = 2000
GROUP_SEED = 1000  # of joint draws; beyond the places that single contrasts count from 1
ENOUGH = 30  # questions of each level; a third as many must tell the models apart
FEW = 100  # units whose counts are cached apart
ARRAYS = ["values", "sizes", "strata"]
Term = tuple[float, Mapping[str, object]]


def contrast(
    units: pd.DataFrame, terms: Iterable[Term], enough: int = ENOUGH
) -> tuple[float, float, float] | None:
    """Return a weighted sum of run means with its paired 95 % interval, or None.

    `units` has one row per run and data sample: the columns that `terms` pick rows by, `sample`,
    and three arrays over what is drawn anew: `values`, `sizes` and `strata`. A run's mean is that
    over strata of sum(values) / sum(sizes), averaged over samples. Of answers a unit is a question,
    its value 0 or 1, its size 1, its stratum the level of the question; `test_level` in a term
    keeps one stratum. The contrast has the unit of the values.

    None stands for runs that are not in `units`, for terms of one training level with different
    data samples, for terms on different questions, and for strata of fewer than `enough` units.
    """
    drawn = draws(units, terms, enough)
    return drawn and (drawn.estimate, drawn.low, drawn.high)


@dataclass(frozen=True)
class Draws:
    """A contrast with its paired 95 % interval, and the draws that it shares with other contrasts.

    `deviations` has `DRAWS` values, each a redrawn contrast less the estimate, stretched for small
    numbers. One draw redraws the same questions and the same data samples in every contrast, so the
    draws of several contrasts are joint.
    """

    estimate: float
    low: float
    high: float
    deviations: np.ndarray


def draws(units: pd.DataFrame, terms: Iterable[Term], enough: int = ENOUGH) -> Draws | None:
    """Return a contrast with its draws, or None; arguments as in `contrast`."""
    if units.empty:
        return None
    picked = [(weight, where.get("train_level"), _pick(units, where)) for weight, where in terms]
    groups: dict[object, list] = {}
    for weight, group, rows in picked:
        groups.setdefault(group, []).append((weight, rows))
    if not groups or not all(_paired(pairs) for pairs in groups.values()):
        return None
    if not _same_units(rows for *_, rows in picked):
        return None
    sizes, strata = (picked[0][2][name].iloc[0] for name in ("sizes", "strata"))
    values = [sum(float(w) * np.stack(rows["values"]) for w, rows in p) for p in groups.values()]
    if not _suffices(sum(group.mean(axis=0) for group in values), strata, enough):
        return None
    return _drawn(values, sizes, strata, list(groups))


def interval(
    values: Sequence[np.ndarray], sizes: np.ndarray, strata: np.ndarray, seed: int = 0
) -> tuple[float, float, float]:
    """Return the sum over groups of the mean over samples, with its 95 % interval.

    `values` has one array (samples × units) per group; the groups share their units and not their
    data samples. A single sample has no spread: the interval is then that sample's own.
    """
    drawn = _drawn(values, sizes, strata, [None] * len(values), seed)
    return drawn.estimate, drawn.low, drawn.high


def _drawn(values: Sequence, sizes, strata, groups: Sequence[object], seed: int = 0) -> Draws:
    """Return the contrast of `interval` with its draws; `groups` names the data samples' groups.

    The interval numbers the groups by their place, the joint draws by their name: contrasts of one
    group then redraw the same samples, those of different groups draw independently.
    """
    each = [_ratios(group, sizes, strata) for group in values]
    estimate = float(sum(samples.mean() for samples in each))
    whole = sum(group.mean(axis=0) for group in values)
    questions = redrawn(whole, sizes, strata, seed)
    alone = joint = questions - estimate
    parts = [(questions.var(), len(sizes) - len(np.unique(strata)))]
    for place, (group, samples) in enumerate(zip(groups, each, strict=True)):
        if len(samples) > 1:
            alone = alone + _of_samples(samples, seed + 1 + place)
            joint = joint + _of_samples(samples, _seed_of(group, seed + 1 + place))
            parts.append((samples.var(ddof=1) / len(samples), len(samples) - 1))
    stretch = _stretch(parts)
    low, high = np.quantile(alone, [0.025, 0.975]) * stretch
    return Draws(estimate, estimate + float(low), estimate + float(high), joint * stretch)


def _of_samples(samples: np.ndarray, seed: int) -> np.ndarray:
    """Return the deviations that redrawing data samples makes."""
    sizes, strata = np.ones(len(samples)), np.zeros(len(samples))
    return redrawn(samples, sizes, strata, seed) - samples.mean()


def _seed_of(group: object, otherwise: int) -> int:
    """Return the seed of a group of data samples: its own where it is a number (a level)."""
    return GROUP_SEED + int(group) if isinstance(group, int | np.integer) else otherwise


def _ratios(values: np.ndarray, sizes: np.ndarray, strata: np.ndarray) -> np.ndarray:
    """Return the mean over strata of sum(values) / sum(sizes), one for each row of values."""
    members = [strata == stratum for stratum in np.unique(strata)]
    return np.mean([values[:, m].sum(axis=1) / sizes[m].sum() for m in members], axis=0)


def redrawn(values: np.ndarray, sizes: np.ndarray, strata: np.ndarray, seed: int) -> np.ndarray:
    """Return `DRAWS` means over strata of sum(values) / sum(sizes), each of units drawn anew.

    One `seed` draws the same units whatever the values, so that results can be compared.
    """
    key = np.ascontiguousarray(strata, dtype=np.int64).tobytes()
    # float32 throughout: mixed types would copy the counts at every call.
    columns = np.stack([values, sizes], axis=1).astype(np.float32)
    cached = _counts if len(sizes) > FEW else _few_counts
    sums = [counts @ columns[places] for places, counts in cached(key, seed)]
    return np.mean([s[:, 0] / s[:, 1] for s in sums], axis=0, dtype=float)


def _count(strata: bytes, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return each stratum's places and how often each is drawn: one fewer than there are."""
    generator, stratum_of = np.random.default_rng(seed), np.frombuffer(strata, np.int64)
    counts_by_stratum = []
    for stratum in np.unique(stratum_of):
        places = np.flatnonzero(stratum_of == stratum)
        chance = np.full(len(places), 1 / len(places))
        counts = generator.multinomial(max(len(places) - 1, 1), chance, size=DRAWS)
        counts_by_stratum.append((places, counts.astype(np.float32)))
    return counts_by_stratum


# The counts of many questions take tens of MB; those of a few data samples must not displace them.
_counts = lru_cache(maxsize=16)(_count)
_few_counts = lru_cache(maxsize=128)(_count)


def _stretch(parts: list[tuple[float, int]]) -> float:
    """Return Student's t over the normal quantile for (variance, degrees of freedom) parts."""
    total = sum(variance for variance, _ in parts)
    if total == 0:
        return 1.0
    freedom = total**2 / sum(variance**2 / df for variance, df in parts)
    return float(stats.t.ppf(0.975, freedom) / stats.norm.ppf(0.975))


def matching(frame: pd.DataFrame, where: Mapping[str, object]) -> np.ndarray:
    """Tell of every row whether it has the values that `where` asks of the columns there are."""
    matches = np.ones(len(frame), bool)
    for column, value in where.items():
        if column in frame:
            matches &= np.asarray(frame[column].to_numpy() == value, bool)
    return matches


def _pick(units: pd.DataFrame, where: Mapping[str, object]) -> pd.DataFrame:
    """Return the units of one run by data sample; of one stratum where a test level is asked."""
    rows, level = units[matching(units, where)].sort_values("sample"), where.get("test_level")
    if level is None or rows.empty:
        return rows
    in_stratum = rows["strata"].iloc[0] == level
    return rows.assign(**{name: [array[in_stratum] for array in rows[name]] for name in ARRAYS})


def _paired(pairs: list[tuple[float, pd.DataFrame]]) -> bool:
    """Tell whether the runs of one group have the same data samples, each once."""
    samples = {tuple(rows["sample"]) for _, rows in pairs}
    first = next(iter(samples))
    return len(samples) == 1 and 0 < len(first) == len(set(first))


def _same_units(runs: Iterable[pd.DataFrame]) -> bool:
    """Tell whether all runs have the same units."""
    rows = pd.concat(runs)
    return all(
        np.array_equal(rows[name].iloc[0], array)
        for name in ("sizes", "strata")
        for array in rows[name]
    )


def _suffices(differences: np.ndarray, strata: np.ndarray, enough: int) -> bool:
    """Tell whether every stratum has enough units, and a third as many tell the runs apart."""
    _, counts = np.unique(strata, return_counts=True)
    return counts.size > 0 and counts.min() >= enough and (differences != 0).sum() >= enough / 3
