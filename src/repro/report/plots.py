"""The paper's figures. Every function takes a tidy frame and returns a matplotlib Figure.

Figures are narrow with large type, so that they read at phone width, and white with dark text,
so that they read on a dark page. Mastery levels have an ordered palette of falling darkness and
one marker each, so neither colour vision nor a screen is needed to tell them apart.
"""

import textwrap
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from repro.paper import LEVELS
from repro.report import layers
from repro.report.tables import SPLITS
from repro.statistics.summary import size_names, sizes, tuned

COLOURS = [sns.color_palette("inferno", 100).as_hex()[i] for i in (4, 25, 42, 57, 67)]
MARKERS = ["o", "s", "^", "D", "v"]
WIDTH, DPI = 5.2, 150
VIVID = ["black", *(sns.color_palette("colorblind").as_hex()[i] for i in (3, 0, 2, 4))]
WAYS = dict(zip(("top", "absolute", "random", "interpolate", "bottom"), VIVID, strict=True))
MODEL_LINES = ["-", "--", ":", "-."]
SHARES = [0, 1, 3, 5, 10, 20, 40, 60, 80, 100]
STYLE = {
    "axes.edgecolor": "0.4",
    "axes.labelsize": 11,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "figure.dpi": DPI,
    "figure.facecolor": "white",
    "font.size": 11,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
}


@plt.rc_context(STYLE)
def scale(means: pd.DataFrame) -> Figure:
    """Draw Figure 2 or 6: accuracy against data size by training level, one panel per split.

    `means` comes from `summary.means`; the bands are 95 % intervals over questions. A hollow
    marker is a level's whole pool ("All"); the dashed line is the model before fine-tuning.
    """
    shown = [split for split in ("test", "testood") if (means["split"] == split).any()]
    figure, axes = _panels(max(len(shown), 1))
    for axis, split in zip(axes, shown, strict=False):
        rows = means[means["split"] == split]
        _curves(axis, tuned(rows), "train_size", "accuracy")
        _before(axis, rows)
        _size_axis(axis, tuned(rows))
        axis.set(title=SPLITS[split], ylabel="Accuracy (%)", xlabel="")
    axes[-1].set_xlabel("Training facts (logarithmic)")
    return _finish(figure, means)


@plt.rc_context(STYLE)
def level_accuracy(levels: pd.DataFrame, test_level: int) -> Figure:
    """Draw Figure 4: accuracy on the in-domain facts of one mastery level against data size."""
    rows = levels[(levels["split"] == "test") & (levels["test_level"] == test_level)]
    figure, (axis,) = _panels(1)
    _curves(axis, tuned(rows), "train_size", "accuracy")
    _before(axis, rows)
    _size_axis(axis, tuned(rows))
    axis.set(ylabel=f"Accuracy on level-{test_level} facts (%)")
    axis.set_xlabel("Training facts (logarithmic)")
    return _finish(figure, rows)


@plt.rc_context(STYLE)
def divergence(frame: pd.DataFrame) -> Figure:
    """Draw Figure 5: KL divergence (nats) from the pre-trained model against data size.

    `frame` comes from `summary.divergence`; the bands are 95 % intervals over topics.
    """
    figure, (axis,) = _panels(1)
    _curves(axis, tuned(frame), "train_size", "kl")
    _size_axis(axis, tuned(frame))
    axis.set(ylabel="KL divergence (nats)", xlabel="Training facts (logarithmic)")
    return _finish(figure, frame)


