"""Restoration on GSM8K and XSum (§5.2): Table 5."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from repro import paper
from repro.report.html import (
    Html,
    beside_paper,
    cell_texts,
    change_from_unrestored,
    differences,
    grid,
    restored_label,
    shade,
)
from repro.report.layout import Finding, tabs
from repro.report.style import MARKERS, STYLE, VIVID, closed, say_if_empty, share_axis, side_by_side

COLUMNS = {
    "xsum_rouge1": ("XSum", "ROUGE-1"),
    "xsum_rouge2": ("XSum", "ROUGE-2"),
    "xsum_rougeL": ("XSum", "ROUGE-L"),
    "gsm8k_accuracy": ("GSM8K", "Acc"),
}


def table(frame: pd.DataFrame, title: str) -> Html:
    """Return Table 5: restored share by measure of XSum and GSM8K, shaded as `restoration`.

    `frame` has metric (of `TASK_COLUMNS`), restored_percent, accuracy (percent; ROUGE is an
    F-measure), and where known low, high.
    """
    ordered = frame.assign(group="").sort_values("restored_percent", kind="stable")
    rows, difference = change_from_unrestored(ordered, ["metric"])
    rows["css"] = [shade(d) for d in difference]
    rows["row"] = [restored_label(share, None) for share in rows["restored_percent"]]
    rows["column"] = [COLUMNS[metric] for metric in rows["metric"]]
    rows["text"] = cell_texts(rows.assign(difference=difference))
    return grid(rows, COLUMNS.values(), ("", "Restored"), title, frame)


def published() -> pd.DataFrame:
    """Return the paper's Table 5: metric, restored_percent, accuracy (percent)."""
    return paper.table("tasks").melt("restored_percent", None, "metric", "accuracy")


def tables(means: pd.DataFrame, model: str) -> Html:
    """Return Table 5 as tabs: ours, the paper's, and the difference of gains in points."""
    keys, gains = ["metric", "restored_percent"], []
    for frame in (means, published()):
        rows, gain = change_from_unrestored(frame, ["metric"])
        gains.append(rows[keys].assign(gain=gain).dropna())
    compared = beside_paper(*gains, keys, "gain")
    cells = compared.assign(
        group="",
        row=[restored_label(share, None) for share in compared["restored_percent"]],
        column=compared["metric"].map(COLUMNS),
    )
    name = model if len(means) else "not measured"
    parts = {
        "Ours": table(means, f"Table 5, ours: {name} (%)"),
        "Paper": table(published(), "Table 5 of the paper: LLaMA-3-8B (%)"),
    }
    if len(compared):
        title = "Table 5: gain from restoring, ours less the paper's, points"
        parts["Difference"] = differences(cells, ("", "Restored"), title, compared)
    return tabs(parts, "Table 5")


def findings(differences: pd.DataFrame) -> list[Finding]:
    """Return what §5.2 says of other tasks, with the comparisons of each share and measure."""
    claim = "The benefits of restoring generalise across tasks."
    words = "restoring a share helps", "restoring a share hurts"
    return [Finding("Section 5.2, Table 5", claim, differences, *words)]


@plt.rc_context(STYLE)
def figure(means: pd.DataFrame) -> Figure:
    """Draw Table 5: each measure against the restored share, the paper's beside ours, one scale.

    `means` has metric, restored_percent, accuracy and where known low, high (percent).
    """
    drawn, ((left, right),) = side_by_side(1, ("Paper", "Ours"))
    for axis, frame in ((left, published()), (right, means)):
        for (metric, name), colour, marker in zip(COLUMNS.items(), VIVID, MARKERS, strict=False):
            rows = frame[frame["metric"] == metric].sort_values("restored_percent")
            label = f"{name[0]} {name[1]}"
            x, style = rows["restored_percent"], {"color": colour, "marker": marker, "ms": 4}
            axis.plot(x, rows["accuracy"], lw=1.4, label=label, **style)
            if "low" in rows:
                axis.fill_between(x, rows["low"], rows["high"], color=colour, alpha=0.1, lw=0)
        share_axis(axis, frame["restored_percent"].astype(float), few=True)
        axis.set_xlabel("Restored (%)")
        say_if_empty(axis, frame)
    left.set_ylabel("Score (%)")
    drawn.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return closed(drawn)
