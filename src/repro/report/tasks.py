"""Restoration on GSM8K and XSum (§5.2): Table 5."""

import pandas as pd

from repro import paper
from repro.report.html import Html, cell_texts, change_from_unrestored, grid, restored_label, shade

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
