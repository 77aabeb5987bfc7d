"""Every phenomenon and finding on every model: mean effects with intervals, side by side.

An effect is the mean over the comparisons of a phenomenon, in the direction that the paper states.
If it is above zero, the model agrees with the paper. The effect over models comes from a
random-effects model: the models are a sample of many, and their true effects may differ.
"""

import textwrap
from collections.abc import Collection, Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from repro.report.html import signed
from repro.report.style import STYLE, VIVID, WIDTH, closed, say_if_empty
from repro.statistics.intervals import Z95
from repro.statistics.multiple import random_effects
from repro.statistics.verdicts import CONTRADICTED, HOLDS, SUPPORTED, overall

COLUMNS = ["phenomenon", "model", "effect", "low", "high", "comparisons", "supported"]
COLUMNS += ["contradicted", "verdict", "ours", "counts"]
ALL_OURS = "all of ours"
ENOUGH = 3  # fewest models of an effect over models: with two, its interval is too wide


def effects(
    comparisons: Mapping[str, Mapping[str, pd.DataFrame]],
    published: Collection[str],
    repeated: Collection[str] = (),
) -> pd.DataFrame:
    """Return one row per phenomenon and model: `COLUMNS`, effects in the unit of the phenomenon.

    Args:
        comparisons: rows of `verdicts.compare_jointly` by model and by name of the phenomenon;
            `attrs["pooled"]` is the effect. A model without the runs of a phenomenon has no row.
        published: the models of the paper.
        repeated: second studies of a model, which do not count as a model.
    """
    rows = []
    for model, by_name in comparisons.items():
        for name, compared in by_name.items():
            tested = compared[compared["estimate"].notna()]
            if compared.attrs.get("pooled") is None or tested.empty:
                continue
            counts = [int((tested["verdict"] == v).sum()) for v in (SUPPORTED, CONTRADICTED)]
            effect = compared.attrs["pooled"]
            ours = model not in published
            kind = (overall(tested), ours, ours and model not in repeated)
            rows.append((name, model, *effect, len(tested), *counts, *kind))
    return pd.DataFrame(rows, columns=COLUMNS)


def over_models(effects: pd.DataFrame) -> pd.DataFrame:
    """Return the effect over our models of each phenomenon that at least `ENOUGH` models have.

    Columns: phenomenon, model (`ALL_OURS`), effect, low, high, models, between (the standard
    deviation of true effects between models).
    """
    rows = []
    counting = effects[effects["counts"].astype(bool)]
    for name, rows_of_ours in counting.groupby("phenomenon", sort=False):
        if len(rows_of_ours) >= ENOUGH:
            errors = (rows_of_ours["high"] - rows_of_ours["low"]).to_numpy() / (2 * Z95)
            effect, low, high, between = random_effects(rows_of_ours["effect"].to_numpy(), errors)
            rows.append((name, ALL_OURS, effect, low, high, len(rows_of_ours), between))
    columns = ["phenomenon", "model", "effect", "low", "high", "models", "between"]
    return pd.DataFrame(rows, columns=columns)


@plt.rc_context(STYLE)
def figure(effects: pd.DataFrame, titles: Mapping[str, str], unit: str) -> Figure:
    """Draw a forest plot: a panel for each phenomenon of `titles`, a row for each model, one axis.

    Points are mean effects, bars 95 % intervals; the paper's models are squares. The diamond below
    is the effect over our models. Second studies of a model are not drawn.
    """
    effects = effects[effects["counts"].astype(bool) | ~effects["ours"].astype(bool)]
    pooled = over_models(effects)
    models = list(dict.fromkeys(effects["model"]))
    heights = [1 + (effects["phenomenon"] == name).sum() + 1 for name in titles]
    size = (WIDTH, 0.8 + 0.26 * sum(heights))
    options = {"squeeze": False, "sharex": True, "height_ratios": heights, "layout": "constrained"}
    drawn, axes = plt.subplots(len(titles), 1, figsize=size, **options)
    for axis, (name, title) in zip(axes[:, 0], titles.items(), strict=True):
        rows = effects[effects["phenomenon"] == name]
        rows = rows.sort_values("model", key=lambda column: column.map(models.index))
        _forest(axis, rows, pooled[pooled["phenomenon"] == name])
        axis.set_title(title)
    drawn.supxlabel(f"Mean effect as the paper states it ({unit})", fontsize=11)
    return closed(drawn)


def _forest(axis: Axes, rows_of_models: pd.DataFrame, pooled: pd.DataFrame) -> None:
    """Draw the rows of one phenomenon, and below them the effect over our models."""
    axis.axvline(0, color="0.3", ls=":", lw=1.2)
    rows = [*rows_of_models.to_dict("records"), *pooled.assign(ours=True).to_dict("records")]
    for place, row in enumerate(rows):
        is_pooled = row["model"] == ALL_OURS
        colour = VIVID[0] if is_pooled else VIVID[2 if row["ours"] else 1]
        ends = np.abs([[row["low"] - row["effect"]], [row["high"] - row["effect"]]])
        marker = "D" if is_pooled else "o" if row["ours"] else "s"
        axis.errorbar(row["effect"], place, xerr=ends, fmt=marker, color=colour, ms=5, lw=1.4)
    axis.set_yticks(range(len(rows)), [textwrap.fill(row["model"], 22) for row in rows])
    axis.set_ylim(max(len(rows), 1) - 0.4, -0.6)
    axis.grid(color="0.9", lw=0.8, axis="x")
    say_if_empty(axis, rows_of_models)


def results(
    effects: pd.DataFrame, titles: Mapping[str, str], nats: Collection[str] = ()
) -> dict[str, str]:
    """Return a sentence for each phenomenon, by title: where it holds, and how large it is.

    `nats` are the phenomena whose effects are in nats; the others are in points.
    """
    pooled, sentences = over_models(effects).set_index("phenomenon"), {}
    for name, title in titles.items():
        rows = effects[effects["phenomenon"] == name]
        ours = rows[rows["counts"].astype(bool)]
        if len(ours):
            text = f"{_where(ours, len(ours), 'models')}"
            if len(theirs := rows[~rows["ours"].astype(bool)]):
                text += f"; of the paper's tables, {_where(theirs, len(theirs), 'models')}"
            if name in pooled.index:
                unit = "nats" if name in nats else "points"
                text += f"; over {len(ours)} models of ours {_effect(pooled.loc[name])} {unit}"
            sentences[title] = text
    return sentences


def _where(rows: pd.DataFrame, number: int, noun: str) -> str:
    """Return on which models a phenomenon holds always, on average, or in the other direction."""
    every = rows["verdict"] == HOLDS
    groups = [_named(rows[chosen]) for chosen in (every, rows["low"] > 0, rows["high"] < 0)]
    counts = f"{groups[0][0]} of {number} {noun}{groups[0][1]}"
    toward, away = (f"{count}{names}" for count, names in groups[1:])
    return f"in every comparison on {counts}; on average on {toward}, the opposite on {away}"


def _named(rows: pd.DataFrame) -> tuple[int, str]:
    """Return how many models there are, and their names in brackets."""
    return len(rows), f" ({'; '.join(rows['model'])})" if len(rows) else ""


def _effect(row: pd.Series) -> str:
    numbers = [signed(row[name]) for name in ("effect", "low", "high")]
    return f"{numbers[0]} ({numbers[1]} to {numbers[2]})"
