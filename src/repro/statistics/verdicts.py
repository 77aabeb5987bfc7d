"""Verdicts: a fixed rule decides whether a statement about runs is true.

A statement is made of comparisons. Each says that one accuracy (or divergence) is below or above
another. A comparison is

- *supported* if its own 95 % interval lies on the stated side;
- *contradicted* if the interval lies on the other side, even after correction for the number of
  comparisons;
- *undecided* otherwise, also if the runs do not exist.

A statement about all of its comparisons

- *holds* if all are supported. This needs no correction, because to ask for all of them is strict
  enough (an intersection–union test);
- is *contradicted* if one is contradicted. Here the correction matters, since among many
  comparisons some fail by chance;
- *holds with exceptions* if some are contradicted but at least three quarters hold.

A statement about *most* or about *some* comparisons is tested by partial conjunction (`multiple`).
`contrasts` computes the interval of each comparison.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from repro.statistics import multiple
from repro.statistics.contrasts import (
    ROUNDING,
    Comparison,
    Measured,
    Term,
    Units,
    joint_bounds,
    measure,
    pooled,
)

SUPPORTED, CONTRADICTED, UNDECIDED = "supported", "contradicted", "undecided"  # a comparison
HOLDS, EXCEPTIONS = "holds", "holds with exceptions"  # a statement, or one of the verdicts above
ALL, MOST, SOME = "all", "most", "some"  # how many of its comparisons a statement is about
MOSTLY = 0.75  # share of the comparisons that must hold for the rest to count as exceptions
COLUMNS = ["claim", "runs", "estimate", "low", "high", "interval", "verdict"]
SHOWN = [column for column in COLUMNS if column != "runs"]  # in tables of the book
FOR, AGAINST = "p_for", "p_against"
JOINT = ["than", "low_joint", "high_joint", FOR, AGAINST]  # beside `COLUMNS`, of joint tests


def judge(low: float, high: float, expected: str) -> str:
    """Return the verdict on an interval that is expected to lie "below" or "above" zero."""
    if np.isnan(low) or np.isnan(high) or low <= 0 <= high:
        return UNDECIDED
    return SUPPORTED if (high < 0) == (expected == "below") else CONTRADICTED


def compare(
    text: str, frame: pd.DataFrame, terms: list[Term], expected: str, units: Units = None
) -> dict:
    """Test one comparison alone, without correction, and return a row of `COLUMNS`.

    The arguments are the attributes of `Comparison`. If a run does not exist, the estimate is NaN
    and the verdict undecided.
    """
    comparison = Comparison(text, terms, expected, frame, units)
    result = measure(comparison)
    return _row(comparison, result, judge(result.low, result.high, expected))


def compare_jointly(comparisons: Iterable[Comparison], of: str = ALL) -> pd.DataFrame:
    """Test the comparisons of one statement together.

    Args:
        comparisons: the comparisons.
        of: how many of them the statement is about. If `ALL`, a contradiction is corrected for
            their number; if `SOME`, a support.

    Returns:
        DataFrame of `COLUMNS` and `JOINT`, one row for each comparison. `low_joint` and
        `high_joint` bound intervals that hold for all of them together, at 95 %. `attrs["pooled"]`
        is the mean effect in the stated direction with its 95 % interval, in the unit of the
        frames.
    """
    comparisons = list(comparisons)
    return _judged(comparisons, [measure(comparison) for comparison in comparisons], of)


def _judged(comparisons: list[Comparison], measured: list[Measured], of: str) -> pd.DataFrame:
    """Return the rows of `compare_jointly` from the numbers of the comparisons."""
    joint = joint_bounds(measured)
    rows = []
    for comparison, result, (low, high) in zip(comparisons, measured, joint, strict=True):
        verdict = _verdict(comparison, result, (low, high), of)
        values = (comparison.than, low, high, *_p_values(comparison, result))
        rows.append(_row(comparison, result, verdict) | dict(zip(JOINT, values, strict=True)))
    table = pd.DataFrame(rows, columns=COLUMNS + JOINT)
    table.attrs["pooled"] = pooled(comparisons, measured)
    return table


def overall(rows: pd.DataFrame, of: str = ALL) -> str:
    """Return the verdict on a statement about all, most or some of these comparisons.

    `rows` are those of `compare_jointly`.
    """
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
    """Return a line of Markdown: whether the statement `name` holds, and its comparisons."""
    counts = rows["verdict"].value_counts()
    parts = [f"{counts.get(v, 0)} {v}" for v in (SUPPORTED, CONTRADICTED, UNDECIDED)]
    plural = "" if len(rows) == 1 else "s"
    return f"**{name}: {overall(rows)}.** Of {len(rows)} comparison{plural}: {', '.join(parts)}."


def _verdict(comparison: Comparison, result: Measured, joint: tuple, of: str) -> str:
    """Judge a comparison by its own interval, and by the joint one in the corrected direction."""
    if result.estimate == result.low == result.high == 0:
        return UNDECIDED  # 0 in every draw: a difference that never varies decides nothing
    alone, together = (
        judge(low - comparison.than, high - comparison.than, comparison.expected)
        for low, high in ((result.low, result.high), joint)
    )
    if (of == ALL and alone == CONTRADICTED) or (of == SOME and alone == SUPPORTED):
        return together
    return alone


def _row(comparison: Comparison, result: Measured, verdict: str) -> dict:
    numbers = (result.estimate, result.low, result.high)
    values = [comparison.text, _describe(comparison.terms), *numbers, result.way, verdict]
    return dict(zip(COLUMNS, values, strict=True))


def _in_at_least(rows: pd.DataFrame, u: int, column: str) -> bool:
    """Tell whether the effect of a column of p-values is there in at least u rows.

    The test is partial conjunction, one-sided at 2.5 %. If the rows have no p-values, their
    verdicts count as certain.
    """
    if column not in rows:
        p_values = 1.0 - (rows["verdict"] == {FOR: SUPPORTED, AGAINST: CONTRADICTED}[column])
    else:
        p_values = rows[column].fillna(1.0)
    return multiple.partial_conjunction(p_values, u) <= 0.025


def _p_values(comparison: Comparison, result: Measured) -> tuple[float, float]:
    """Return the p-values for and against a comparison that fit its own interval.

    Rounding is not a matter of chance. So numbers that are known up to rounding, or that never
    vary, have the p-values 0 and 1.
    """
    alone = _verdict(comparison, result, (result.low, result.high), ALL)
    if result.way == ROUNDING or result.low == result.high:
        return 1.0 - (alone == SUPPORTED), 1.0 - (alone == CONTRADICTED)
    estimate, low, high = (x - comparison.than for x in (result.estimate, result.low, result.high))
    above = multiple.one_sided_p(estimate, low, high)
    below = multiple.one_sided_p(-estimate, -high, -low)
    return (above, below) if comparison.expected == "above" else (below, above)


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