@plt.rc_context(STYLE)
def divergence_against_accuracy(frame: pd.DataFrame) -> Figure:
    """Draw what Finding 2 of §4.2 relates: accuracy over KL divergence, one point per run.

    `frame` has train_level, train_size, kl (nats) and accuracy (percent) on the same facts. A
    line joins the runs of a level in the order of their size.
    """
    figure, (axis,) = _panels(1)
    doublings = np.log2(frame["train_size"] / frame["train_size"].min())
    frame = frame.assign(area=14 + 14 * doublings).sort_values("train_size")
    for level, rows in frame.groupby("train_level"):
        style = {"c": COLOURS[level], "marker": MARKERS[level], "zorder": 2}
        axis.plot("kl", "accuracy", data=rows, color=COLOURS[level], lw=0.8, alpha=0.5)
        axis.scatter("kl", "accuracy", s="area", data=rows, **style)
    axis.margins(0.1)
    axis.set(xlabel="KL divergence (nats); larger: more training facts", ylabel="Accuracy (%)")
    return _finish(figure, frame)


@plt.rc_context(STYLE)
def logits(example: dict) -> Figure:
    """Draw Figure 3 on a real example: the ten logits of both models, before and after softmax.

    `example` comes from `Study.logits_example`; the tokens are the fine-tuned model's ten highest.
    """
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 4.2), sharey=True, layout="constrained")
    rows = np.arange(len(example["tokens"]))
    pairs = [("tuned_logits", "base_logits", "Logit"), ("p", "q", "Probability over the ten")]
    for axis, (after, before, label) in zip(axes, pairs, strict=True):
        axis.hlines(rows, example[after], example[before], color="0.75", zorder=1)
        axis.plot(example[after], rows, "o", color=COLOURS[1], label="fine-tuned")
        axis.plot(example[before], rows, "D", color=COLOURS[3], label="pre-trained")
        axis.set_xlabel(label)
    axes[0].set_yticks(rows, [_token(text) for text in example["tokens"]])
    axes[0].invert_yaxis()
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return _closed(figure)


@plt.rc_context(STYLE)
def restoration(means: pd.DataFrame, split: str, mark: float | None = None) -> Figure:
    """Draw Table 4 as curves: accuracy against the restored share, one panel per data size.

    `means` is the paper's table or comes from `summary.means`. The bands are 95 % intervals over
    questions, where known; `mark` (percent) is ringed. The axis is a square root, which gives
    the small shares room.
    """
    rows = means[(means["split"] == split) & (means["train_level"] >= 0)]
    names = size_names(rows)
    shown = list(dict.fromkeys(names[rows["train_size"].sort_values(kind="stable").index]))
    figure, axes = _panels(max(len(shown), 1))
    for axis, name in zip(axes, shown, strict=False):
        _curves(axis, rows[names == name], "restored_percent", "accuracy", mark=mark)
        _share_axis(axis, rows["restored_percent"])
        title = f"{SPLITS[split]}, {_thousands(name)} training facts"
        axis.set(title=title, ylabel="Accuracy (%)")
    axes[-1].set_xlabel("Restored parameters (%, square-root scale)")
    return _finish(figure, rows)


