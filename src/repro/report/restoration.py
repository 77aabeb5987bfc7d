"""Setting the most changed parameters back (§5): Tables 3, 4 and 6."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from repro.paper import LEVELS, SPLIT_TITLES
from repro.report.html import (
    MARK,
    Html,
    cell_texts,
    change_from_unrestored,
    grid,
    in_size_order,
    restored_label,
    shade,
    trained_on,
)
from repro.report.style import (
    COLOURS,
    MARKERS,
    STYLE,
    finish,
    level_curves,
    panels,
    share_axis,
    thousands,
)
from repro.statistics.summary import RUN, run_columns, size_names


@plt.rc_context(STYLE)
def figure(means: pd.DataFrame, split: str, mark: float | None = None) -> Figure:
    """Draw Table 4 as curves: accuracy against the restored share, one panel per data size.

    `means` is the paper's table or comes from `summary.means`. The bands are 95 % intervals over
    questions, where known; `mark` (percent) is ringed. The axis is a square root, which gives
    the small shares room.
    """
    rows = means[(means["split"] == split) & (means["train_level"] >= 0)]
    names = size_names(rows)
    shown = list(dict.fromkeys(names[rows["train_size"].sort_values(kind="stable").index]))
    figure, axes = panels(max(len(shown), 1))
    for axis, name in zip(axes, shown, strict=False):
        level_curves(axis, rows[names == name], "restored_percent", "accuracy", mark=mark)
        share_axis(axis, rows["restored_percent"])
        title = f"{SPLIT_TITLES[split]}, {thousands(name)} training facts"
        axis.set(title=title, ylabel="Accuracy (%)")
    axes[-1].set_xlabel("Restored parameters (%, square-root scale)")
    return finish(figure, rows)


@plt.rc_context(STYLE)
def concentration_figure(ours: pd.DataFrame, paper: pd.DataFrame) -> Figure:
    """Draw Table 3 as curves: cumulative share of the change, the paper's in grey behind ours.

    Both frames have train_size, train_level, top_percent, share_of_change_percent.
    """
    figure, (axis,) = panels(1)
    for _, run in paper.groupby(["train_size", "train_level"]):
        axis.plot("top_percent", "share_of_change_percent", data=run, color="0.7", lw=3, zorder=1)
    for (_, level), run in ours.groupby(["train_size", "train_level"]):
        style = {"color": COLOURS[level], "marker": MARKERS[level], "ms": 5}
        axis.plot("top_percent", "share_of_change_percent", data=run, **style)
    share_axis(axis, pd.concat([ours["top_percent"], paper["top_percent"]]))
    axis.set(xlabel="Most changed parameters (%, square-root scale)", ylim=(0, 102))
    axis.set_ylabel("Share of the total change (%)")
    return finish(figure, ours, [Line2D([], [], color="0.7", lw=3, label="paper")])


def table(frame: pd.DataFrame, title: str, mark: float | None = None) -> Html:
    """Return Table 4 or 6 for one split: restored share by training level, one block per size.

    `frame` has train_size, train_level, restored_percent, accuracy (percent), and where known
    spread, low, high. A cell is shaded by its difference from the same model without
    restoration, on one scale for every table (darkest from `FULL_SHADE` points). The row of the
    share `mark` (percent) is framed. Raises ValueError if a cell would have two values.
    """
    rows = in_size_order(frame, ["restored_percent", "train_level"])
    rows, difference = change_from_unrestored(rows, ["group", "train_level"])
    framed = rows["restored_percent"].map(lambda share: MARK if share == mark else "")
    rows["css"] = [shade(d) + border for d, border in zip(difference, framed, strict=True)]
    rows["row"] = rows["restored_percent"].map(lambda share: restored_label(share, mark))
    rows["column"] = rows["train_level"].map(trained_on)
    rows["text"] = cell_texts(rows.assign(difference=difference))
    return grid(rows, map(trained_on, LEVELS), ("Training facts", "Restored"), title, frame)


def concentration_table(frame: pd.DataFrame, title: str) -> Html:
    """Return Table 3: share of the total change held by the most changed parameters.

    `frame` has train_size, train_level, top_percent, share_of_change_percent, and where known
    spread.
    """
    rows = in_size_order(frame, ["train_level", "top_percent"])
    rows["row"] = rows["train_level"].map(trained_on)
    rows["column"] = rows["top_percent"].map(lambda share: f"top {share:g}%")
    rows["text"] = cell_texts(rows.rename(columns={"share_of_change_percent": "accuracy"}))
    columns = [f"top {share:g}%" for share in sorted(rows["top_percent"].unique())]
    return grid(rows.assign(css=""), columns, ("Training facts", "Trained on"), title, frame)


def concentration_means(
    frame: pd.DataFrame, share: str = "share_of_change_percent"
) -> pd.DataFrame:
    """Return Table 3's share of the total relative change, averaged over samples, in percent.

    `share` names the column averaged; `without_zero_base_percent` leaves out the parameters
    that were exactly zero before fine-tuning.
    """
    by = [*run_columns(frame), "top_percent"]
    if frame.empty:
        return pd.DataFrame(columns=[*RUN[:3], "top_percent", "share_of_change_percent", "spread"])
    shares = frame.groupby(by, observed=True)[share]
    return shares.agg(share_of_change_percent="mean", spread="std", n="size").reset_index()


def special_parameters(frame: pd.DataFrame) -> pd.DataFrame:
    """Return how many parameters are ranked, have p = 0, and have s = p: means over data samples.

    Columns: train_size, train_level, samples, n, zero_base, unchanged. Records made before zeros
    were counted lack the last two.
    """
    counted = [name for name in ("n", "zero_base", "unchanged") if name in frame]
    run = ["train_size", "train_level"]
    if frame.empty:
        return pd.DataFrame(columns=[*run, "samples", *counted])
    groups = frame.groupby(run)
    return (
        groups["sample"]
        .nunique()
        .rename("samples")
        .to_frame()
        .join(groups[counted].mean())
        .reset_index()
    )
