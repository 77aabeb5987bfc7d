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
from scipy import stats

from repro.statistics import bootstrap
from repro.statistics.intervals import Z95
from repro.statistics.summary import best_share, size_names, sizes, tuned

SUPPORTED, CONTRADICTED, UNDECIDED = "supported", "contradicted", "undecided"
PEAK, MANY = 240, 1920  # facts: the paper's best size (Phenomenon 1), and its large one
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


def claim(
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


def fewer_is_worse(means: pd.DataFrame, split: str = "test", units: Units = None) -> pd.DataFrame:
    """Test the first half of Phenomenon 1 (§3.4): up to 240 facts, accuracy rises."""
    text = "level {}: {} facts are worse than {}"
    return _beside_peak(means, {"split": split, "restored_percent": 0}, _below, text, units)


def more_is_worse(means: pd.DataFrame, split: str = "test", units: Units = None) -> pd.DataFrame:
    """Test the second half of Phenomenon 1 (§3.4): beyond 240 facts, accuracy falls.

    Compared are the largest sampled size and all facts of a level, where that is more than 240.
    """
    text = "level {}: {} facts are worse than {}"
    return _beside_peak(means, {"split": split, "restored_percent": 0}, _beyond, text, units)


def level_matters(means: pd.DataFrame, split: str = "test", units: Units = None) -> pd.DataFrame:
    """Test Phenomenon 2 (§3.4): with many facts level 0 is the worst, and has fallen most."""
    size, at = largest_common(means), {"split": split, "restored_percent": 0}
    others = [level for level, _ in _levels(means) if level > 0]
    worse, falls = f"{size:,} facts: level 0 is worse than level {{}}", []
    rows = [
        (worse.format(i), _minus(_run(means, size, 0, at), _run(means, size, i, at)), "below")
        for i in others
    ]
    for level in others if size > PEAK else ():
        fall = {i: _minus(_run(means, size, i, at), _run(means, PEAK, i, at)) for i in (0, level)}
        text = f"{PEAK} to {size:,} facts: level 0 falls more than level {level}"
        falls.append((text, _minus(fall[0], fall[level]), "below"))
    return _test(rows + falls, means, units)


def balance(
    levels: pd.DataFrame, means: pd.DataFrame, size: int, split: str = "test", units: Units = None
) -> pd.DataFrame:
    """Test what §3.4 reads from Table 2: low hurts high, high hurts low, the middle is best.

    Compared after `size` training facts. The highest level with such a run stands for level 4,
    and level 2, or else the one below the highest, for the middle, if there are three levels.
    """
    trained = [level for level, runs in _levels(means) if size in sizes(runs)]
    if len(trained) < 2:
        return pd.DataFrame(columns=COLUMNS)
    high, at = trained[-1], {"split": split, "restored_percent": 0}
    middle = 2 if 2 in trained[1:-1] else trained[-2]
    text, hurt = "on level-{} facts, training on level {} is worse than on level {}", []
    for tested, first, second in ((high, 0, high), (1, high, 1))[: min(high, 2)]:
        on = at | {"test_level": tested}
        terms = _minus(_run(levels, size, first, on), _run(levels, size, second, on))
        hurt.append((text.format(tested, first, second), terms, "below"))
    text, best = "on all facts, training on level {} is better than on level {}", []
    for other in (trained[0], high) if len(trained) > 2 else ():
        terms = _minus(_run(means, size, middle, at), _run(means, size, other, at))
        best.append((text.format(middle, other), terms, "above"))
    return pd.concat([_test(hurt, levels, units), _test(best, means, units)], ignore_index=True)


def falls(kl: pd.DataFrame, units: Units = None) -> pd.DataFrame:
    """Test the first half of Finding 1 (§4.2): up to 240 facts, the divergence falls."""
    text = "level {}: KL after {} facts is above that after {}"
    return _beside_peak(kl, {}, _below, text, units, "above")


def rises(kl: pd.DataFrame, units: Units = None) -> pd.DataFrame:
    """Test the second half of Finding 1 (§4.2): beyond 240 facts, the divergence rises."""
    text = "level {}: KL after {} facts is above that after {}"
    return _beside_peak(kl, {}, _beyond, text, units, "above")


def divergence_hurts(joined: pd.DataFrame) -> pd.DataFrame:
    """Test Finding 2 (§4.2): Spearman's correlation of kl and accuracy over runs is negative.

    `joined` has one row per run. The interval is Fisher's z with the standard error of Bonett
    and Wright; it needs four runs, and takes them as independent.
    """
    count, numbers = len(joined), (np.nan, np.nan, np.nan)
    if count > 3 and joined["kl"].nunique() > 1 and joined["accuracy"].nunique() > 1:
        rho = float(stats.spearmanr(joined["kl"], joined["accuracy"]).statistic)
        half = Z95 * np.sqrt((1 + rho**2 / 2) / (count - 3))
        z = np.arctanh(np.clip(rho, -0.9999, 0.9999))
        numbers = (rho, float(np.tanh(z - half)), float(np.tanh(z + half)))
    text, runs = "the larger the KL divergence of a run, the lower its accuracy", f"{count} runs"
    values = [text, runs, *numbers, "rank correlation", judge(*numbers[1:], "below")]
    return pd.DataFrame([values], columns=COLUMNS)


def restoring_helps(
    means: pd.DataFrame, percent: float, split: str = "test", units: Units = None
) -> pd.DataFrame:
    """Test Finding 1 (§5.2): restoring `percent` of the parameters improves every model."""
    text, at = "level {}, {:,} facts: restoring {:g}% helps", {"split": split}
    runs = means[(means["train_level"] >= 0) & (means["restored_percent"] > 0)]
    rows = [
        (text.format(level, size, percent), _gain(size, level, percent, at), "above")
        for size, level in runs.groupby(["train_size", "train_level"]).groups
    ]
    return _test(rows, means, units)


def larger_gain(means: pd.DataFrame, units: Units = None) -> pd.DataFrame:
    """Test Finding 2 (§5.2): more facts, or level 0, leave more to gain from restoration.

    The gain is that of the share chosen on the dev split, measured on the test split.
    """
    chosen = best_share(means, "dev").set_index(["train_size", "train_level"])["restored_percent"]
    gains = {run: _gain(*run, share, {"split": "test"}) for run, share in chosen.items()}
    rows = []
    for level, runs in chosen.groupby("train_level"):
        small, large = _ends(runs, "train_size")
        if small < large:
            text = f"level {level}: more to gain after {large:,} facts than after {small:,}"
            rows.append((text, _minus(gains[large, level], gains[small, level]), "above"))
    for size, runs in chosen.groupby("train_size"):
        low, high = _ends(runs, "train_level")
        if low == 0 < high:
            text = f"{size:,} facts: more to gain for level 0 than for level {high}"
            rows.append((text, _minus(gains[size, 0], gains[size, high]), "above"))
    return _test(rows, means, units)


def difference(means: pd.DataFrame, first: tuple, second: tuple, units: Units = None) -> dict:
    """Return a row of `COLUMNS` on the in-domain Acc of two runs, each a (level, size)."""
    at = {"split": "test", "restored_percent": 0}
    runs = (_run(means, size, level, at) for level, size in (first, second))
    return claim("", means, _minus(*runs), "below", units)


def largest_common(means: pd.DataFrame) -> int:
    """Return the largest sampled size that two levels have, or the largest there is (0: none)."""
    runs = [size for _, rows in _levels(means) for size in sizes(rows)]
    shared = [size for size in runs if runs.count(size) > 1]
    return max(shared or runs, default=0)


def _beside_peak(frame, at, chosen, text, units: Units, expected="below") -> pd.DataFrame:
    """Compare, at every level, 240 facts with the sizes that `chosen` names."""
    rows = []
    for level, runs in _levels(frame):
        for size, name in chosen(runs):
            terms = _minus(_run(frame, size, level, at), _run(frame, PEAK, level, at))
            rows.append((text.format(level, name, PEAK), terms, expected))
    return _test(rows, frame, units)


def _below(runs: pd.DataFrame) -> list[tuple]:
    """Return the smallest size under 240, and how it is called."""
    return [(size, str(size)) for size in sizes(runs) if size < PEAK][:1]


def _beyond(runs: pd.DataFrame) -> list[tuple]:
    """Return the largest sampled size above 240, and "All" where all facts are more than that.

    Where nothing above 240 was run, 1,920 stands for it: a comparison that stays undecided.
    """
    larger = [size for size in sizes(runs) if size > PEAK] or [MANY]
    whole = runs.loc[size_names(runs) == "All", "train_size"]
    every = [("All", f"all {n:,}") for n in whole.unique() if n > PEAK]
    return [(larger[-1], f"{larger[-1]:,}"), *every]


def _test(rows: list[tuple], frame: pd.DataFrame, units: Units) -> pd.DataFrame:
    made = [claim(text, frame, terms, expected, units) for text, terms, expected in rows]
    return pd.DataFrame(made, columns=COLUMNS)


def _run(frame: pd.DataFrame, size: int | str, level: int, at: Mapping) -> list[Term]:
    # All facts of a level may be as many as a sampled size, so where sizes have names these count.
    named = {"size_label": str(size)} if "size_label" in frame else {"train_size": size}
    return [(1, {**at, "train_level": level, **named})]


def _minus(first: list[Term], second: list[Term]) -> list[Term]:
    return first + [(-weight, where) for weight, where in second]


def _gain(size: int, level: int, share: float, at: Mapping) -> list[Term]:
    run = {**at, "train_size": size, "train_level": level}
    return [(1, {**run, "restored_percent": share}), (-1, {**run, "restored_percent": 0})]


def _levels(frame: pd.DataFrame) -> list[tuple[int, pd.DataFrame]]:
    groups = tuned(frame).groupby("train_level")
    return [(int(level), runs) for level, runs in groups if sizes(runs)]


def _ends(runs: pd.Series, name: str) -> tuple[int, int]:
    values = runs.index.get_level_values(name)
    return int(values.min()), int(values.max())


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
