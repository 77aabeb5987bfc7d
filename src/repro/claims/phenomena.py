"""The paper's phenomena and findings as comparisons of runs (§3.4, §4.2 and §5.2).

Each function returns the rows of `verdicts.compare_jointly`, one per comparison. They work on the
paper's own tables and on ours: a frame has one row per run with accuracy (percent) or kl (nats).
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy import stats

from repro import paper
from repro.paper import BEST_SIZE, LARGE_SIZE
from repro.paper.quotes import quoted
from repro.statistics.contrasts import Comparison, Term, Units
from repro.statistics.intervals import Z95
from repro.statistics.summary import best_share, size_names, sizes, tuned
from repro.statistics.verdicts import COLUMNS, compare, compare_jointly, judge


def accuracy_rises(means: pd.DataFrame, split: str = "test", units: Units = None) -> pd.DataFrame:
    """Test the first half of Phenomenon 1 (§3.4): up to 240 facts, accuracy rises."""
    text = "level {}: {} facts are worse than {}"
    return _beside_best_size(
        means, {"split": split, "restored_percent": 0}, _sizes_below, text, units
    )


def accuracy_falls(means: pd.DataFrame, split: str = "test", units: Units = None) -> pd.DataFrame:
    """Test the second half of Phenomenon 1 (§3.4): beyond 240 facts, accuracy falls.

    240 facts are compared with the largest sampled size, and with all facts of a level if these
    are more than 240.
    """
    text = "level {}: {} facts are worse than {}"
    return _beside_best_size(
        means, {"split": split, "restored_percent": 0}, _sizes_above, text, units
    )


def level_0_is_worst(means: pd.DataFrame, split: str = "test", units: Units = None) -> pd.DataFrame:
    """Test Phenomenon 2 (§3.4): with many facts level 0 is the worst and has fallen most."""
    size, at = largest_common_size(means), {"split": split, "restored_percent": 0}
    others = [level for level, _ in _levels(means) if level > 0]
    worse, larger_falls = f"{size:,} facts: level 0 is worse than level {{}}", []
    rows = [
        (worse.format(i), _minus(_run(means, size, 0, at), _run(means, size, i, at)), "below")
        for i in others
    ]
    for level in others if size > BEST_SIZE else ():
        fall = {
            i: _minus(_run(means, size, i, at), _run(means, BEST_SIZE, i, at)) for i in (0, level)
        }
        text = f"{BEST_SIZE} to {size:,} facts: level 0 falls more than level {level}"
        larger_falls.append((text, _minus(fall[0], fall[level]), "below"))
    return _compared(rows + larger_falls, means, units)


def balance(
    levels: pd.DataFrame, means: pd.DataFrame, size: int, split: str = "test", units: Units = None
) -> pd.DataFrame:
    """Test §3.4 on Table 2: low levels hurt high ones, high ones hurt low ones, the middle is best.

    Runs on `size` training facts are compared. Level 4 is the highest level with such a run. The
    middle is level 2, else the level below the highest; it is compared if there are three levels.
    """
    trained = [level for level, runs in _levels(means) if size in sizes(runs)]
    if len(trained) < 2:
        return compare_jointly([])
    high, at = trained[-1], {"split": split, "restored_percent": 0}
    middle = 2 if 2 in trained[1:-1] else trained[-2]
    text, hurt = "on level-{} facts, training on level {} is worse than on level {}", []
    for tested, first, second in ((high, 0, high), (1, high, 1))[: min(high, 2)]:
        on = at | {"test_level": tested}
        terms = _minus(_run(levels, size, first, on), _run(levels, size, second, on))
        hurt.append((text.format(tested, first, second), terms, "below"))
    text, best = "on all facts, training on level {} is better than on level {}", []
    for compared_level in (trained[0], high) if len(trained) > 2 else ():
        terms = _minus(_run(means, size, middle, at), _run(means, size, compared_level, at))
        best.append((text.format(middle, compared_level), terms, "above"))
    hurt_comparisons = [Comparison(*row, levels, units) for row in hurt]
    return compare_jointly([*hurt_comparisons, *(Comparison(*row, means, units) for row in best)])


def divergence_falls(kl: pd.DataFrame, units: Units = None) -> pd.DataFrame:
    """Test the first half of Finding 1 (§4.2): up to 240 facts, the divergence falls."""
    text = "level {}: KL after {} facts is above that after {}"
    return _beside_best_size(kl, {}, _sizes_below, text, units, "above")


def divergence_rises(kl: pd.DataFrame, units: Units = None) -> pd.DataFrame:
    """Test the second half of Finding 1 (§4.2): beyond 240 facts, the divergence rises."""
    text = "level {}: KL after {} facts is above that after {}"
    return _beside_best_size(kl, {}, _sizes_above, text, units, "above")


def divergence_lowers_accuracy(joined: pd.DataFrame) -> pd.DataFrame:
    """Test Finding 2 (§4.2): Spearman's correlation of kl and accuracy over runs is negative.

    `joined` has one row per run. The interval is Fisher's z with the standard error of Bonett and
    Wright. It needs four runs, and takes them as independent.
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
    return _compared(rows, means, units)


