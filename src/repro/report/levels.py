"""Accuracy by the mastery level of training and test facts (§3.4): Table 2."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from repro import paper
from repro.paper import LEVELS, SPLIT_TITLES
from repro.report.html import (
    Html,
    beside_paper,
    cell_texts,
    differences,
    grid,
    in_model_order,
    tested_on,
    trained_on,
)
from repro.report.layout import Finding, tabs
from repro.report.style import STYLE, finish, level_curves, side_by_side
from repro.statistics.summary import means, per_level

LLM = "LLaMA-3-8B"  # the model of most of the paper's tables


def table(frame: pd.DataFrame, title: str) -> Html:
    """Return Table 2: training level by test level and their mean, in and out of domain.

    `frame` has model, train_level, split, test_level ("0" to "4" and "mean"), accuracy (percent),
    and where known spread, low, high. The best training level of every column is bold.
    """
    rows = frame[(frame["train_level"] >= 0) & frame["split"].isin(["test", "testood"])]
    rows = rows.assign(order=rows["train_level"]).rename(columns={"model": "group"})
    rows = in_model_order(rows)
    best = rows.groupby(["group", "split", "test_level"])["accuracy"].transform("max")
    rows["css"] = np.where((rows["accuracy"] == best) & (best > 0), "font-weight:bold;", "")
    rows["row"] = rows["train_level"].map(trained_on)
    cells = zip(rows["split"], rows["test_level"], strict=True)
    rows["column"] = [(SPLIT_TITLES[split], tested_on(level)) for split, level in cells]
    rows["text"] = cell_texts(rows)
    levels = [tested_on(level) for level in [*map(str, LEVELS), "mean"]]
    columns = [(SPLIT_TITLES[split], level) for split in ("test", "testood") for level in levels]
    return grid(rows, columns, ("Model", "Trained on"), title, frame)


def frame(accuracy: pd.DataFrame) -> pd.DataFrame:
    """Return rows shaped like the paper's Table 2: `test_level` is "0" to "4" or "mean"."""
    levels = per_level(accuracy)
    levels["test_level"] = levels["test_level"].astype(str)
    return pd.concat([levels, means(accuracy).assign(test_level="mean")], ignore_index=True)


def tables(ours: pd.DataFrame, size: int) -> Html:
    """Return Table 2 as tabs: ours after `size` facts, the paper's after 1,920, the difference."""
    published = paper.table("accuracy_1920")
    compared = differences_of(ours, published)
    parts = {
        "Ours": table(ours, f"Ours: {size:,} training facts"),
        "Paper": table(published, "Table 2 of the paper: 1,920 training facts"),
    }
    if len(compared):
        cells = compared.assign(
            group=LLM,
            row=compared["train_level"].map(trained_on),
            column=[
                (SPLIT_TITLES[split], tested_on(level))
                for split, level in zip(compared["split"], compared["test_level"], strict=True)
            ],
        )
        title = f"Table 2: ours less {LLM}'s, points"
        parts["Difference"] = differences(cells, ("", "Trained on"), title, compared)
    return tabs(parts, "Table 2")


def differences_of(ours: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Return train_level, split, test_level, ours, paper, difference of the cells both have."""
    keys = ["train_level", "split", "test_level"]
    theirs = published[published["model"] == LLM]
    compared = beside_paper(ours, theirs, keys, "accuracy")
    return compared.sort_values(keys, kind="stable", ignore_index=True)


def findings(inside: pd.DataFrame, outside: pd.DataFrame, size: int) -> list[Finding]:
    """Return the statements of §3.4 on Table 2, in and out of domain, with their comparisons."""
    claim = "Low levels hurt high ones, high levels hurt low ones, the middle is best overall."
    named = "the training level that the paper names"
    words = f"{named} is better", f"{named} is worse"
    return [
        Finding(f"Table 2, {domain}, after {size:,} facts", claim, rows, *words)
        for domain, rows in (("in domain", inside), ("out of domain", outside))
    ]


@plt.rc_context(STYLE)
def figure(ours: pd.DataFrame, published: pd.DataFrame) -> Figure:
    """Draw Table 2 in domain: accuracy by the level of the test facts, the paper's beside ours.

    Both frames have the columns of `table`; a line is a training level.
    """
    drawn, ((left, right),) = side_by_side(1, ("Paper", "Ours"))
    theirs = published[published["model"] == LLM]
    for axis, frame in ((left, theirs), (right, ours)):
        rows = frame[(frame["split"] == "test") & (frame["test_level"] != "mean")]
        rows = rows.assign(tested=rows["test_level"].astype(int))
        level_curves(axis, rows, "tested", "accuracy")
        axis.set_xticks(LEVELS)
        axis.set_xlabel("Level of the test facts")
    left.set_ylabel("Accuracy (%)")
    return finish(drawn, ours)
