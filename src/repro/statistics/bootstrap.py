"""Paired bootstrap intervals of models that answer the same questions.

The models of a comparison answer the same questions, and a question that is easy for one is easy
for the other. So questions are redrawn for all models together, within each stratum (level). Data
samples are redrawn together for the runs of one group (training level), because their samples of
one number are nested. Questions and samples are redrawn separately and their deviations are added.
A part that depends on both is then counted twice, so the interval is, if anything, too wide.

There are two corrections for small numbers. First, one unit fewer than there are is drawn, which
makes the variance unbiased (Rao and Wu, 1988). Second, the interval is stretched by the ratio of
Student's t to the normal quantile, at Satterthwaite's degrees of freedom, because five samples tell
little about their own variance.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from scipy import stats

DRAWS = 2000
GROUP_SEED = 1000  # first seed of joint draws, above the seeds of single contrasts
ENOUGH = 30  # fewest questions of each level; on a third as many the models must differ
FEW = 100  # up to so many units, their counts are cached separately
ARRAYS = ["values", "sizes", "strata"]
Term = tuple[float, Mapping[str, object]]


def contrast(
    units: pd.DataFrame, terms: Iterable[Term], enough: int = ENOUGH
) -> tuple[float, float, float] | None:
    """Return a weighted sum of run means with its paired 95 % interval, or None.

    The mean of a run is the mean over strata of sum(values) / sum(sizes), averaged over samples.
    For answers, a unit is a question, its value 0 or 1, its size 1, its stratum the level of the
    question.

    Args:
        units: one row per run and data sample. Its columns are those by which `terms` pick rows,
            `sample`, and three arrays over the units that are redrawn: `values`, `sizes`, `strata`.
        terms: pairs of a weight and the column values of a run; `test_level` keeps one stratum.
        enough: the fewest units of a stratum.

    Returns:
        (estimate, low, high) in the unit of the values. None if a run is not in `units`, if terms
        of one training level have different data samples or terms have different questions, or if
        a stratum has too few units.
    """
    drawn = draws(units, terms, enough)
    return drawn and (drawn.estimate, drawn.low, drawn.high)


@dataclass(frozen=True)
class Draws:
    """A contrast with its paired 95 % interval and its draws.

    `deviations` has `DRAWS` values, each a redrawn contrast less the estimate, stretched for small
    numbers. One draw redraws the same questions and the same data samples in every contrast, so the
    draws of several contrasts are joint.
    """

    estimate: float
    low: float
    high: float
    deviations: np.ndarray


def draws(units: pd.DataFrame, terms: Iterable[Term], enough: int = ENOUGH) -> Draws | None:
    """Return a contrast with its draws, or None. The arguments are those of `contrast`."""
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

    Args:
        values: one array (samples, units) per group. The groups share their units, but not their
            data samples. With a single sample the interval covers the choice of units alone.
        sizes: (units,).
        strata: (units,), the stratum of each unit.
        seed: of the draws.

    Returns:
        (estimate, low, high).
    """
    drawn = _drawn(values, sizes, strata, [None] * len(values), seed)
    return drawn.estimate, drawn.low, drawn.high


def _drawn(values: Sequence, sizes, strata, groups: Sequence[object], seed: int = 0) -> Draws:
    """Return the contrast of `interval` with its draws; `groups` names the data samples' groups.

    The seed of a group's samples is its place for the interval, and its name for the joint draws.
    So contrasts of one group redraw the same samples, and those of different groups draw
    independently.
    """
    means_by_group = [_ratios(group, sizes, strata) for group in values]
    estimate = float(sum(samples.mean() for samples in means_by_group))
    # Step 1: redraw the units, of the sum over groups of the means over samples.
    summed = sum(group.mean(axis=0) for group in values)
    of_units = redrawn(summed, sizes, strata, seed)
    alone = joint = of_units - estimate
    variances = [(of_units.var(), len(sizes) - len(np.unique(strata)))]
    # Step 2: redraw the data samples of each group, and add their deviations.
    for place, (group, samples) in enumerate(zip(groups, means_by_group, strict=True)):
        if len(samples) > 1:
            alone = alone + _of_samples(samples, seed + 1 + place)
            joint = joint + _of_samples(samples, _seed_of(group, seed + 1 + place))
            variances.append((samples.var(ddof=1) / len(samples), len(samples) - 1))
    # Step 3: stretch the deviations, because few samples tell little about their variance.
    stretch = _stretch(variances)
    low, high = np.quantile(alone, [0.025, 0.975]) * stretch
    return Draws(estimate, estimate + float(low), estimate + float(high), joint * stretch)


