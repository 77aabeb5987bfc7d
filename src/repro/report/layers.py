"""The cost of restoring all parameters of a block of layers (Table 11, Appendix E.2).

The other layers stay fine-tuned. So the cost of a block is the accuracy with the block restored
less that of the same model with nothing restored. The paper's Table 11 has no row without
restoration; Table 4 has it for 240 facts, the size that Table 11 seems to be about.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from repro import paper
from repro.paper import BEST_SIZE
from repro.report.html import Html, cell_texts, grid, in_size_order, shade, signed, trained_on
from repro.report.layout import tabs
from repro.report.locations import RUN
from repro.report.style import COLOURS, MARKERS, STYLE, finish, panels, side_by_side
from repro.statistics import summary
from repro.statistics.contrasts import Units
from repro.statistics.verdicts import COLUMNS, CONTRADICTED, SUPPORTED, compare
from repro.study.results import layer_requests

if TYPE_CHECKING:
    from repro.study import Study

QUESTION = "The paper: the lowest layers matter most, those in the middle least."
NONE = "none"  # in place of a block: nothing is restored
KEYS = [*RUN, "layers", "split"]


def published() -> pd.DataFrame:
    """Return Table 11, with the row without restoration that Table 4 has for 240 facts.

    Columns: train_level, train_size, layers (such as `0-3`, or `none`), split, accuracy (percent),
    low and high (unknown).
    """
    blocks = paper.table("layer_restore").rename(columns={"restored_layers": "layers"})
    before = paper.table("restore").query(
        "split == 'test' and train_size == @BEST_SIZE and restored_percent == 0"
    )
    rows = pd.concat([before.assign(layers=NONE), blocks], ignore_index=True)
    rows = rows.assign(train_size=BEST_SIZE, split="test", low=np.nan, high=np.nan)
    return rows[[*KEYS, "accuracy", "low", "high"]]


def means(answers: pd.DataFrame) -> pd.DataFrame:
    """Return the Acc (§3.3) of every run, block and split: `summary.means` of `Results.layers`."""
    if answers.empty:
        return pd.DataFrame(columns=[*KEYS, "accuracy", "low", "high", "spread", "n"])
    return summary.means(answers)


def costs(means: pd.DataFrame, units: Units = None) -> pd.DataFrame:
    """Test for every block whether restoring it costs accuracy (in points; below zero: it does).

    `means` comes from `means` or `published`, `units` from `Results.answers` of `layer_requests`.
    Returns rows of `verdicts.COLUMNS` after the columns of `KEYS`.
    """
    rows = []
    for setting in means.loc[means["layers"] != NONE, KEYS].to_dict("records"):
        text = "level {train_level}: restoring layers {layers} costs accuracy".format(**setting)
        terms = [(1, setting), (-1, setting | {"layers": NONE})]
        rows.append(setting | compare(text, means, terms, "below", units))
    return pd.DataFrame(rows, columns=[*KEYS, *COLUMNS])


def block_names(names: pd.Series) -> list[str]:
    """Return the names of blocks from the lowest on; `none` comes first, if it is among them."""
    return sorted(names.unique(), key=lambda name: -1 if name == NONE else first(name))


def first(name: str) -> int:
    """Return the number of the first layer of a block such as `0-3`."""
    return int(name.split("-")[0])


def by_model(studies: Iterable["Study"]) -> pd.DataFrame:
    """Return the cost of restoring each block in domain, by study, over its runs.

    DataFrame[model, profile, layers, runs, lose, gain, undecided, change (mean, in points)]; a
    study that restored no layers has no row.
    """
    rows = []
    for one in studies:
        answers = one.results.answers(layer_requests(one))
        changes = costs(means(one.results.layers()), answers)
        changes = changes[changes["split"] == "test"]
        for name in block_names(changes["layers"]):
            model_changes = changes[changes["layers"] == name]
            lose, gain = ((model_changes["verdict"] == v).sum() for v in (SUPPORTED, CONTRADICTED))
            counts = (
                len(model_changes),
                lose,
                gain,
                len(model_changes) - lose - gain,
                model_changes["estimate"].mean(),
            )
            rows.append((one.model.title, one.profile.name, name, *counts))
    columns = ["model", "profile", "layers", "runs", "lose", "gain", "undecided", "change"]
    return pd.DataFrame(rows, columns=columns)


def sentence(costs: pd.DataFrame) -> str:
    """Return Markdown: for each block, in how many runs restoring it costs or helps."""
    if costs.empty:
        return "No layers were restored in this profile."
    lines = []
    for name in block_names(costs["layers"]):
        rows = costs[costs["layers"] == name]
        worse, better = ((rows["verdict"] == v).sum() for v in (SUPPORTED, CONTRADICTED))
        change = f"{signed(rows['estimate'].min())} to {signed(rows['estimate'].max())}"
        counts = f"of {len(rows)} runs {worse} lose accuracy, {better} gain it"
        rest = f"{len(rows) - worse - better} undecided (change {change} points)"
        lines.append(f"- layers {name}: {counts}, {rest}.")
    return "\n".join(lines)


@plt.rc_context(STYLE)
def figure(frame: pd.DataFrame, title: str, theirs: pd.DataFrame | None = None) -> Figure:
    """Draw Table 11 as curves: the change of accuracy from restoring each block of layers.

    `frame` comes from `costs`, of one split and size. Error bars are 95 % intervals, if known; the
    dotted line is the model without restoration. With `theirs`, the costs of `published`, the
    paper's curves are left of ours, on the same scale.
    """
    if theirs is None:
        drawn, (axis,) = panels(1)
        axis.set(title=title)
        panes = [(axis, frame)]
    else:
        drawn, ((left, right),) = side_by_side(1, ("Paper: LLaMA-3-8B", title))
        panes = [(left, theirs), (right, frame)]
    for axis, rows in panes:
        _cost_curves(axis, rows)
        axis.set_xlabel("Restored layers")
    panes[0][0].set_ylabel("Change of Acc (points)")
    return finish(drawn, frame)


def _cost_curves(axis: Axes, frame: pd.DataFrame) -> None:
    """Draw the costs of each block with error bars, one line per training level."""
    places = {name: i for i, name in enumerate(block_names(frame["layers"]))}
    for level, rows in frame.groupby("train_level"):
        x = rows["layers"].map(places) + 0.08 * (level - 2)
        error = np.abs(rows[["low", "high"]].to_numpy(float).T - rows["estimate"].to_numpy(float))
        style = {"color": COLOURS[level], "marker": MARKERS[level], "ms": 5, "lw": 1.2}
        axis.errorbar(x, rows["estimate"], np.nan_to_num(error), elinewidth=0.8, **style)
    axis.axhline(0, color="0.3", ls=":", lw=1.2)
    axis.set_xticks(range(len(places)), list(places), rotation=45 if len(places) > 4 else 0)


def table(frame: pd.DataFrame, title: str) -> Html:
    """Return Table 11 for one split: training level by restored block of layers.

    `frame` comes from `published` or `layers.means`. A cell is shaded by its difference
    from the same model without restoration (`none`), as in `restoration`.
    """
    rows = in_size_order(frame, ["train_level"]) if len(frame) else frame.assign(group="")
    keys = ["group", "train_level"]
    before = rows.loc[rows["layers"] == NONE, [*keys, "accuracy"]]
    rows = rows.merge(before.rename(columns={"accuracy": "before"}), on=keys, how="left")
    difference = (rows["accuracy"] - rows["before"]).where(rows["layers"] != NONE)
    rows = rows.assign(row=rows["train_level"].map(trained_on), column=rows["layers"])
    rows = rows.assign(
        css=difference.map(shade), text=cell_texts(rows.assign(difference=difference))
    )
    corner = ("Training facts", "Restored layers")
    return grid(rows, block_names(frame["layers"]), corner, title, frame)


def tables(means: pd.DataFrame, model: str) -> Html:
    """Return Table 11 as tabs: ours in domain, the paper's, and ours out of domain.

    The blocks of a smaller model are not those of the paper, so there is no table of differences.
    """
    inside, outside = (means[means["split"] == split] for split in ("test", "testood"))
    parts = {
        "Ours": table(inside, f"Table 11, ours: {model}, in-domain Acc (%)"),
        "Paper": table(published(), "Table 11 of the paper: LLaMA-3-8B, in-domain Acc (%)"),
        "Ours, out of domain": table(outside, f"Out of domain, ours: {model}, Acc (%)"),
    }
    return tabs(parts, "Table 11")


def result(costs: pd.DataFrame) -> str:
    """Return a sentence: in how many runs the lowest, a middle and the last block cost accuracy."""
    if costs.empty:
        return "No layers were restored in this profile."
    names, parts = block_names(costs["layers"]), []
    chosen = {"lowest": names[0], "middle": names[len(names) // 2], "last": names[-1]}
    for where, name in chosen.items():
        rows = costs[costs["layers"] == name]
        lose, gain = ((rows["verdict"] == v).sum() for v in (SUPPORTED, CONTRADICTED))
        parts.append(f"the {where} ({name}) loses accuracy in {lose} and gains it in {gain}")
    return f"Of {len(rows)} runs, restoring a block of layers: {'; '.join(parts)}."