@plt.rc_context(STYLE)
def controls(means: pd.DataFrame, x: str) -> Figure:
    """Draw accuracy after restoring parameters chosen in different ways, one panel per run.

    `means` comes from `controls.gather`; `x` is restored_percent, or undone_l1 or undone_l2. Rows
    are training levels, columns data sizes. The dotted line is the model without restoration.
    """
    levels, found = (sorted(means[name].unique()) for name in ("train_level", "train_size"))
    figure, axes = _grid(max(len(levels), 1), max(len(found), 1))
    for (row, level), (column, size) in product(enumerate(levels), enumerate(found)):
        own = means[(means["train_level"] == level) & (means["train_size"] == size)]
        axes[row, column].set_title(f"level {level}, {size:,} facts", fontsize=10)
        _strategies(axes[row, column], own, x)
    labels = {"restored_percent": "Restored parameters (%)"}
    labels |= {"undone_l1": "Undone of Σ|s − p| (%)", "undone_l2": "Undone of Σ(s − p)² (%)"}
    for axis in axes[-1]:
        axis.set_xlabel(labels[x], fontsize=10)
    figure.supylabel("Accuracy (%)", fontsize=11)
    _say_if_empty(axes[0, 0], means)
    handles = [
        Line2D([], [], color=colour, marker=marker, label=way)
        for (way, colour), marker in zip(WAYS.items(), MARKERS, strict=True)
        if (means.loc[means[x].notna(), "strategy"] == way).any()
    ]
    handles.append(Line2D([], [], color="0.3", ls=":", label="nothing restored"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, columnspacing=1.2)
    return _closed(figure)


@plt.rc_context(STYLE)
def exposure(curves: pd.DataFrame) -> Figure:
    """Draw mean R against exposure, one line per model; the bands are 95 % intervals over topics.

    `curves` comes from `exposure.curves`. The axis is a square root, which has room for 0.
    """
    figure, (axis,) = _panels(1)
    groups = curves.groupby("model", sort=False)
    for place, (model, rows) in enumerate(groups):
        style = {
            "color": COLOURS[2 * place % 5],
            "marker": MARKERS[place],
            "ls": MODEL_LINES[place],
        }
        axis.plot("exposure", "rate", data=rows, label=model, ms=5, lw=1.6, **style)
        band = rows["exposure"], rows["low"], rows["high"]
        axis.fill_between(*band, color=style["color"], alpha=0.12, lw=0)
    axis.axhline(0.5, color="0.6", lw=0.8, zorder=0)
    axis.set_xscale("function", functions=(_root, np.square))
    ticks = _apart(sorted(curves["exposure"].unique()))
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set(xlabel="Statements in the pre-training text (square-root scale)", ylim=(0, 1))
    axis.set_ylabel("Mean R")
    _say_if_empty(axis, curves)
    if len(groups):
        figure.legend(loc="outside lower center", ncols=3)
    return _closed(figure)


@plt.rc_context(STYLE)
def exposure_levels(levels: pd.DataFrame) -> Figure:
    """Draw the share of facts at each mastery level by exposure, one panel per model.

    `levels` comes from `exposure.levels`.
    """
    panels = list(levels.groupby("model", sort=False))
    heights = [0.5 + 0.24 * len(rows) for _, rows in panels] or [2.0]
    figure, axes = plt.subplots(
        len(heights), 1, figsize=(WIDTH, 1.2 + sum(heights)), squeeze=False, layout="constrained"
    )
    for axis, (model, rows) in zip(axes[:, 0], panels, strict=False):
        _stack(axis, rows.set_index(rows["exposure"].astype(str))[list(LEVELS)])
        axis.set(title=model, ylabel="Statements")
    axes[-1, 0].set_xlabel("Facts (%)")
    _say_if_empty(axes[0, 0], levels)
    _level_legend(figure)
    return _closed(figure)


@plt.rc_context(STYLE)
def concentration(ours: pd.DataFrame, paper: pd.DataFrame) -> Figure:
    """Draw Table 3 as curves: cumulative share of the change, the paper's in grey behind ours.

    Both frames have train_size, train_level, top_percent, share_of_change_percent.
    """
    figure, (axis,) = _panels(1)
    for _, run in paper.groupby(["train_size", "train_level"]):
        axis.plot("top_percent", "share_of_change_percent", data=run, color="0.7", lw=3, zorder=1)
    for (_, level), run in ours.groupby(["train_size", "train_level"]):
        style = {"color": COLOURS[level], "marker": MARKERS[level], "ms": 5}
        axis.plot("top_percent", "share_of_change_percent", data=run, **style)
    _share_axis(axis, pd.concat([ours["top_percent"], paper["top_percent"]]))
    axis.set(xlabel="Most changed parameters (%, square-root scale)", ylim=(0, 102))
    axis.set_ylabel("Share of the total change (%)")
    return _finish(figure, ours, [Line2D([], [], color="0.7", lw=3, label="paper")])


@plt.rc_context(STYLE)
def layer_lifts(ours: pd.DataFrame, paper: pd.DataFrame) -> Figure:
    """Draw Table 9 as curves: the lift of each layer by its depth, the paper's in grey behind ours.

    Both frames come from `where.summary`. Depth is from 0 (input) to 1, so that models of different
    numbers of layers share an axis; the dotted line is an even share.
    """
    figure, (axis,) = _panels(1)
    axis.plot(_depth(paper["layer"]), paper["lift"], color="0.7", lw=3, zorder=1)
    for (_, level), run in ours.groupby(["train_size", "train_level"]):
        style = {"color": COLOURS[level], "marker": MARKERS[level], "ms": 5, "lw": 1.2}
        axis.plot(_depth(run["layer"]), run["lift"], **style)
    axis.axhline(1, color="0.3", ls=":", lw=1.2)
    axis.set(xlabel="Depth (0: input, 1: output)", ylabel="Lift", xlim=(0, 1))
    return _finish(figure, ours, [Line2D([], [], color="0.7", lw=3, label="paper")])


@plt.rc_context(STYLE)
def module_lifts(ours: pd.DataFrame, paper: pd.DataFrame) -> Figure:
    """Draw Table 10 as points: the lift of each module, the paper's in grey beside ours.

    Both frames come from `where.summary`; modules stand in the order of the paper's table. The
    dotted line is an even share.
    """
    figure, (axis,) = _panels(1)
    names = list(paper["module"])
    names += [name for name in ours["module"].unique() if name not in names]
    heights = {name: place for place, name in enumerate(names)}
    axis.plot(paper["lift"], paper["module"].map(heights), "s", color="0.7", ms=13, zorder=1)
    for level, rows in ours.groupby("train_level"):
        shifted = rows["module"].map(heights) + 0.13 * (level - 2)
        axis.plot(rows["lift"], shifted, MARKERS[level], color=COLOURS[level], ms=5)
    axis.axvline(1, color="0.3", ls=":", lw=1.2)
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set_xlabel("Lift")
    return _finish(figure, ours, [Line2D([], [], color="0.7", marker="s", ls="", label="paper")])


@plt.rc_context(STYLE)
def block_costs(frame: pd.DataFrame, title: str) -> Figure:
    """Draw Table 11 as curves: the change of accuracy from restoring each block of layers.

    `frame` comes from `layers.costs`, of one split and size. Error bars are 95 % intervals, where
    known; the dotted line is the model without restoration.
    """
    figure, (axis,) = _panels(1)
    places = {name: i for i, name in enumerate(layers.blocks(frame["layers"]))}
    for level, rows in frame.groupby("train_level"):
        x = rows["layers"].map(places) + 0.08 * (level - 2)
        error = np.abs(rows[["low", "high"]].to_numpy(float).T - rows["estimate"].to_numpy(float))
        style = {"color": COLOURS[level], "marker": MARKERS[level], "ms": 5, "lw": 1.2}
        axis.errorbar(x, rows["estimate"], np.nan_to_num(error), elinewidth=0.8, **style)
    axis.axhline(0, color="0.3", ls=":", lw=1.2)
    axis.set_xticks(range(len(places)), list(places))
    axis.set(title=title, xlabel="Restored layers", ylabel="Change of Acc (points)")
    return _finish(figure, frame)


@plt.rc_context(STYLE)
def distribution(frame: pd.DataFrame, split: str = "train") -> Figure:
    """Draw Tables 1 and 8 as bars: the share of facts per mastery level, one bar per model.

    `frame` has model, split, level, count.
    """
    counts = frame[frame["split"] == split].pivot_table(
        index="model", columns="level", values="count", aggfunc="sum", sort=False
    )
    figure = _bars(100 * counts.div(counts.sum(axis=1), axis=0))
    figure.axes[0].set_xlabel(f"Facts of the {SPLITS[split].lower()} split (%)")
    return figure


@plt.rc_context(STYLE)
def topics(mastery: pd.DataFrame, names: dict[str, str]) -> Figure:
    """Draw the share of facts per mastery level, one bar per topic; `names` labels topic ids.

    Raises ValueError if two topics have the same name: their bars would cover each other.
    """
    if len(set(names.values())) < len(names):
        raise ValueError("two topics have the same name")
    counts = mastery.groupby(["topic", "level"]).size().unstack(fill_value=0)
    shares = 100 * counts.div(counts.sum(axis=1), axis=0)
    known = shares.get(0, pd.Series(0.0, index=shares.index)).sort_values(kind="stable").index
    labels = {topic: textwrap.fill(name, 27) for topic, name in names.items()}
    figure = _bars(shares.loc[known].rename(index=labels), print_shares=False, height=0.46)
    figure.axes[0].tick_params(axis="y", labelsize=9)
    figure.axes[0].set_xlabel("Facts (%)")
    return figure


@plt.rc_context(STYLE)
def rates(mastery: pd.DataFrame) -> Figure:
    """Draw the histogram of R (Appendix F.1), facts counted on a logarithmic axis."""
    figure, (axis,) = _panels(1)
    edges = np.linspace(0, 1, 21)
    positive = mastery.loc[mastery["rate"] > 0, "rate"]
    # R = 0 is a level of its own, so it is a bar of its own.
    axis.bar(-0.05, (mastery["rate"] == 0).sum(), width=0.045, color=COLOURS[0])
    counts, _ = np.histogram(np.ceil(positive * 20 - 1e-9) / 20 - 0.025, bins=edges)
    levels = np.repeat(LEVELS[1:], 5)
    axis.bar(edges[:-1] + 0.025, counts, width=0.045, color=[COLOURS[i] for i in levels])
    axis.set(yscale="symlog", xlabel="R: share of sampled completions with the answer")
    axis.set(ylabel="Facts (logarithmic)", ylim=(0, None))
    axis.set_xticks([-0.05, 0.25, 0.5, 0.75, 1], ["0", "¼", "½", "¾", "1"])
    return _finish(figure, mastery.rename(columns={"level": "train_level"}), title="Mastery level")


@plt.rc_context(STYLE)
def templates(success: pd.DataFrame) -> Figure:
    """Draw the success rate of every mapping template; rows are topics, columns templates.

    `success` is a frame of rates in percent (from `summary.templates`), one row per topic.
    """
    figure = _heat(success, "Mapping template (number in Tables 13–36)", "Success rate (%)")
    figure.axes[0].set_xticks(range(0, success.shape[1], 5), success.columns[::5])
    return figure


@plt.rc_context(STYLE)
def exposure_topics(rates: pd.DataFrame) -> Figure:
    """Draw the mean R by topic (rows) and exposure (columns); `rates` is in percent."""
    figure = _heat(rates, "Statements in the pre-training text", "Mean R (%)")
    figure.axes[0].set_xticks(range(rates.shape[1]), [f"{seen:g}" for seen in rates.columns])
    return figure


@plt.rc_context(STYLE)
def learning_rates(frame: pd.DataFrame, chosen: float) -> Figure:
    """Draw right dev answers against the learning rate with 95 % intervals; `chosen` is marked.

    `frame` comes from `summary.learning_rates`.
    """
    figure, (axis,) = _panels(1)
    rows = frame.sort_values("learning_rate")
    error = np.abs(rows[["low", "high"]].to_numpy().T - rows["accuracy"].to_numpy())
    axis.errorbar(rows["learning_rate"], rows["accuracy"], error, color=COLOURS[1], marker="o")
    axis.axvline(chosen, color=COLOURS[3], ls="--", label=f"chosen: {chosen:g}")
    axis.set(xscale="log", xlabel="Learning rate (logarithmic)", ylabel="Right answers on dev (%)")
    _say_if_empty(axis, rows)
    figure.legend(loc="outside lower center")
    return _closed(figure)


@plt.rc_context(STYLE)
def loss_curves(frame: pd.DataFrame) -> Figure:
    """Draw two ways to fine-tune on the same batches: one panel per model and number format.

    `frame` comes from `speed.curves`. TRL's curve is wide and pale, ours thin and on top.
    """
    panels = list(frame.groupby(["model", "dtype"], sort=False)) if len(frame) else []
    figure, axes = _panels(max(1, len(panels)))
    for axis, ((model, dtype), rows) in zip(axes, panels, strict=False):
        for way, style in (("TRL", {"lw": 6, "alpha": 0.35}), ("ours", {"lw": 1.2})):
            own = rows[rows["way"] == way]
            axis.plot(own["step"], own["loss"], color=COLOURS[1], label=way, **style)
        axis.set(title=f"{model}, {dtype}", xlabel="Step", ylabel="Loss (nats per answer token)")
    _say_if_empty(axes[0], frame)
    if panels:
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return _closed(figure)


def _depth(layer: pd.Series) -> pd.Series:
    return (layer + 0.5) / (layer.max() + 1)


def _heat(values: pd.DataFrame, xlabel: str, label: str) -> Figure:
    size = (WIDTH, 1.4 + 0.2 * len(values))
    figure, axis = plt.subplots(figsize=size, layout="constrained")
    if values.empty:
        _say_if_empty(axis, values)
        axis.set_xlabel(xlabel)
        return _closed(figure)
    top = max(float(np.nanmax(values.to_numpy())), 1.0)
    image = axis.imshow(values, cmap="cividis", aspect="auto", vmin=0, vmax=top)
    axis.set_yticks(range(len(values)), values.index, fontsize=8)
    axis.set(xlabel=xlabel)
    figure.colorbar(image, ax=axis, orientation="horizontal", label=label)
    return _closed(figure)


def _grid(rows: int, columns: int) -> tuple[Figure, np.ndarray]:
    size = (WIDTH, 1.3 + 1.55 * rows)
    options = {"squeeze": False, "sharex": True, "layout": "constrained"}
    figure, axes = plt.subplots(rows, columns, figsize=size, **options)
    for axis in axes.flat:
        axis.grid(color="0.9", lw=0.8)
        axis.set_axisbelow(True)
    return figure, axes


def _strategies(axis: Axes, rows: pd.DataFrame, x: str) -> None:
    before = rows[rows["strategy"] == "none"]
    if before.empty:
        _say_if_empty(axis, before)
        axis.set_yticks([])
    else:
        axis.axhline(before["accuracy"].item(), color="0.3", ls=":", lw=1.2)
    for (way, colour), marker in zip(WAYS.items(), MARKERS, strict=True):
        own = pd.concat([before, rows[rows["strategy"] == way].dropna(subset=x)]).sort_values(x)
        if len(own) > len(before):
            axis.plot(x, "accuracy", data=own, color=colour, marker=marker, ms=4, lw=1.2)
            axis.fill_between(own[x], own["low"], own["high"], color=colour, alpha=0.07, lw=0)


def _apart(values: list[float]) -> list[float]:
    """Return the values that have room for a label on a square-root axis."""
    kept: list[float] = []
    for value in values:
        if not kept or np.sqrt(value) - np.sqrt(kept[-1]) > 0.055 * np.sqrt(values[-1]):
            kept.append(value)
    return kept


def _panels(count: int) -> tuple[Figure, np.ndarray]:
    size = (WIDTH, 0.9 + 2.7 * count)
    figure, axes = plt.subplots(count, 1, figsize=size, squeeze=False, layout="constrained")
    for axis in axes[:, 0]:
        axis.grid(color="0.9", lw=0.8)
        axis.set_axisbelow(True)
    return figure, axes[:, 0]


def _curves(axis: Axes, rows: pd.DataFrame, x: str, y: str, mark: float | None = None) -> None:
    for level, run in rows.sort_values(x).groupby("train_level"):
        colour, marker = COLOURS[level], MARKERS[level]
        axis.plot(x, y, data=run, color=colour, marker=marker, ms=6, lw=1.6)
        if "low" in run:
            axis.fill_between(run[x], run["low"], run["high"], color=colour, alpha=0.1, lw=0)
        whole = run[size_names(run) == "All"] if x == "train_size" else run[run[x] == mark]
        style = {"mfc": "white", "mec": colour, "ls": "", "zorder": 3}
        axis.plot(whole[x], whole[y], marker, ms=9, **style)


def _before(axis: Axes, rows: pd.DataFrame) -> None:
    before = rows.loc[rows["train_level"] == -1, "accuracy"]
    if len(before):
        axis.axhline(before.mean(), color="0.3", ls="--", lw=1.2)


def _size_axis(axis: Axes, rows: pd.DataFrame) -> None:
    axis.set_xscale("log")
    ticks = sizes(rows) or sorted(rows["train_size"].unique())
    axis.set_xticks(ticks, [f"{size:,}" for size in ticks])
    axis.minorticks_off()


def _share_axis(axis: Axes, shares: pd.Series) -> None:
    axis.set_xscale("function", functions=(_root, np.square))
    ticks = [share for share in SHARES if share <= max(shares.max(), 1)]
    axis.set_xticks(ticks, [str(share) for share in ticks])


def _root(values: np.ndarray) -> np.ndarray:
    return np.sqrt(np.clip(values, 0, None))


def _bars(shares: pd.DataFrame, print_shares: bool = True, height: float = 0.3) -> Figure:
    size = (WIDTH, 1.4 + height * len(shares))
    figure, axis = plt.subplots(figsize=size, layout="constrained")
    _stack(axis, shares, print_shares)
    _level_legend(figure)
    return _closed(figure)


def _stack(axis: Axes, shares: pd.DataFrame, print_shares: bool = True) -> None:
    left = np.zeros(len(shares))
    for level in LEVELS:
        width = shares.get(level, pd.Series(0.0, index=shares.index)).fillna(0).to_numpy()
        bars = axis.barh(shares.index, width, left=left, color=COLOURS[level], edgecolor="white")
        texts = [f"{w:.0f}" if print_shares and w >= 6 else "" for w in width]
        axis.bar_label(bars, texts, label_type="center", color="white", fontsize=9)
        left += width
    axis.invert_yaxis()
    axis.set(xlim=(0, 100))


def _level_legend(figure: Figure) -> None:
    handles = [plt.Rectangle((0, 0), 1, 1, color=COLOURS[i], label=str(i)) for i in LEVELS]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, title="Mastery level")