def larger_gain(means: pd.DataFrame, units: Units = None) -> pd.DataFrame:
    """Test Finding 2 (§5.2): with more facts, or level 0, restoration gains more.

    The share is chosen on the dev split, and its gain is measured on the test split.
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
    return _compared(rows, means, units)


def accuracy_change(means: pd.DataFrame, first: tuple, second: tuple, units: Units = None) -> dict:
    """Return a row of `COLUMNS` on the in-domain Acc of two runs, each a (level, size)."""
    at = {"split": "test", "restored_percent": 0}
    runs = (_run(means, size, level, at) for level, size in (first, second))
    return compare("", means, _minus(*runs), "below", units)


def largest_common_size(means: pd.DataFrame) -> int:
    """Return the largest sampled size that two levels have, else the largest one (0: none)."""
    runs = [size for _, rows in _levels(means) for size in sizes(rows)]
    shared = [size for size in runs if runs.count(size) > 1]
    return max(shared or runs, default=0)


def size_before(frame: pd.DataFrame, level: int, large: int) -> int:
    """Return 240 if the level has it below `large`, else the size before `large` (0: none)."""
    smaller = [size for size in sizes(frame[frame["train_level"] == level]) if size < large]
    return BEST_SIZE if BEST_SIZE in smaller else max(smaller, default=0)


def quoted_changes(means: pd.DataFrame, units: Units = None) -> pd.DataFrame:
    """Return the changes of accuracy that §3.4 states: quoted, from Table 4, and ours.

    Columns: quantity, unit, quoted, table_4 (the paper's Table 4), ours, low, high, our_sizes. In
    place of 1,920 we take the largest size that two levels have, and in place of 240 the size below
    it, if it is not above 240. With `units`, the intervals are paired, as in `verdicts`.
    """
    rows = quoted()
    large = largest_common_size(means)
    small = size_before(means, 0, large)
    ours = _changes(means, small, large, units)
    table = paper.table("restore").assign(low=np.nan, high=np.nan)
    tabled = _changes(table, BEST_SIZE, LARGE_SIZE, None)
    rows = rows.rename(columns={"value": "quoted"})[["name", "quantity", "unit", "quoted"]]
    rows["table_4"] = [tabled[name][0] for name in rows["name"]]
    for place, column in enumerate(("ours", "low", "high")):
        rows[column] = [ours[name][place] for name in rows["name"]]
    instead = f"{large:,} for {LARGE_SIZE:,}; {small or 'none'} for {BEST_SIZE}"
    return rows.drop(columns="name").assign(our_sizes=instead)


def _changes(means: pd.DataFrame, small: int, large: int, units: Units) -> dict[str, tuple]:
    """Return estimate, low and high of each quoted change, by its name in `claims.yaml`."""

    def change(first: tuple[int, int], second: tuple[int, int]) -> tuple:
        row = accuracy_change(means, first, second, units)
        return row["estimate"], row["low"], row["high"]

    gap, before = change((0, large), (2, large)), change((0, small), (2, small))
    ratio = gap[0] / before[0] if before[0] else np.nan
    return {
        "level_0": change((0, large), (0, small)),
        "level_0_2": change((0, large), (2, small)),
        "gap": gap,
        "gap_ratio": (ratio, np.nan, np.nan),
    }


def _beside_best_size(frame, at, chosen, text, units: Units, expected="below") -> pd.DataFrame:
    """Compare 240 facts with the sizes that `chosen` returns, at every level."""
    rows = []
    for level, runs in _levels(frame):
        for size, name in chosen(runs):
            terms = _minus(_run(frame, size, level, at), _run(frame, BEST_SIZE, level, at))
            rows.append((text.format(level, name, BEST_SIZE), terms, expected))
    return _compared(rows, frame, units)


def _sizes_below(runs: pd.DataFrame) -> list[tuple]:
    """Return the smallest size under 240 with its name."""
    return [(size, str(size)) for size in sizes(runs) if size < BEST_SIZE][:1]


def _sizes_above(runs: pd.DataFrame) -> list[tuple]:
    """Return the largest sampled size above 240, and "All" if all facts are more than 240.

    If there is no run above 240, 1,920 is returned; this comparison stays undecided.
    """
    larger = [size for size in sizes(runs) if size > BEST_SIZE] or [LARGE_SIZE]
    pool_sizes = runs.loc[size_names(runs) == "All", "train_size"]
    every = [("All", f"all {n:,}") for n in pool_sizes.unique() if n > BEST_SIZE]
    return [(larger[-1], f"{larger[-1]:,}"), *every]


def _compared(rows: list[tuple], frame: pd.DataFrame, units: Units) -> pd.DataFrame:
    """Test (text, terms, expected) rows of one statement together on one frame."""
    comparisons = [
        Comparison(text, terms, expected, frame, units) for text, terms, expected in rows
    ]
    return compare_jointly(comparisons)


def _run(frame: pd.DataFrame, size: int | str, level: int, at: Mapping) -> list[Term]:
    """Return a run as a term."""
    # The number of all facts of a level may equal a sampled size, so sizes are picked by name if
    # they have names.
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
