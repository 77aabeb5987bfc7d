"""The restored parameters by layer and by module (Tables 9 and 10, Appendix E.1).

A layer or module with more parameters has more of the chosen ones by chance alone. So the tables
show the *lift* beside the paper's percentage: the share of a layer or module in the chosen
parameters over its share in all parameters. A lift of 1 is what chance gives.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import stats

from repro import paper
from repro.errors import ConfigError
from repro.paper import LEVELS
from repro.report import larger_models
from repro.report.html import (
    FULL_SHADE,
    Html,
    beside_paper,
    cell_texts,
    differences,
    grid,
    in_size_order,
    shade,
    trained_on,
)
from repro.report.layout import tabs
from repro.report.style import COLOURS, MARKERS, STYLE, finish, panels

if TYPE_CHECKING:
    from repro.study import Study

TABLES = ("layers", "modules")  # the paper's Tables 9 and 10
RUN = ["train_level", "train_size"]
QUESTION = "Do the most changed parameters lie in some modules or layers rather than in others?"
SIZES = ["hidden", "layers", "intermediate", "heads", "key_value_heads"]


def published() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return Tables 9 and 10: layer or module, k (chosen, in percent of all) and n (parameters).

    n follows from the sizes of LLaMA-3-8B (`repro.models.sizes`); all its layers are equal.
    """
    per_module = parameters()
    layers, modules = (paper.table(name).rename(columns={"percent": "k"}) for name in TABLES)
    modules["n"] = modules["module"].map(per_module)
    return layers.assign(n=sum(per_module.values()), sample=0), modules.assign(sample=0)


def parameters(model: str = "llama-3-8b") -> dict[str, int]:
    """Return how many parameters each module of one layer has, by its name in Table 10."""
    size = larger_models.LARGE[model]
    wide, narrow = size.hidden**2, size.hidden**2 * size.key_value_heads // size.heads
    attention = {"attn.q": wide, "attn.k": narrow, "attn.v": narrow, "attn.o": wide}
    return attention | dict.fromkeys(
        ("mlp.gate", "mlp.up", "mlp.down"), size.hidden * size.intermediate
    )


def architecture(model: str = "llama-3-8b") -> str:
    """Return the sizes from which `parameters` follows, as text."""
    size = larger_models.LARGE[model]
    return ", ".join(f"{getattr(size, name):,} {name.replace('_', '-')}" for name in SIZES)


def chosen(places: pd.DataFrame, percent: float) -> pd.DataFrame:
    """Return the rows of `Results.locations` for one share, with modules named as in Table 10.

    Raises:
        ConfigError: the profile does not count that share.
    """
    shares = sorted(places["top_percent"].unique()) if len(places) else []
    if len(places) and percent not in shares:
        available = ", ".join(f"{share / 100:g}" for share in shares)
        raise ConfigError(f"frac {percent / 100:g} is not counted in this profile: use {available}")
    return named(places[places["top_percent"] == percent] if len(places) else places)