def _finish(figure: Figure, rows: pd.DataFrame, extra=(), title="Trained on level") -> Figure:
    _say_if_empty(figure.axes[0], rows)
    present = sorted(level for level in rows["train_level"].unique() if level >= 0)
    handles = [Line2D([], [], color=COLOURS[i], marker=MARKERS[i], label=str(i)) for i in present]
    if (rows["train_level"] == -1).any():
        handles.append(Line2D([], [], color="0.3", ls="--", label="before"))
    handles += extra
    if handles:
        columns = {"ncols": min(len(handles), 6), "columnspacing": 1.2, "handlelength": 1.6}
        figure.legend(handles=handles, loc="outside lower center", title=title, **columns)
    return _closed(figure)


def _thousands(name: str) -> str:
    return f"{int(name):,}" if name.isdecimal() else name


def _say_if_empty(axis: Axes, rows: pd.DataFrame) -> None:
    if rows.empty:
        where = {"ha": "center", "va": "center", "transform": axis.transAxes}
        axis.text(0.5, 0.5, "No such runs", backgroundcolor="white", **where)


def _closed(figure: Figure) -> Figure:
    # Jupyter would show an open figure once more at the end of the cell.
    plt.close(figure)
    return figure


def _token(text: str) -> str:
    text = text.replace("$", r"\$").replace("\n", "⏎")
    return "␣" + text[1:] if text.startswith(" ") else text
