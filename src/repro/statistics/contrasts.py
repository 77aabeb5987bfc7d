"""The numbers of one comparison: a weighted sum of runs with its 95 % interval.

There are three ways to an interval:

- *paired*: if the answers to single questions are stored, questions and data samples are redrawn
  (`bootstrap`), jointly for all comparisons.
- *apart*: otherwise the distances from each estimate to the ends of its own interval are added in
  quadrature (Newcombe's square-and-add method), and with two data samples or more the spread
  between samples too. This takes the answers of different runs as independent. They answer the same
  questions, so the true interval is, if anything, narrower.
- *rounding*: printed numbers are known up to rounding, whose half-widths add up. If a spread over
  runs is printed too, Student's t for its degrees of freedom is added.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from repro.statistics import bootstrap, multiple
from repro.statistics.intervals import Z95

# How an interval was made: see above.
PAIRED, APART = "paired", "apart"
ROUNDING, ROUNDING_AND_SPREAD = "rounding", "rounding and spread"
TOPICS = 6  # the fewest topics that a paired interval of a divergence needs
Term = bootstrap.Term
Units = pd.DataFrame | None  # rows as `bootstrap.contrast` takes them


@dataclass(frozen=True)
class Comparison:
    """A weighted sum of runs that a statement expects "above" or "below" the number `than`.

    Attributes:
        text: the comparison in words.
        terms: pairs of a weight and of column values that pick one row of `frame`.
        expected: "above" or "below".
        frame: a summary with the column accuracy (percent) or kl (nats). If it has the column
            `rounding` (half a unit of the last digit), it holds printed numbers; its columns
            `spread` and `n`, if any, are the standard deviation over n runs, or NaN.
        units: what a paired interval needs, as `bootstrap.contrast` takes it.
        than: the number that the sum is compared with.
    """

    text: str
    terms: Sequence[Term]
    expected: str
    frame: pd.DataFrame
    units: Units = None
    than: float = 0.0


@dataclass(frozen=True)
class Measured:
    """The numbers of a comparison; all NaN if a run does not exist.

    Attributes:
        estimate, low, high: the weighted sum and the ends of its 95 % interval.
        way: how the interval was made: `PAIRED`, `APART`, `ROUNDING` or `ROUNDING_AND_SPREAD`.
        deviations: of a paired interval, the joint draws less the estimate.
        rounding: of printed numbers, the half-width that rounding alone gives.
        error: of printed numbers, the standard error from the spread over runs.
        freedom: the degrees of freedom of `error`.
    """

    estimate: float = np.nan
    low: float = np.nan
    high: float = np.nan
    way: str = ""
    deviations: np.ndarray | None = None
    rounding: float = 0.0
    error: float = 0.0
    freedom: float = np.inf


def contrast(terms: Iterable[tuple[float, pd.Series]], value: str) -> tuple[float, float, float]:
    """Return a weighted sum of estimates with its 95 % interval (square-and-add).

    Args:
        terms: pairs of a weight and a row with the columns `value`, low, high and, if known,
            spread and n.
        value: the column of the estimates.

    Returns:
        (estimate, low, high).
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

    Half-widths of rounding add up linearly, because in the worst case each number is off by its
    whole half-width. The standard error comes from the printed spreads, its degrees of freedom from
    the formula of Welch and Satterthwaite. Without any spread they are 0 and infinite.
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
    """Return the numbers of a comparison; they are NaN if a run does not exist."""
    value = "kl" if "kl" in comparison.frame else "accuracy"
    rows = [(weight, _pick(comparison.frame, where)) for weight, where in comparison.terms]
    if any(row is None for _, row in rows):
        return Measured()
    if "rounding" in comparison.frame:
        return _measure_printed(rows, value)
    enough, scale = (TOPICS, 1) if value == "kl" else (bootstrap.ENOUGH, 100)
    units = comparison.units
    drawn = None if units is None else bootstrap.draws(units, comparison.terms, enough)
    if drawn is None:
        return Measured(*contrast(rows, value), APART)
    numbers = (scale * number for number in (drawn.estimate, drawn.low, drawn.high))
    return Measured(*numbers, PAIRED, scale * drawn.deviations)


def _measure_printed(rows: list[tuple[float, pd.Series]], value: str) -> Measured:
    """Return the numbers of a comparison of printed numbers, from pairs of (weight, row)."""
    estimate, rounding, error, freedom = contrast_of_printed(rows, value)
    half = rounding + _quantile(1, freedom) * error
    way = ROUNDING_AND_SPREAD if error else ROUNDING
    ends = (estimate - half, estimate + half)
    return Measured(estimate, *ends, way, None, rounding, error, freedom)


def joint_bounds(measured: list[Measured]) -> list[tuple[float, float]]:
    """Return the ends of intervals that hold for all comparisons together, at 95 %.

    They are max-t intervals if all comparisons have joint draws. Otherwise each is corrected by
    Bonferroni's method, but for the part that is due to rounding.
    """
    existing = [i for i, one in enumerate(measured) if not np.isnan([one.low, one.high]).any()]
    draws = [measured[i].deviations for i in existing]
    if existing and all(deviations is not None for deviations in draws):
        estimates = np.array([measured[i].estimate for i in existing])
        bounds = zip(*multiple.simultaneous(estimates, np.stack(draws, axis=1)), strict=True)
    else:
        bounds = (_bonferroni(measured[i], len(existing)) for i in existing)
    bounds_by_place = dict(zip(existing, bounds, strict=True))
    return [bounds_by_place.get(i, (np.nan, np.nan)) for i in range(len(measured))]


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

    The interval comes from joint draws, if all comparisons have them. Otherwise the distances to
    the ends are averaged as if all comparisons moved together; the interval of the mean cannot be
    wider than that.
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
    """Return the distances from an estimate to the ends of its interval.

    If there are several data samples, the spread between them is added in quadrature.
    """
    samples, spread = row.get("n", 1), row.get("spread", np.nan)
    between = Z95 * spread / np.sqrt(samples) if samples > 1 and not pd.isna(spread) else 0.0
    estimate = row[value]
    return np.hypot(estimate - row["low"], between), np.hypot(row["high"] - estimate, between)
