"""Computes means, intervals and spreads between data samples from counts of answers.

There are two uncertainties. `low` and `high` bound the accuracy of the runs (95 %), because the
number of test questions is finite. All data samples answer the same questions, so averaging over
samples does not make this interval narrower. `spread` is the standard deviation between data
samples (ddof = 1), which exists only with two samples or more.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from repro.statistics.intervals import wilson

# Columns that tell one run from another.
RUN = ["model", "train_level", "train_size", "size_label", "restored_percent", "strategy"]
RUN += ["layers"]


def means(accuracy: pd.DataFrame) -> pd.DataFrame:
    """Return the paper's Acc (§3.3, mean over test levels) of every run, averaged over samples.

    Args:
        accuracy: the frame `Results.accuracy()` of a study.

    Returns:
        DataFrame[model, train_level, train_size, size_label, restored_percent, split, accuracy,
        low, high, spread (percent), levels, correct, total, n (data samples)]; also strategy and
        layers, if `accuracy` has them. A level without facts is not part of the mean.
    """
    by = [*run_columns(accuracy), "split"]
    return _over_samples(acc(accuracy, by=[*by, "sample"]), by)


def per_level(accuracy: pd.DataFrame) -> pd.DataFrame:
    """Return what `means` returns with one row per `test_level`, as in Table 2."""
    by = [*run_columns(accuracy), "split", "level"]
    rows = acc(accuracy.assign(level=accuracy["test_level"]), by=[*by, "sample"])
    return _over_samples(rows, by).rename(columns={"level": "test_level"})


def best_share(mean: pd.DataFrame, chosen_on: str, reported_on: str = "test") -> pd.DataFrame:
    """Return for every run the restored share with the highest Acc on one split.

    Args:
        mean: the frame that `means` returns.
        chosen_on: the split on which the share is chosen; of equally good shares the smallest.
        reported_on: the split whose accuracy is returned.

    Returns:
        DataFrame[train_size, train_level, chosen_on, restored_percent, accuracy, gain, low, high,
        spread, n]; `gain` is the difference to restoring nothing.
    """
    run = ["train_size", "train_level"]
    ordered = mean[mean["split"] == chosen_on].sort_values("restored_percent", kind="stable")
    chosen = ordered.loc[ordered.groupby(run)["accuracy"].idxmax(), [*run, "restored_percent"]]
    reported = mean[mean["split"] == reported_on]
    before = reported.loc[reported["restored_percent"] == 0, [*run, "accuracy"]]
    best_rows = chosen.merge(reported, on=[*run, "restored_percent"])
    best_rows = best_rows.merge(before.rename(columns={"accuracy": "before"}), on=run)
    best_rows = best_rows.assign(
        chosen_on=chosen_on, gain=best_rows["accuracy"] - best_rows["before"]
    )
    columns = [*run, "chosen_on", "restored_percent", "accuracy", "gain", "low", "high"]
    return best_rows[[*columns, "spread", "n"]]


def tuned(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of fine-tuned models in which nothing is restored."""
    rows = frame[frame["train_level"] >= 0]
    return rows[rows["restored_percent"] == 0] if "restored_percent" in rows else rows


def restored(accuracy: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the runs of which some share was restored, including the share 0.

    This is done before averaging, because fewer data samples may be restored than are trained. A
    restored model must be compared with the same model before, not with other samples.
    """
    if accuracy.empty:
        return accuracy
    run = ["train_level", "train_size", "sample"]
    most = accuracy.groupby(run)["restored_percent"].transform("max")
    return accuracy[(accuracy["train_level"] >= 0) & (most > 0)]


def sizes(frame: pd.DataFrame) -> list[int]:
    """Return the sampled training sizes in ascending order, without whole pools ("All")."""
    rows = tuned(frame)
    if "size_label" in rows:
        rows = rows[rows["size_label"] != "All"]
    return sorted(int(size) for size in rows["train_size"].unique())


def size_names(frame: pd.DataFrame) -> pd.Series:
    """Return each row's size as the paper writes it: "240" or "All"."""
    column = "size_label" if "size_label" in frame else "train_size"
    return frame[column].astype(str)


def run_columns(frame: pd.DataFrame) -> list[str]:
    """Return the columns of `frame` that tell one run from another."""
    return [column for column in RUN if column in frame]


def _over_samples(runs: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Return the mean over data samples of the rows of `acc`, with their spread and number."""
    groups = runs.groupby(by, observed=True)
    columns = {c: (c, "mean") for c in ("accuracy", "low", "high")} | {
        "spread": ("accuracy", "std"),
        "levels": ("levels", "min"),
        "correct": ("correct", "sum"),
        "total": ("total", "sum"),
        "n": ("sample", "nunique"),
    }
    return groups.agg(**columns).reset_index()


def acc(frame: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return the paper's Acc, the mean over mastery levels, with a 95 % interval.

    Counts are summed over topics and all other columns that `by` does not name. The interval of the
    mean combines the Wilson intervals of the levels by the MOVER method (the squared distances to
    the bounds are added). It takes the answers as independent.

    Args:
        frame: DataFrame[*by, test_level, correct, total].
        by: columns that identify a row of the result.

    Returns:
        DataFrame[*by, accuracy, low, high (percent), levels, correct, total]; `levels` is the
        number of levels that have facts, over which the mean is taken.
    """
    by = list(by)
    frame = frame[frame["total"] > 0]
    keys = list(dict.fromkeys([*by, "test_level"]))
    sums = frame.groupby(keys)[["correct", "total"]].sum().reset_index()
    low, high = wilson(sums["correct"], sums["total"])
    p = sums["correct"] / sums["total"]
    sums = sums.assign(p=p, below=(p - low) ** 2, above=(high - p) ** 2)
    grouped = sums.groupby(by) if by else sums.groupby(lambda _: 0)
    out = grouped.agg(
        p=("p", "mean"),
        below=("below", "sum"),
        above=("above", "sum"),
        levels=("p", "size"),
        correct=("correct", "sum"),
        total=("total", "sum"),
    )
    out["accuracy"] = 100 * out["p"]
    out["low"] = 100 * (out["p"] - np.sqrt(out["below"]) / out["levels"]).clip(0, 1)
    out["high"] = 100 * (out["p"] + np.sqrt(out["above"]) / out["levels"]).clip(0, 1)
    columns = ["accuracy", "low", "high", "levels", "correct", "total"]
    return out[columns].reset_index() if by else out[columns].reset_index(drop=True)
