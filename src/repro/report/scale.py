"""Accuracy against the number of training facts (§3.4): Figures 2 and 6, learning rates."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from repro.paper import LEVELS, SPLIT_TITLES
from repro.report.html import Html, cell_texts, grid, in_size_order, trained_on
from repro.report.layout import Finding
from repro.report.style import (
    COLOURS,
    STYLE,
    closed,
    finish,
    level_curves,
    panels,
    say_if_empty,
    side_by_side,
    size_axis,
    untuned_line,
)
from repro.statistics.intervals import wilson
from repro.statistics.summary import tuned


@plt.rc_context(STYLE)
def figure(means: pd.DataFrame, published: pd.DataFrame | None = None) -> Figure:
    """Draw Figures 2 and 6: accuracy against data size by training level, one row per split.

    `means` comes from `summary.means`; the bands are 95 % intervals over questions. A hollow marker
    is the whole pool of a level ("All"); the dashed line is the model before fine-tuning. With
    `published`, the paper's numbers are left of ours, on the same scale.
    """
    splits = [split for split in ("test", "testood") if (means["split"] == split).any()]
    if published is None:
        drawn, axes = panels(max(len(splits), 1))
        columns = [(axes, means)]
    else:
        drawn, axes = side_by_side(max(len(splits), 1), ("Paper", "Ours"))
        columns = [(axes[:, 0], published), (axes[:, 1], means)]
    for column, frame in columns:
        for axis, split in zip(column, splits, strict=False):
            rows = frame[frame["split"] == split]
            level_curves(axis, tuned(rows), "train_size", "accuracy")
            untuned_line(axis, rows)
            size_axis(axis, tuned(rows), few=published is not None)
            if published is None:
                axis.set(title=SPLIT_TITLES[split])
        column[-1].set_xlabel("Training facts (log)")
    if published is not None:  # one scale on both axes
        sizes_shown = pd.concat([tuned(frame)["train_size"] for _, frame in columns])
        for axis in axes.flat:
            axis.set_xlim(sizes_shown.min() / 1.3, sizes_shown.max() * 1.3)
    for axis, split in zip(columns[0][0], splits, strict=False):
        name = "Accuracy (%)" if published is None else f"{SPLIT_TITLES[split]} Acc (%)"
        axis.set_ylabel(name)
    return finish(drawn, means)


@plt.rc_context(STYLE)
def learning_rate_figure(frame: pd.DataFrame, chosen: float) -> Figure:
    """Draw right dev answers against the learning rate with 95 % intervals; `chosen` is marked.

    `frame` comes from `summary.learning_rates`.
    """
    figure, (axis,) = panels(1)
    rows = frame.sort_values("learning_rate")
    error = np.abs(rows[["low", "high"]].to_numpy().T - rows["accuracy"].to_numpy())
    axis.errorbar(rows["learning_rate"], rows["accuracy"], error, color=COLOURS[1], marker="o")
    axis.axvline(chosen, color=COLOURS[3], ls="--", label=f"chosen: {chosen:g}")
    axis.set(xscale="log", xlabel="Learning rate (logarithmic)", ylabel="Right answers on dev (%)")
    say_if_empty(axis, rows)
    figure.legend(loc="outside lower center")
    return closed(figure)


def table(frame: pd.DataFrame, title: str) -> Html:
    """Return the numbers of Figures 2 and 6 for one split: data size by training level.

    `frame` has train_level, train_size, accuracy (percent), and if known size_label, spread, low,
    high. The best size of every training level is bold.
    """
    rows = in_size_order(tuned(frame), ["train_level"])
    best = rows.groupby("train_level")["accuracy"].transform("max")
    rows["css"] = np.where((rows["accuracy"] == best) & (best > 0), "font-weight:bold;", "")
    rows["column"] = rows["train_level"].map(trained_on)
    rows = rows.assign(row=rows["group"], group="", text=cell_texts(rows))
    return grid(rows, map(trained_on, LEVELS), ("", "Training facts"), title, frame)


def learning_rate_means(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the share of correct dev answers by learning rate, over all levels and samples.

    It is not a mean over levels, because with few dev facts a level with a single fact would decide
    it. All samples answer the same questions, so the interval is that of the questions of one
    sample. Columns: learning_rate, accuracy, low, high, spread (percent), correct, total, n.
    """
    samples = frame.groupby(["learning_rate", "sample"])[["correct", "total"]].sum().reset_index()
    samples["share"] = 100 * samples["correct"] / samples["total"].astype(float)
    groups = samples.groupby("learning_rate")
    rows = groups[["correct", "total"]].sum()
    rows = rows.assign(
        n=groups.size(), accuracy=groups["share"].mean(), spread=groups["share"].std()
    )
    low, high = wilson(rows["correct"] / rows["n"], rows["total"] / rows["n"])
    columns = ["learning_rate", "accuracy", "low", "high", "spread", "correct", "total", "n"]
    return rows.assign(low=100 * low, high=100 * high).reset_index()[columns]


def best_rate(rates: pd.DataFrame) -> float | None:
    """Return the learning rate with the most right dev answers (ties: the smaller), or None."""
    ordered = rates.sort_values(["correct", "learning_rate"], ascending=[False, True])
    return float(ordered["learning_rate"].iloc[0]) if len(ordered) else None


def findings(few: pd.DataFrame, many: pd.DataFrame, levels: pd.DataFrame) -> list[Finding]:
    """Return Phenomena 1 (two halves) and 2 with the comparisons that test them."""
    first = "The best accuracy comes with just 240 facts, whatever their level."
    second = "With many facts, level 0 is the worst, and falls most."
    return [
        Finding(
            "Phenomenon 1, up to 240 facts",
            first,
            few,
            "fewer than 240 facts are worse",
            "fewer than 240 facts are better",
        ),
        Finding(
            "Phenomenon 1, beyond 240 facts",
            first,
            many,
            "more than 240 facts hurt",
            "more than 240 facts help",
        ),
        Finding(
            "Phenomenon 2", second, levels, "level 0 is worse or falls more", "level 0 does better"
        ),
    ]
