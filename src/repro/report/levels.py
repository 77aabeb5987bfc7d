"""Accuracy by the mastery level of training and test facts (§3.4): Table 2."""

import numpy as np
import pandas as pd

from repro.paper import LEVELS, SPLIT_TITLES
from repro.report.html import Html, cell_texts, grid, in_model_order, tested_on, trained_on
from repro.statistics.summary import means, per_level


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
