"""Does a statement of the paper appear in our runs? By a rule, never by eye.

The rule: a statement says that one accuracy (or divergence) is below or above another. The
difference of our runs gets a 95 % interval; *supported* means the interval lies wholly on the side
the paper names, *contradicted* wholly on the other, *undecided* everything else, also that the
runs do not exist. A statement made of several comparisons is supported when all are, and
contradicted when any is.

Where the answers to single questions are kept, the interval is *paired*: questions and data
samples are drawn anew (`bootstrap`). Otherwise the models stand *apart*: the distances from
each estimate to its own interval's ends are added in quadrature (Newcombe's square-and-add
method), with two data samples or more also the spread between samples. That takes their answers as
independent; they answer the same questions, so the true interval is, if anything, narrower.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from repro.statistics import bootstrap
from repro.statistics.intervals import Z95

SUPPORTED, CONTRADICTED, UNDECIDED = "supported", "contradicted", "undecided"
COLUMNS = ["claim", "runs", "estimate", "low", "high", "interval", "verdict"]
TOPICS = 6  # that a paired interval of a divergence needs
Term = bootstrap.Term
Units = pd.DataFrame | None  # from `Study.answers` or `bootstrap.of_topics`


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
    """Test one statement; `terms` are weights and column values that pick one row of `frame`.

    `frame` is a summary with accuracy (percent) or kl (nats), `units` what a paired interval needs.
    Returns a row of `COLUMNS`; a run that does not exist leaves the estimate empty and the
    verdict undecided.
    """
    value = "kl" if "kl" in frame else "accuracy"
    rows = [(weight, _pick(frame, where)) for weight, where in terms]
    numbers, way = (np.nan, np.nan, np.nan), ""
    if not any(row is None for _, row in rows):
        paired = _paired(units, terms, value)
        numbers = paired or contrast(rows, value)
        way = "paired" if paired else "apart"
    values = [text, _describe(terms), *numbers, way, judge(*numbers[1:], expected)]
    return dict(zip(COLUMNS, values, strict=True))


def _paired(units: Units, terms: list[Term], value: str) -> tuple | None:
    enough, scale = (TOPICS, 1) if value == "kl" else (bootstrap.ENOUGH, 100)
    found = None if units is None else bootstrap.contrast(units, terms, enough)
    return found and tuple(scale * number for number in found)


def overall(rows: pd.DataFrame) -> str:
    """Return the verdict on a statement made of all these comparisons."""
    found = set(rows["verdict"])
    if CONTRADICTED in found:
        return CONTRADICTED
    return SUPPORTED if found == {SUPPORTED} else UNDECIDED


def sentence(name: str, rows: pd.DataFrame) -> str:
    """Return one line of Markdown that says whether `name` appears and on what it rests."""
    counts = rows["verdict"].value_counts()
    parts = [f"{counts.get(v, 0)} {v}" for v in (SUPPORTED, CONTRADICTED, UNDECIDED)]
    plural = "" if len(rows) == 1 else "s"
    return f"**{name}: {overall(rows)}.** Of {len(rows)} comparison{plural}: {', '.join(parts)}."


def _describe(terms: list[Term]) -> str:
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
    kept = pd.Series(True, index=frame.index)
    for column, value in where.items():
        if column in frame:
            kept &= frame[column] == value
    rows = frame[kept]
    return rows.iloc[0] if len(rows) == 1 else None


def _distances(row: pd.Series, value: str) -> tuple[float, float]:
    samples, spread = row.get("n", 1), row.get("spread", np.nan)
    between = Z95 * spread / np.sqrt(samples) if samples > 1 and not pd.isna(spread) else 0.0
    estimate = row[value]
    return np.hypot(estimate - row["low"], between), np.hypot(row["high"] - estimate, between)
