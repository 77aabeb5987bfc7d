"""Restoration on GSM8K and XSum (§5.2): Table 5."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from repro import files, paper
from repro.data import task_examples
from repro.models import registry
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
from repro.study import profiles
from repro.study.task_study import TaskStudy, open_task_study, why_not

COLUMNS = {
    "xsum_rouge1": ("XSum", "ROUGE-1"),
    "xsum_rouge2": ("XSum", "ROUGE-2"),
    "xsum_rougeL": ("XSum", "ROUGE-L"),
    "gsm8k_accuracy": ("GSM8K", "Acc"),
}


def shown(model: str, profile: str) -> tuple[TaskStudy, str]:
    """Return the study whose results a page shows, and Markdown that says which one and why.

    It is the study of the model, whose missing records are computed if there are examples. If the
    model cannot learn the tasks, it is the first study in `results/`.
    """
    study = open_task_study(model, profile)
    if not study.applies:
        others = [other for other in _committed() if other.results.means().size]
        reason = f"**{why_not(study.model)}.** So Table 5 does not apply to it."
        if not others:
            return study, reason
        return others[0], f"{reason} Shown instead: {about(others[0])}"
    study.run()
    if study.results.means().size:
        return study, about(study)
    return study, f"Nothing is measured yet: {about(study)} To measure, {task_examples.FOLDER}."


def _committed() -> list[TaskStudy]:
    folders = sorted(path.parent for path in files.results_dir().glob("*/*/task_score.jsonl"))
    names = [(f.parent.name, f.name) for f in folders if f.parent.name in registry.entries()]
    return [
        TaskStudy(registry.entry(name), profiles.profile(profile))
        for name, profile in names
        if profile in profiles.PROFILES
    ]


def about(study: TaskStudy) -> str:
    """Return a line of Markdown on the model and the sizes."""
    sizes = study.profile.tasks
    math, news = sizes["gsm8k"], sizes["xsum"]
    return (
        f"**{study.model.title}**, profile `{study.profile.name}`: {math['train']} problems of"
        f" GSM8K to train on and {math['test']} to test with, answers of up to"
        f" {math['new_tokens']} tokens; {news['train']} and {news['test']} documents of XSum,"
        f" each cut off after {news['document_tokens']} tokens, summaries of up to"
        f" {news['new_tokens']}; learning rate {study.model.learning_rate:g}, answers greedy."
    )


def table(frame: pd.DataFrame, title: str) -> Html:
    """Return Table 5: restored share by measure of XSum and GSM8K, shaded as `restoration`.

    `frame` has metric (of `TASK_COLUMNS`), restored_percent, accuracy (percent; ROUGE is an
    F-measure), and if known low, high.
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
    """Return the finding of §5.2 on other tasks, with the comparisons of each share and measure."""
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