def named(places: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with modules named as in Table 10, such as `attn.q`."""
    if places.empty:
        columns = [*RUN, "sample", "layer", "module", "k", "n", "top_percent"]
        return pd.DataFrame(columns=columns, dtype=float)
    short = places["module"].str.replace("self_attn", "attn").str.removesuffix("_proj")
    return places.assign(module=short)


def quarters(layer: pd.Series) -> pd.Series:
    """Return the quarter of each layer, from the lowest (0): 8 layers of 32 each, or 1 of 4."""
    return 4 * layer // (layer.max() + 1)


def lifts(places: pd.DataFrame, run: list[str], by: list[str]) -> pd.DataFrame:
    """Return share (percent of the chosen parameters), lift and number of cells of every group.

    `places` has the columns `run` and `by`, k (chosen) and n (all parameters).
    """
    groups = places.groupby([*run, *by])
    rows = groups.agg(k=("k", "sum"), n=("n", "sum"), cells=("k", "size")).reset_index()
    total = rows.groupby(run)[["k", "n"]].transform("sum")
    share = 100 * rows["k"] / total["k"]
    return rows.assign(share=share, lift=share / (100 * rows["n"] / total["n"]))


def summary(places: pd.DataFrame, by: str) -> pd.DataFrame:
    """Return Table 9 (`by` layer) or 10 (`by` module) of the runs, averaged over data samples.

    Columns: those of `RUN` that `places` has, `by`, share and own_share (percent of the chosen and
    of all parameters), lift, spread (of share over data samples, in points), n (data samples).
    """
    run = [name for name in RUN if name in places]
    rows = lifts(places, [*run, "sample"], [by])
    rows["own_share"] = rows["share"] / rows["lift"]
    groups = rows.groupby([*run, by])
    means = groups[["share", "own_share", "lift"]].mean()
    spreads = groups["share"].agg(spread="std", n="size")
    rows = means.join(spreads).reset_index()
    return rows.sort_values([*run, by], key=_in_order, ignore_index=True)


def _in_order(values: pd.Series) -> pd.Series:
    """Return sort keys: modules in the order of Table 10, then those that it does not have."""
    if values.name != "module":
        return values
    place_of_module = {name: place for place, name in enumerate(paper.table("modules")["module"])}
    return values.map(lambda name: f"{place_of_module.get(name, len(place_of_module))} {name}")


def by_share(places: pd.DataFrame) -> pd.DataFrame:
    """Return the lift of every module at every share, averaged over all runs, beside Table 10's.

    There is one row per module and one column per share; the paper does not give the share of its
    table.
    """
    means = lifts(named(places), [*RUN, "sample", "top_percent"], ["module"])
    table = means.pivot_table("lift", "module", "top_percent", observed=True)
    theirs = summary(published()[1], "module").set_index("module")["lift"].rename("Table 10")
    table.columns = [f"top {share:g}%" for share in table.columns]
    rows = table.join(theirs, how="outer").reset_index()
    return rows.sort_values("module", key=_in_order, ignore_index=True)


def by_model(studies: Iterable["Study"], percent: float) -> pd.DataFrame:
    """Return the lift of every module in each study, averaged over its runs, beside Table 10's.

    There is one row per module and one column per study that counted this share (percent).
    """
    table = by_share(pd.DataFrame())[["module", "Table 10"]]
    for one in studies:
        counted, column = by_share(one.results.locations()), f"top {percent:g}%"
        if column in counted:
            name = f"{one.model.title}, {one.profile.name}"
            column_shares = counted[["module", column]].rename(columns={column: name})
            table = table.merge(column_shares, on="module", how="outer")
    return table.sort_values("module", key=_in_order, ignore_index=True)


def extremes(by_share: pd.DataFrame, percent: float) -> str:
    """Return Markdown: the modules with the highest and the lowest lift, ours and the paper's."""
    sentences = []
    for who, column in (("Our runs", f"top {percent:g}%"), ("The paper", "Table 10")):
        if column in by_share and len(rows := by_share.dropna(subset=column)):
            high, low = (rows.loc[getattr(rows[column], f"idx{m}")()] for m in ("max", "min"))
            sentences.append(
                f"{who}: highest lift {high['module']} (×{high[column]:.2f}), "
                f"lowest {low['module']} (×{low[column]:.2f})."
            )
    return " ".join(sentences)


def by_samples(rows: pd.DataFrame, value: str, by: list[str]) -> pd.DataFrame:
    """Return means over data samples with a 95 % interval (Student's t), NaN for one sample."""
    groups = rows.groupby(by)[value]
    rows = groups.agg(accuracy="mean", spread="std", n="size").reset_index()
    half = rows["spread"] / np.sqrt(rows["n"]) * stats.t.ppf(0.975, (rows["n"] - 1).clip(1))
    rows = rows.assign(low=rows["accuracy"] - half, high=rows["accuracy"] + half)
    return rows.drop(columns=["spread", "n"])


@plt.rc_context(STYLE)
def layers_figure(ours: pd.DataFrame, paper: pd.DataFrame) -> Figure:
    """Draw Table 9 as curves: the lift of each layer by its depth, the paper's in grey behind ours.

    Both frames come from `summary`. Depth is from 0 (input) to 1, so that models of different
    numbers of layers share an axis; the dotted line is an even share.
    """
    figure, (axis,) = panels(1)
    axis.plot(_depth(paper["layer"]), paper["lift"], color="0.7", lw=3, zorder=1)
    for (_, level), run in ours.groupby(["train_size", "train_level"]):
        style = {"color": COLOURS[level], "marker": MARKERS[level], "ms": 5, "lw": 1.2}
        axis.plot(_depth(run["layer"]), run["lift"], **style)
    axis.axhline(1, color="0.3", ls=":", lw=1.2)
    axis.set(xlabel="Depth (0: input, 1: output)", ylabel="Lift", xlim=(0, 1))
    return finish(figure, ours, [Line2D([], [], color="0.7", lw=3, label="paper")])


@plt.rc_context(STYLE)
def modules_figure(ours: pd.DataFrame, paper: pd.DataFrame) -> Figure:
    """Draw Table 10 as points: the lift of each module, the paper's in grey beside ours.

    Both frames come from `summary`; modules are in the order of the paper's table. The
    dotted line is an even share.
    """
    figure, (axis,) = panels(1)
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
    return finish(figure, ours, [Line2D([], [], color="0.7", marker="s", ls="", label="paper")])


def _depth(layer: pd.Series) -> pd.Series:
    return (layer + 0.5) / (layer.max() + 1)


LIFT_SHADE = 10.0  # points of shading for each doubling of a lift: darkest from four times


def table(frame: pd.DataFrame, title: str, by: str) -> Html:
    """Return Table 9 (`by` layer) or 10 (`by` module): where the restored parameters lie.

    `frame` comes from `summary`; without train_level it is the paper's. A cell holds the
    percentage and the lift, and is shaded by the lift: green and bold above an even share.
    """
    ours = "train_level" in frame
    rows = in_size_order(frame, []) if ours else frame.assign(group="")
    names = rows["train_level"].map(trained_on) if ours else "LLaMA-3-8B"
    css = [
        shade(LIFT_SHADE * np.log2(lift)) if lift else shade(-FULL_SHADE) for lift in rows["lift"]
    ]
    rows = rows.assign(row=rows[by], column=names, css=css)
    texts = cell_texts(rows.assign(accuracy=rows["share"]))
    rows["text"] = [
        f'{text}<br><span class="change">×{lift:.2f}</span>'
        for text, lift in zip(texts, rows["lift"], strict=True)
    ]
    columns = map(trained_on, LEVELS) if ours else ["LLaMA-3-8B"]
    corner = ("Training facts" if ours else "", by.capitalize())
    return grid(rows, columns, corner, title, frame)


def tables(places: pd.DataFrame, by: str, model: str, percent: float) -> Html:
    """Return Table 9 (`by` layer) or 10 (`by` module) as tabs: ours, the paper's, and for modules
    the difference of lifts. Layers differ in number between models, so they have none.
    """
    number, theirs = (9, published()[0]) if by == "layer" else (10, published()[1])
    ours, theirs = summary(places, by), summary(theirs, by)
    parts = {
        "Ours": table(ours, f"Table {number}, ours: {model}, top {percent:g}% (%)", by),
        "Paper": table(theirs, f"Table {number} of the paper (%)", by),
    }
    if by == "module" and len(ours):
        keys = [*RUN, by]
        compared = beside_paper(ours, theirs, keys, "lift")
        cells = in_size_order(compared, []).assign(row=lambda rows: rows[by])
        cells = cells.assign(column=cells["train_level"].map(trained_on))
        title = "Table 10: lift, ours less the paper's"
        parts["Difference"] = differences(cells, ("Training facts", "Module"), title, compared)
    return tabs(parts, f"Table {number}")


def published_summaries() -> dict[str, pd.DataFrame]:
    """Return the paper's Tables 9 and 10 as `summary` returns ours, by `layer` and `module`."""
    tables = zip(("layer", "module"), published(), strict=True)
    return {by: summary(frame, by) for by, frame in tables}
