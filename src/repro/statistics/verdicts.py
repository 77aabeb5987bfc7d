"""Is a statement about runs true? By a rule, never by eye.

A statement is made of comparisons: each says that one accuracy (or divergence) is below or above
another. A comparison is *supported* when its own 95 % interval lies on the stated side,
*contradicted* when the interval lies on the other side even after correction for the number of
comparisons, and *undecided* otherwise, also where the runs do not exist.

A statement of all its comparisons *holds* when all are supported. That needs no correction: to ask
for all of them is strict enough (an intersection–union test). It is *contradicted* when any is:
there the correction counts, since among many comparisons some fail by chance. It *holds with
exceptions* when some are contradicted but at least three quarters hold. A statement of *most* or of
*some* comparisons is tested by partial conjunction (`multiple`).

Where the answers to single questions are kept, the interval is *paired*: questions and data
samples are drawn anew (`bootstrap`), jointly for all comparisons. Otherwise the models stand
*apart*: the distances from each estimate to its own interval's ends are added in quadrature
(Newcombe's square-and-add method), with two data samples or more also the spread between samples.
That takes their answers as independent; they answer the same questions, so the true interval is, if
anything, narrower. Printed numbers are known up to *rounding*, whose half-widths add up; where a
spread over runs is printed too, Student's t for its degrees of freedom is added.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from repro.statistics import bootstrap, multiple
from repro.statistics.intervals import Z95

SUPPORTED, CONTRADICTED, UNDECIDED = "supported", "contradicted", "undecided"  # a comparison
HOLDS, EXCEPTIONS = "holds", "holds with exceptions"  # a statement; or contradicted or undecided
ALL, MOST, SOME = "all", "most", "some"  # of the comparisons, that a statement speaks of
MOSTLY = 0.75  # of the comparisons must hold for the rest to be exceptions
COLUMNS = ["claim", "runs", "estimate", "low", "high", "interval", "verdict"]
SHOWN = [column for column in COLUMNS if column != "runs"]  # in tables of the book
FOR, AGAINST = "p_for", "p_against"
JOINT = ["than", "low_joint", "high_joint", FOR, AGAINST]  # beside `COLUMNS`, of joint tests
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
class _Measured:
    """A comparison's numbers: interval ends, how they were made, joint draws or chance distance."""

    estimate: float = np.nan
    low: float = np.nan
    high: float = np.nan
    way: str = ""
    deviations: np.ndarray | None = None
    rounding: float = 0.0
    error: float = 0.0  # of printed numbers, from the spread over runs
    freedom: float = np.inf


def judge(low: float, high: float, expected: str) -> str:
    """Return the verdict on an interval, `expected` being "below" or "above" zero."""
    if np.isnan(low) or np.isnan(high) or low <= 0 <= high:
        return UNDECIDED
    return SUPPORTED if (high < 0) == (expected == "below") else CONTRADICTED


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


def compare(
    text: str, frame: pd.DataFrame, terms: list[Term], expected: str, units: Units = None
) -> dict:
    """Test one comparison alone, without correction; returns a row of `COLUMNS`.

    Arguments as in `Comparison`. A run that does not exist leaves the estimate empty and the
    verdict undecided.
    """
    comparison = Comparison(text, terms, expected, frame, units)
    result = _measure(comparison)
    return _row(comparison, result, judge(result.low, result.high, expected))


def compare_jointly(comparisons: Iterable[Comparison], of: str = ALL) -> pd.DataFrame:
    """Test the comparisons of one statement together: rows of `COLUMNS` and `JOINT`.

    The joint ends are of intervals that hold for all of them together, at 95 %.
    `of` says how many of them the statement speaks of. Of all, what contradicts is corrected for
    their number; of some, what supports. `attrs["pooled"]` is the mean effect in the stated
    direction with its 95 % interval, in the unit of the frames, where a frame is of one unit.
    """
    comparisons = list(comparisons)
    return _judged(comparisons, [_measure(comparison) for comparison in comparisons], of)


def _judged(comparisons: list[Comparison], measured: list[_Measured], of: str) -> pd.DataFrame:
    """Return the rows of `compare_jointly` from the numbers of the comparisons."""
    joint = _joint_bounds(measured)
    rows = []
    for comparison, result, (low, high) in zip(comparisons, measured, joint, strict=True):
        verdict = _verdict(comparison, result, (low, high), of)
        values = (comparison.than, low, high, *_p_values(comparison, result))
        rows.append(_row(comparison, result, verdict) | dict(zip(JOINT, values, strict=True)))
    table = pd.DataFrame(rows, columns=COLUMNS + JOINT)
    table.attrs["pooled"] = _pooled(comparisons, measured)
    return table


def overall(rows: pd.DataFrame, of: str = ALL) -> str:
    """Return the verdict on a statement of all, most or some of these comparisons."""
    counts = rows["verdict"].value_counts()
    supported, contradicted = (int(counts.get(v, 0)) for v in (SUPPORTED, CONTRADICTED))
    k = len(rows)
    if not k:
        return UNDECIDED
    if of == SOME:
        return HOLDS if supported else CONTRADICTED if contradicted == k else UNDECIDED
    needed = k if of == ALL else k // 2 + 1
    if supported >= needed and _in_at_least(rows, needed, FOR):
        return HOLDS
    against = k - needed + 1
    if contradicted < against or (of == MOST and not _in_at_least(rows, against, AGAINST)):
        return UNDECIDED
    mostly = math.ceil(MOSTLY * k)
    return EXCEPTIONS if supported >= mostly and _in_at_least(rows, mostly, FOR) else CONTRADICTED


