"""TODO docstring of statistics.contrasts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from repro.statistics import bootstrap, multiple
from repro.statistics.intervals import Z95

PAIRED, APART = "paired", "apart"  # how an interval was made


ROUNDING, ROUNDING_AND_SPREAD = "rounding", "rounding and spread"


TOPICS = 6  # that a paired interval of a divergence needs


Term = bootstrap.Term


Units = pd.DataFrame | None  # rows as `bootstrap.contrast` takes them


@dataclass(frozen=True)
class Comparison:
    """A weighted sum of runs that a statement expects "above" or "below" the number `than`.

    `terms` are weights and column values that pick one row each of `frame`, a summary with accuracy
    (percent) or kl (nats). `units` are what a paired interval needs. A frame with the column
    `rounding` (half a unit of the last digit) holds printed numbers; where it also has `spread` and
    `n`, they are the standard deviation over n runs, or NaN.
    """

    text: str
    terms: Sequence[Term]
    expected: str
    frame: pd.DataFrame
    units: Units = None
    than: float = 0.0


@dataclass(frozen=True)
class Measured:
    """A comparison's numbers: interval ends, how they were made, joint draws or chance distance."""

    estimate: float = np.nan
    low: float = np.nan
    high: float = np.nan
    way: str = ""
    deviations: np.ndarray | None = None
    rounding: float = 0.0
    error: float = 0.0  # of printed numbers, from the spread over runs
    freedom: float = np.inf


def contrast(terms: Iterable[tuple[float, pd.Series]], value: str) -> tuple[float, float, float]:
    """Return a weighted sum of estimates with its 95 % interval (square-and-add).

    Every term is a weight and a row with `value`, low, high and, where known, spread and n.
    """
    total = down = up = 0.0
    for weight, row in terms:
        below, above = _distances(row, value)
        if weight < 0:
            below, above = above, below
        total += weight * row[value]
        down += (weight * below) ** 2
        up += (weight * above) ** 2
    return total, total - np.sqrt(down), total + np.sqrt(up)


def contrast_of_printed(
    terms: Iterable[tuple[float, pd.Series]], value: str
) -> tuple[float, float, float, float]:
    """Return a weighted sum of printed numbers: estimate, rounding, standard error, freedom.

    Rounding half-widths add up linearly: each may be off by its whole half-width in the worst
    direction. The standard error is that of the spreads that are printed, its degrees of freedom
    Welch's and Satterthwaite's; without any spread they are 0 and infinite.
    """
    estimate = rounding = 0.0
    variances = []
    for weight, row in terms:
        estimate += weight * row[value]
        rounding += abs(weight) * row["rounding"]
        if not pd.isna(spread := row.get("spread", np.nan)) and spread > 0:
            variances.append((weight**2 * spread**2 / row["n"], row["n"] - 1))
    total = sum(variance for variance, _ in variances)
    if not total:
        return estimate, rounding, 0.0, np.inf
    freedom = total**2 / sum(variance**2 / df for variance, df in variances)
    return estimate, rounding, float(np.sqrt(total)), freedom


def measure(comparison: Comparison) -> Measured:
    """Return a comparison's numbers: of printed, of paired, or of separate runs."""
    value = "kl" if "kl" in comparison.frame else "accuracy"
    rows = [(weight, _pick(comparison.frame, where)) for weight, where in comparison.terms]
    if any(row is None for _, row in rows):
        return Measured()
    if "rounding" in comparison.frame:
        estimate, rounding, error, freedom = contrast_of_printed(rows, value)
        half = rounding + _quantile(1, freedom) * error
        way = ROUNDING_AND_SPREAD if error else ROUNDING
        ends = (estimate - half, estimate + half)
        return Measured(estimate, *ends, way, None, rounding, error, freedom)
    enough, scale = (TOPICS, 1) if value == "kl" else (bootstrap.ENOUGH, 100)
    units = comparison.units
    drawn = None if units is None else bootstrap.draws(units, comparison.terms, enough)
    if drawn is None:
        return Measured(*contrast(rows, value), APART)
    numbers = (scale * number for number in (drawn.estimate, drawn.low, drawn.high))
    return Measured(*numbers, PAIRED, scale * drawn.deviations)


def joint_bounds(measured: list[Measured]) -> list[tuple[float, float]]:
    """Return the ends of intervals that hold for all comparisons together, at 95 %.

    Max-t where all have joint draws, else Bonferroni's correction of what is not rounding.
    """
    known = [one for one in measured if not np.isnan(one.low) and not np.isnan(one.high)]
    if known and all(one.deviations is not None for one in known):
        estimates = np.array([one.estimate for one in known])
        draws = np.stack([one.deviations for one in known], axis=1)
        ends = list(zip(*multiple.simultaneous(estimates, draws), strict=True))
    else:
        ends = [_bonferroni(one, len(known)) for one in known]
    by_measured = dict(zip(map(id, known), ends, strict=True))
    return [by_measured.get(id(one), (np.nan, np.nan)) for one in measured]


def _bonferroni(one: Measured, k: int) -> tuple[float, float]:
    """Return the ends of an interval that is one of k, corrected by Bonferroni's method."""
    if one.way.startswith(ROUNDING):
        half = one.rounding + _quantile(k, one.freedom) * one.error
        return one.estimate - half, one.estimate + half
    distances = np.array([one.estimate - one.low, one.high - one.estimate])
    below, above = multiple.widened(distances, k)
    return one.estimate - below, one.estimate + above


def _quantile(k: int, freedom: float) -> float:
    """Return Student's quantile for one of k intervals that hold together at 95 % (Bonferroni)."""
    return float(stats.t.ppf(1 - 0.025 / k, freedom))


def pooled(comparisons: list[Comparison], measured: list[Measured]) -> tuple | None:
    """Return the mean effect in the stated direction with its interval, or None.

    From joint draws where all comparisons have them. Without, the distances to the ends are
    averaged as if all moved together: the interval of the mean cannot be wider.
    """
    pairs = [
        (-1 if comparison.expected == "below" else 1, comparison.than, one)
        for comparison, one in zip(comparisons, measured, strict=True)
        if not np.isnan(one.low) and comparison.expected in ("above", "below")
    ]
    if not pairs:
        return None
    effects = np.array([sign * (one.estimate - than) for sign, than, one in pairs])
    if all(one.deviations is not None for *_, one in pairs):
        draws = np.stack([sign * one.deviations for sign, _, one in pairs], axis=1)
        return multiple.pooled(effects, draws)
    below = np.mean(
        [one.estimate - one.low if s > 0 else one.high - one.estimate for s, _, one in pairs]
    )
    above = np.mean(
        [one.high - one.estimate if s > 0 else one.estimate - one.low for s, _, one in pairs]
    )
    estimate = float(effects.mean())
    return estimate, estimate - float(below), estimate + float(above)


def _pick(frame: pd.DataFrame, where: Mapping[str, object]) -> pd.Series | None:
    """Return the one row of a frame that a term picks, or None."""
    places = np.flatnonzero(bootstrap.matching(frame, where))
    return frame.iloc[places[0]] if len(places) == 1 else None


def _distances(row: pd.Series, value: str) -> tuple[float, float]:
    """Return how far the ends lie from an estimate, with the spread between data samples."""
    samples, spread = row.get("n", 1), row.get("spread", np.nan)
    between = Z95 * spread / np.sqrt(samples) if samples > 1 and not pd.isna(spread) else 0.0
    estimate = row[value]
    return np.hypot(estimate - row["low"], between), np.hypot(row["high"] - estimate, between)
