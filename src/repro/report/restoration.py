"""Setting the most changed parameters back (§5): Tables 3, 4 and 6."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from repro import paper
from repro.paper import LEVELS, SPLIT_TITLES
from repro.report.html import (
    MARK,
    Html,
    beside_paper,
    cell_texts,
    change_from_unrestored,
    differences,
    grid,
    in_size_order,
    restored_label,
    shade,
    trained_on,
)
from repro.report.layout import Finding, tabs
from repro.report.style import (
    COLOURS,
    MARKERS,
    STYLE,
    finish,
    level_curves,
    panels,
    say_if_empty,
    share_axis,
    side_by_side,
    thousands,
)
from repro.statistics.summary import RUN, restored, run_columns, size_names
from repro.study import Study
from repro.study.results import restoration_requests

# --- Table 3: how much of the change a share of the parameters holds ------------------------------


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


def concentration_tables(means: pd.DataFrame, model: str) -> Html:
    """Return Table 3 as tabs: ours, the paper's, and the difference in points."""
    published, share = paper.table("concentration"), "share_of_change_percent"
    keys = ["train_size", "train_level", "top_percent"]
    parts = {
        "Ours": concentration_table(means, f"Ours: {model}; share of the total change (%)"),
        "Paper": concentration_table(
            published, "Table 3 of the paper: LLaMA-3-8B; share of the total change (%)"
        ),
    }
    compared = beside_paper(means, published, keys, share).sort_values(keys)
    cells = compared.assign(
        group=compared["train_size"].map("{:,}".format),
        row=compared["train_level"].map(trained_on),
        column=compared["top_percent"].map(lambda top: f"top {top:g}%"),
    )
    if len(compared):
        title = "Table 3: ours less the paper's, points"
        parts["Difference"] = differences(cells, ("Training facts", "Trained on"), title, compared)
    return tabs(parts, "Table 3")


@plt.rc_context(STYLE)
def concentration_figure(ours: pd.DataFrame, published: pd.DataFrame) -> Figure:
    """Draw Table 3 as curves: cumulative share of the change, the paper's in grey behind ours.

    Both frames have train_size, train_level, top_percent, share_of_change_percent.
    """
    figure, (axis,) = panels(1)
    for _, run in published.groupby(["train_size", "train_level"]):
        axis.plot("top_percent", "share_of_change_percent", data=run, color="0.7", lw=3, zorder=1)
    for (_, level), run in ours.groupby(["train_size", "train_level"]):
        style = {"color": COLOURS[level], "marker": MARKERS[level], "ms": 5}
        axis.plot("top_percent", "share_of_change_percent", data=run, **style)
    share_axis(axis, pd.concat([ours["top_percent"], published["top_percent"]]))
    axis.set(xlabel="Most changed parameters (%, square-root scale)", ylim=(0, 102))
    axis.set_ylabel("Share of the total change (%)")
    return finish(figure, ours, [Line2D([], [], color="0.7", lw=3, label="paper")])


# --- Tables 4 and 6: accuracy after restoring a share ---------------------------------------------


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


def gain_differences(means: pd.DataFrame, published: pd.DataFrame, split: str) -> pd.DataFrame:
    """Return what restoring a share adds with us, in the paper, and the difference, in points.

    Columns: train_size, train_level, restored_percent, ours, paper, difference; the runs and shares
    that both have.
    """
    keys = ["train_size", "train_level", "restored_percent"]
    gains = []
    for frame in (means, published):
        rows = _fine_tuned(frame, split)
        if "size_label" in rows:
            rows = rows[rows["size_label"] != "All"]
        rows, gain = change_from_unrestored(rows, keys[:2])
        gains.append(rows[keys].assign(gain=gain).dropna())
    return beside_paper(*gains, keys, "gain").sort_values(keys, kind="stable", ignore_index=True)


def tables(
    means: pd.DataFrame, split: str, model: str, name: str, mark: float | None = None
) -> Html:
    """Return Table 4 or 6 for one split as tabs: ours, the paper's, and the difference of gains.

    `name` is what the paper calls the table, such as `Table 4(a)`; `model` is ours.
    """
    published = paper.table("restore_train" if split == "train" else "restore")
    titles = {"test": "in-domain Acc", "testood": "out-of-domain Acc", "train": "training facts"}
    rows = means[means["split"] == split]
    ours = table(rows, f"{name}, ours: {model}, {titles[split]} (%)", mark)
    theirs = published[published["split"] == split] if split != "train" else published
    theirs = table(theirs, f"{name} of the paper: LLaMA-3-8B, {titles[split]} (%)", mark)
    gains = gain_differences(means, published, split)
    cells = gains.assign(
        group=gains["train_size"].map("{:,}".format),
        row=[restored_label(share, mark) for share in gains["restored_percent"]],
        column=gains["train_level"].map(trained_on),
    )
    corner = ("Training facts", "Restored")
    title = f"{name}: gain from restoring, ours less the paper's, points"
    parts = {"Ours": ours, "Paper": theirs}
    if len(gains):
        parts["Difference"] = differences(cells, corner, title, gains)
    return tabs(parts, name)