def count(rows: pd.DataFrame) -> tuple[int, int]:
    """Return how many of the comparisons are supported, and how many there are."""
    return int((rows["verdict"] == SUPPORTED).sum()), len(rows)


def sentence(name: str, rows: pd.DataFrame) -> str:
    """Return one line of Markdown that says whether `name` holds and on what it rests."""
    counts = rows["verdict"].value_counts()
    parts = [f"{counts.get(v, 0)} {v}" for v in (SUPPORTED, CONTRADICTED, UNDECIDED)]
    plural = "" if len(rows) == 1 else "s"
    return f"**{name}: {overall(rows)}.** Of {len(rows)} comparison{plural}: {', '.join(parts)}."


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


def _measure(comparison: Comparison) -> _Measured:
    """Return a comparison's numbers: of printed, of paired, or of separate runs."""
    value = "kl" if "kl" in comparison.frame else "accuracy"
    rows = [(weight, _pick(comparison.frame, where)) for weight, where in comparison.terms]
    if any(row is None for _, row in rows):
        return _Measured()
    if "rounding" in comparison.frame:
        estimate, rounding, error, freedom = contrast_of_printed(rows, value)
        half = rounding + _quantile(1, freedom) * error
        way = ROUNDING_AND_SPREAD if error else ROUNDING
        ends = (estimate - half, estimate + half)
        return _Measured(estimate, *ends, way, None, rounding, error, freedom)
    enough, scale = (TOPICS, 1) if value == "kl" else (bootstrap.ENOUGH, 100)
    units = comparison.units
    drawn = None if units is None else bootstrap.draws(units, comparison.terms, enough)
    if drawn is None:
        return _Measured(*contrast(rows, value), APART)
    numbers = (scale * number for number in (drawn.estimate, drawn.low, drawn.high))
    return _Measured(*numbers, PAIRED, scale * drawn.deviations)


def _joint_bounds(measured: list[_Measured]) -> list[tuple[float, float]]:
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


def _bonferroni(one: _Measured, k: int) -> tuple[float, float]:
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


def _verdict(comparison: Comparison, result: _Measured, joint: tuple, of: str) -> str:
    """Judge a comparison by its own interval, and by the joint one in the corrected direction."""
    if result.estimate == result.low == result.high == 0:
        return UNDECIDED  # 0 of 0 in every draw: what never varied decides nothing
    alone, together = (
        judge(low - comparison.than, high - comparison.than, comparison.expected)
        for low, high in ((result.low, result.high), joint)
    )
    if (of == ALL and alone == CONTRADICTED) or (of == SOME and alone == SUPPORTED):
        return together
    return alone


def _row(comparison: Comparison, result: _Measured, verdict: str) -> dict:
    numbers = (result.estimate, result.low, result.high)
    values = [comparison.text, _describe(comparison.terms), *numbers, result.way, verdict]
    return dict(zip(COLUMNS, values, strict=True))


def _in_at_least(rows: pd.DataFrame, u: int, column: str) -> bool:
    """Tell by partial conjunction, one-sided 2.5 %, whether `column` speaks in at least u rows.

    Rows without p-values are certain: the verdict itself says what they are.
    """
    if column not in rows:
        p_values = 1.0 - (rows["verdict"] == {FOR: SUPPORTED, AGAINST: CONTRADICTED}[column])
    else:
        p_values = rows[column].fillna(1.0)
    return multiple.partial_conjunction(p_values, u) <= 0.025


def _p_values(comparison: Comparison, result: _Measured) -> tuple[float, float]:
    """Return the p-values for and against a comparison, which fit its own interval.

    Rounding is no chance: numbers known up to rounding, or that never vary, have 0 and 1.
    """
    alone = _verdict(comparison, result, (result.low, result.high), ALL)
    if result.way == ROUNDING or result.low == result.high:
        return 1.0 - (alone == SUPPORTED), 1.0 - (alone == CONTRADICTED)
    estimate, low, high = (x - comparison.than for x in (result.estimate, result.low, result.high))
    above = multiple.one_sided_p(estimate, low, high)
    below = multiple.one_sided_p(-estimate, -high, -low)
    return (above, below) if comparison.expected == "above" else (below, above)


def _pooled(comparisons: list[Comparison], measured: list[_Measured]) -> tuple | None:
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


def _describe(terms: Sequence[Term]) -> str:
    """Return terms in words, such as "level 0, 1920 facts − level 0, 240 facts"."""
    words = {
        "train_level": "level {}",
        "train_size": "{} facts",
        "size_label": "{} facts",
        "restored_percent": "{:g}% restored",
        "strategy": "{}",
        "test_level": "on level {}",
        "split": "on {}",
    }
    text = ""
    for weight, where in terms:
        parts = [
            words[column].format(value)
            for column, value in where.items()
            if column in words and (value != 0 or column == "train_level")
        ]
        sign = " − " if weight < 0 else " + " if text else ""
        times = "" if abs(weight) == 1 else f"{abs(weight):.2f} × "
        text += sign + times + ", ".join(parts)
    return text


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
