"""Does a statement of the paper appear in our runs? By a rule, never by eye.

The rule: a statement says that one accuracy (or divergence) is below or above another. The
difference of our runs gets a 95 % interval; *supported* means the interval lies wholly on the side
the paper names, *contradicted* wholly on the other, *undecided* everything else, also that the
runs do not exist. A statement made of several comparisons is supported when all are, and
contradicted when any is.

The interval of a difference adds the distances from each estimate to its own interval's ends in
quadrature (Newcombe's square-and-add method), and with two data samples or more also the spread
between samples. It takes the two models' answers as independent; they answer the same
questions, so the true interval is, if anything, narrower.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from scipy import stats

from repro.evaluate import Z95
from repro.summary import best_share, sizes, tuned

SUPPORTED, CONTRADICTED, UNDECIDED = "supported", "contradicted", "undecided"
PEAK, MANY = 240, 1920  # facts: the paper's best size (Phenomenon 1), and its large one
COLUMNS = ["claim", "runs", "estimate", "low", "high", "verdict"]
Term = tuple[float, Mapping[str, object]]


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


def claim(text: str, frame: pd.DataFrame, terms: list[Term], expected: str) -> dict:
    """Test one statement; `terms` are weights and column values that pick one row of `frame`.

    `frame` is a summary with accuracy (percent) or kl (nats). Returns a row of `COLUMNS`; a run
    that does not exist leaves the estimate empty and the verdict undecided.
    """
    value = "kl" if "kl" in frame else "accuracy"
    rows = [(weight, _pick(frame, where)) for weight, where in terms]
    if any(row is None for _, row in rows):
        numbers = (np.nan, np.nan, np.nan)
    else:
        numbers = contrast(rows, value)
    values = [text, _describe(terms), *numbers, judge(*numbers[1:], expected)]
    return dict(zip(COLUMNS, values, strict=True))


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
    return f"**{name}: {overall(rows)}.** Of {len(rows)} comparisons: {', '.join(parts)}."


def more_is_worse(means: pd.DataFrame, split: str = "test") -> pd.DataFrame:
    """Test Phenomenon 1 (§3.4): 240 facts are better than fewer and than more, at every level."""
    rows = []
    for level, runs in _levels(means):
        at = {"split": split, "train_level": level, "restored_percent": 0}
        for size in beside_peak(runs):
            text = f"level {level}: {size:,} facts are worse than {PEAK}"
            rows.append(_pair(means, text, at, "train_size", size, PEAK, "below"))
    return pd.DataFrame(rows, columns=COLUMNS)


def level_matters(means: pd.DataFrame, split: str = "test") -> pd.DataFrame:
    """Test Phenomenon 2 (§3.4): with many facts, level 0 is the worst training data."""
    size = largest_common(means)
    at = {"split": split, "train_size": size, "restored_percent": 0}
    rows = []
    for level, _ in _levels(means):
        if level > 0:
            text = f"{size} facts: level 0 is worse than level {level}"
            rows.append(_pair(means, text, at, "train_level", 0, level, "below"))
    return pd.DataFrame(rows, columns=COLUMNS)


def balance(
    levels: pd.DataFrame, means: pd.DataFrame, size: int, split: str = "test"
) -> pd.DataFrame:
    """Test what §3.4 reads from Table 2: low hurts high, high hurts low, the middle is best.

    Compared after `size` training facts. The highest level with such a run stands for level 4,
    and level 2, or else the one below the highest, for the middle, if there are three levels.
    """
    trained = [level for level, runs in _levels(means) if size in sizes(runs)]
    if len(trained) < 2:
        return pd.DataFrame(columns=COLUMNS)
    high = trained[-1]
    at = {"split": split, "train_size": size, "restored_percent": 0}
    text = "on level-{} facts, training on level {} is worse than on level {}"
    on_high, on_low = ({**at, "test_level": level} for level in (high, 1))
    rows = [_pair(levels, text.format(high, 0, high), on_high, "train_level", 0, high, "below")]
    if high > 1:
        rows.append(_pair(levels, text.format(1, high, 1), on_low, "train_level", high, 1, "below"))
    middle = 2 if 2 in trained[1:-1] else trained[-2]
    for other in (trained[0], high) if len(trained) > 2 else ():
        text = f"on all facts, training on level {middle} is better than on level {other}"
        rows.append(_pair(means, text, at, "train_level", middle, other, "above"))
    return pd.DataFrame(rows, columns=COLUMNS)


def falls_then_rises(kl: pd.DataFrame) -> pd.DataFrame:
    """Test Finding 1 (§4.2): the divergence falls up to 240 facts, then rises."""
    rows = []
    for level, runs in _levels(kl):
        for size in beside_peak(runs):
            text = f"level {level}: KL at {size:,} facts is above that at {PEAK}"
            at = {"train_level": level}
            rows.append(_pair(kl, text, at, "train_size", size, PEAK, "above"))
    return pd.DataFrame(rows, columns=COLUMNS)


def divergence_hurts(joined: pd.DataFrame) -> pd.DataFrame:
    """Test Finding 2 (§4.2): Spearman's correlation of kl and accuracy over runs is negative.

    `joined` has one row per run. The interval is Fisher's z with the standard error of Bonett
    and Wright; it needs four runs.
    """
    count, numbers = len(joined), (np.nan, np.nan, np.nan)
    if count > 3 and joined["kl"].nunique() > 1 and joined["accuracy"].nunique() > 1:
        rho = float(stats.spearmanr(joined["kl"], joined["accuracy"]).statistic)
        half = Z95 * np.sqrt((1 + rho**2 / 2) / (count - 3))
        z = np.arctanh(np.clip(rho, -0.9999, 0.9999))
        numbers = (rho, float(np.tanh(z - half)), float(np.tanh(z + half)))
    text = "the larger the KL divergence of a run, the lower its accuracy"
    values = [text, f"rank correlation of {count} runs", *numbers, judge(*numbers[1:], "below")]
    return pd.DataFrame([values], columns=COLUMNS)


def restoring_helps(means: pd.DataFrame, percent: float, split: str = "test") -> pd.DataFrame:
    """Test Finding 1 (§5.2): restoring `percent` of the parameters improves every model."""
    rows = []
    for (size, level), _ in _restored(means):
        at = {"split": split, "train_size": size, "train_level": level}
        text = f"level {level}, {size} facts: restoring {percent:g}% helps"
        rows.append(_pair(means, text, at, "restored_percent", percent, 0, "above"))
    return pd.DataFrame(rows, columns=COLUMNS)


def larger_gain(means: pd.DataFrame) -> pd.DataFrame:
    """Test Finding 2 (§5.2): more facts, or level 0, leave more to gain from restoration.

    The gain is that of the share chosen on the dev split, measured on the test split.
    """
    chosen = best_share(means, "dev").set_index(["train_size", "train_level"])["restored_percent"]
    rows = []
    for level, runs in chosen.groupby("train_level"):
        small, large = _ends(runs, "train_size")
        if small < large:
            terms = _gain(large, level, chosen, 1) + _gain(small, level, chosen, -1)
            text = f"level {level}: more to gain after {large} facts than after {small}"
            rows.append(claim(text, means, terms, "above"))
    for size, runs in chosen.groupby("train_size"):
        low, high = _ends(runs, "train_level")
        if low == 0 < high:
            terms = _gain(size, 0, chosen, 1) + _gain(size, high, chosen, -1)
            text = f"{size} facts: more to gain for level 0 than for level {high}"
            rows.append(claim(text, means, terms, "above"))
    return pd.DataFrame(rows, columns=COLUMNS)


def beside_peak(runs: pd.DataFrame) -> list[int]:
    """Return the smallest size under 240 and the largest above it.

    Where nothing above 240 was run, 1,920 stands for it: a comparison that stays undecided.
    """
    found = sizes(runs)
    smaller = [size for size in found if size < PEAK]
    larger = [size for size in found if size > PEAK] or [MANY]
    return [*smaller[:1], larger[-1]]


def largest_common(means: pd.DataFrame) -> int:
    """Return the largest sampled size that two levels have, or the largest there is (0: none)."""
    runs = [size for _, rows in _levels(means) for size in sizes(rows)]
    shared = [size for size in runs if runs.count(size) > 1]
    return max(shared or runs, default=0)


def _levels(frame: pd.DataFrame) -> list[tuple[int, pd.DataFrame]]:
    groups = tuned(frame).groupby("train_level")
    return [(int(level), runs) for level, runs in groups if sizes(runs)]


def _restored(means: pd.DataFrame):
    rows = means[(means["train_level"] >= 0) & (means["restored_percent"] > 0)]
    return rows.groupby(["train_size", "train_level"])


def _ends(runs: pd.Series, name: str) -> tuple[int, int]:
    values = runs.index.get_level_values(name)
    return int(values.min()), int(values.max())


def _gain(size: int, level: int, chosen: pd.Series, sign: int) -> list[Term]:
    at = {"split": "test", "train_size": size, "train_level": level}
    share = chosen[size, level]
    return [(sign, {**at, "restored_percent": share}), (-sign, {**at, "restored_percent": 0})]


def _pair(frame, text, at, column, first, second, expected) -> dict:
    terms = [(1, {**at, column: first}), (-1, {**at, column: second})]
    return claim(text, frame, terms, expected)


def _describe(terms: list[Term]) -> str:
    words = {
        "train_level": "level {}",
        "train_size": "{} facts",
        "restored_percent": "{:g}% restored",
        "test_level": "on level {}",
        "split": "on {}",
    }
    text = ""
    for weight, where in terms:
        parts = [
            words[column].format(value)
            for column, value in where.items()
            if value != 0 or column == "train_level"
        ]
        text += (" − " if weight < 0 else " + " if text else "") + ", ".join(parts)
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