@plt.rc_context(STYLE)
def figure(
    means: pd.DataFrame,
    split: str,
    mark: float | None = None,
    published: pd.DataFrame | None = None,
) -> Figure:
    """Draw Table 4 as curves: accuracy against the restored share, one row per data size.

    `means` is the paper's table or comes from `summary.means`. The bands are 95 % intervals over
    questions, where known; `mark` (percent) is ringed. The axis is a square root, which gives
    the small shares room. With `published`, the paper's curves stand left of ours, on one scale.
    """
    frames = [_fine_tuned(frame, split) for frame in (published, means) if frame is not None]
    sizes = _size_order(frames)
    if published is None:
        drawn, axes = panels(max(len(sizes), 1))
        axes = axes[:, None]
    else:
        drawn, axes = side_by_side(max(len(sizes), 1), ("Paper", "Ours"))
    for column, rows in zip(axes.T, frames, strict=True):
        names = size_names(rows)
        for axis, name in zip(column, sizes, strict=False):
            rows_of_size = rows[names == name]
            level_curves(axis, rows_of_size, "restored_percent", "accuracy", mark=mark)
            share_axis(axis, rows["restored_percent"], few=published is not None)
            if published is None:
                axis.set(title=f"{SPLIT_TITLES[split]}, {thousands(name)} training facts")
            elif rows_of_size.empty:
                say_if_empty(axis, rows_of_size)
    for axis, name in zip(axes[:, 0], sizes, strict=False):
        facts = "" if published is None else f"{thousands(name)} facts: "
        axis.set_ylabel(f"{facts}Acc (%)" if facts else "Accuracy (%)")
    for axis in axes[-1]:
        wide = "Restored parameters (%, square-root scale)"
        axis.set_xlabel(wide if published is None else "Restored (%)")
    return finish(drawn, frames[-1])


def _fine_tuned(means: pd.DataFrame, split: str) -> pd.DataFrame:
    return means[(means["split"] == split) & (means["train_level"] >= 0)]


def _size_order(frames: list[pd.DataFrame]) -> list[str]:
    """Return the names of the sizes of all frames, the smallest size first."""
    rows = pd.concat([rows.assign(name=size_names(rows)) for rows in frames])
    return list(dict.fromkeys(rows.sort_values("train_size", kind="stable")["name"]))


def results(study: Study, percent: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return accuracies and answers of the restored runs, at the profile's shares and `percent`.

    What is missing of `percent` is computed.
    """
    accuracy, answers = study.results.accuracy(), study.results.answers()
    if percent not in set(accuracy["restored_percent"]):
        requests = restoration_requests(study, percent)
        accuracy = pd.concat([accuracy, study.results.accuracy(requests)])
        answers = pd.concat([answers, study.results.answers(requests)])
    return restored(accuracy), restored(answers)


def findings(
    test: pd.DataFrame, train: pd.DataFrame, gains: pd.DataFrame, percent: float
) -> list[Finding]:
    """Return Findings 1 (on test and on training facts) and 2 of §5.2 with their comparisons."""
    first = "Much of the change is unnecessary: restoring improves every model."
    second = "Models trained on more facts, or on facts they did not know, gain more."
    words = f"restoring {percent:g} % helps", f"restoring {percent:g} % hurts"
    words_of_second = (
        "more facts, or unknown ones, gain more",
        "more facts, or unknown ones, gain less",
    )
    return [
        Finding("Finding 1, on in-domain test facts", first, test, *words),
        Finding("Finding 1, on the training facts", first, train, *words),
        Finding("Finding 2", second, gains, *words_of_second),
    ]


def without_zeros(measured: pd.DataFrame, model: str) -> Html:
    """Return Table 3 without the parameters that were zero, or a line where there are none."""
    if "zero_base" in measured and not measured["zero_base"].any():
        text = "No parameter was zero before: without such parameters the shares are the same."
        return Html(f'<p class="repro-note">{text}</p>', text)
    means = concentration_means(measured, "without_zero_base_percent")
    return concentration_table(means, f"Ours without zeros: {model}; share of the total change (%)")