def _of_samples(samples: np.ndarray, seed: int) -> np.ndarray:
    """Return the deviations from the mean when data samples are redrawn: (DRAWS,)."""
    sizes, strata = np.ones(len(samples)), np.zeros(len(samples))
    return redrawn(samples, sizes, strata, seed) - samples.mean()


def _seed_of(group: object, otherwise: int) -> int:
    """Return the seed of a group of data samples, from its name if that is a number (a level)."""
    return GROUP_SEED + int(group) if isinstance(group, int | np.integer) else otherwise


def _ratios(values: np.ndarray, sizes: np.ndarray, strata: np.ndarray) -> np.ndarray:
    """Return the mean over strata of sum(values) / sum(sizes), one for each row of values."""
    members = [strata == stratum for stratum in np.unique(strata)]
    return np.mean([values[:, m].sum(axis=1) / sizes[m].sum() for m in members], axis=0)


def redrawn(values: np.ndarray, sizes: np.ndarray, strata: np.ndarray, seed: int) -> np.ndarray:
    """Return `DRAWS` means over strata of sum(values) / sum(sizes), each of redrawn units.

    The same `seed` draws the same units for all values, so that results can be compared.
    """
    key = np.ascontiguousarray(strata, dtype=np.int64).tobytes()
    # All in float32, because mixed types would copy the counts at every call.
    columns = np.stack([values, sizes], axis=1).astype(np.float32)
    cached = _counts if len(sizes) > FEW else _few_counts
    sums = [counts @ columns[places] for places, counts in cached(key, seed)]
    return np.mean([s[:, 0] / s[:, 1] for s in sums], axis=0, dtype=float)


def _count(strata: bytes, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the places of each stratum, and how often each is drawn: (DRAWS, places).

    One unit fewer than there are is drawn (Rao and Wu).
    """
    generator, stratum_of = np.random.default_rng(seed), np.frombuffer(strata, np.int64)
    counts_by_stratum = []
    for stratum in np.unique(stratum_of):
        places = np.flatnonzero(stratum_of == stratum)
        chance = np.full(len(places), 1 / len(places))
        counts = generator.multinomial(max(len(places) - 1, 1), chance, size=DRAWS)
        counts_by_stratum.append((places, counts.astype(np.float32)))
    return counts_by_stratum


# The counts of many questions take tens of MB and are slow to make. They have a cache of their
# own, so that the counts of a few data samples do not displace them.
_counts = lru_cache(maxsize=16)(_count)
_few_counts = lru_cache(maxsize=128)(_count)


def _stretch(parts: list[tuple[float, int]]) -> float:
    """Return the ratio of Student's t to the normal quantile.

    `parts` are the (variance, degrees of freedom) that add up to the whole variance.
    """
    total = sum(variance for variance, _ in parts)
    if total == 0:
        return 1.0
    freedom = total**2 / sum(variance**2 / df for variance, df in parts)
    return float(stats.t.ppf(0.975, freedom) / stats.norm.ppf(0.975))


def matching(frame: pd.DataFrame, where: Mapping[str, object]) -> np.ndarray:
    """Return which rows have the values of `where`, bool (rows,).

    Columns that the frame does not have are ignored.
    """
    matches = np.ones(len(frame), bool)
    for column, value in where.items():
        if column in frame:
            matches &= np.asarray(frame[column].to_numpy() == value, bool)
    return matches


def _pick(units: pd.DataFrame, where: Mapping[str, object]) -> pd.DataFrame:
    """Return the units of one run by data sample; of one stratum if `where` has a test level."""
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
    """Tell whether every stratum has enough units, and a third as many differ between runs."""
    _, counts = np.unique(strata, return_counts=True)
    return counts.size > 0 and counts.min() >= enough and (differences != 0).sum() >= enough / 3
