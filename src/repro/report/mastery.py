"""What a model knows before fine-tuning (§3.1): Tables 1 and 8, topics and templates.

Where a study's facts were chosen by score, the counts are of the facts drawn, and the shares are
estimates for all facts of a split (`Results.natural_distribution`).
"""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from repro import paper
from repro.measures.mastery import template_columns
from repro.paper import LEVELS, SPLIT_TITLES
from repro.report.html import Html, beside_paper, differences, grid, in_model_order
from repro.report.layout import tabs
from repro.report.style import COLOURS, STYLE, finish, heat_map, level_bars, panels
from repro.statistics.intervals import wilson

QUESTION = "How well does the pre-trained model know the facts it will be fine-tuned on?"
LLM = "LLaMA-3-8B"  # of the paper's five models, the one whose shares ours are compared with


@plt.rc_context(STYLE)
def figure(
    frame: pd.DataFrame, split: str = "train", estimated: pd.DataFrame | None = None
) -> Figure:
    """Draw Tables 1 and 8 as bars: the share of facts per mastery level, one bar per model.

    `frame` and `estimated` as in `level_shares`.
    """
    shares = level_shares(frame[frame["split"] == split], estimated)
    figure = level_bars(shares.pivot_table("share", "model", "level", sort=False))
    figure.axes[0].set_xlabel(f"Facts of the {SPLIT_TITLES[split].lower()} split (%)")
    return figure


@plt.rc_context(STYLE)
def topics_figure(mastery: pd.DataFrame, names: dict[str, str]) -> Figure:
    """Draw the share of facts per mastery level, one bar per topic; `names` labels topic ids.

    Where `mastery` has a column `weight`, each fact counts as often as it says.
    Raises ValueError if two topics have the same name: their bars would cover each other.
    """
    if len(set(names.values())) < len(names):
        raise ValueError("two topics have the same name")
    weighted = mastery if "weight" in mastery else mastery.assign(weight=1)
    counts = weighted.groupby(["topic", "level"])["weight"].sum().unstack(fill_value=0)
    shares = 100 * counts.div(counts.sum(axis=1), axis=0)
    order = shares.get(0, pd.Series(0.0, index=shares.index)).sort_values(kind="stable").index
    labels = {topic: textwrap.fill(name, 27) for topic, name in names.items()}
    figure = level_bars(shares.loc[order].rename(index=labels), print_shares=False, height=0.46)
    figure.axes[0].tick_params(axis="y", labelsize=9)
    figure.axes[0].set_xlabel("Facts (%)")
    return figure


@plt.rc_context(STYLE)
def rates_figure(mastery: pd.DataFrame) -> Figure:
    """Draw the histogram of R (Appendix F.1), facts counted on a logarithmic axis."""
    figure, (axis,) = panels(1)
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
    return finish(figure, mastery.rename(columns={"level": "train_level"}), title="Mastery level")


@plt.rc_context(STYLE)
def templates_figure(success: pd.DataFrame) -> Figure:
    """Draw the success rate of every mapping template; rows are topics, columns templates.

    `success` is a frame of rates in percent (from `summary.templates`), one row per topic.
    """
    figure = heat_map(success, "Mapping template (number in Tables 13–36)", "Success rate (%)")
    figure.axes[0].set_xticks(range(0, success.shape[1], 5), success.columns[::5])
    return figure


def table(frame: pd.DataFrame, title: str, estimated: pd.DataFrame | None = None) -> Html:
    """Return Tables 1 and 8: facts per mastery level and split, with their share in percent.

    `frame` and `estimated` as in `level_shares`; an estimated share has its interval beside it. A 0
    here is a count: the level exists and is empty.
    """
    shares = level_shares(frame, estimated)
    rows = shares.assign(order=shares["split"].map(list(SPLIT_TITLES).index))
    rows = in_model_order(rows.rename(columns={"model": "group"}))
    rows["row"] = rows["split"].map(SPLIT_TITLES)
    totals = rows.groupby(["group", "row"])["count"].transform("sum")
    rows["text"] = [_share_text(row) for row in rows.itertuples()]
    rows["column"] = rows["level"].map(lambda level: f"level {level}")
    every = rows.assign(column="all", text=totals.map("{:,}".format))
    rows = pd.concat([rows, every.drop_duplicates(["group", "row"])]).assign(css="")
    columns = [*(f"level {level}" for level in LEVELS), "all"]
    return grid(rows, columns, ("Model", "Facts"), title, shares)


def _share_text(row) -> str:
    """Return a cell of Tables 1 and 8: the count, below it the share, estimated ones with ends."""
    text = f"{row.count:,}<br><small>{row.share:.1f}%"
    if row.estimated:
        text += f" ({row.low:.1f}–{row.high:.1f})"
    return text + "</small>"


def level_shares(distribution: pd.DataFrame, estimated: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return the share of facts at every level in percent, with its 95 % interval.

    Args:
        distribution: DataFrame[model, split, level, count].
        estimated: `Results.natural_distribution`, of a study whose facts were chosen by score.

    Returns:
        `distribution` with share, low, high (Wilson's interval) and estimated (bool): for the
        splits that `estimated` has, the share of all facts of the split with the interval of the
        estimate. A split without facts is left out.
    """
    total = distribution.groupby(["model", "split"])["count"].transform("sum")
    rows = distribution.assign(total=total)[total > 0]
    low, high = wilson(rows["count"], rows["total"])
    share = 100 * rows["count"] / rows["total"]
    rows = rows.assign(share=share, low=100 * low, high=100 * high, estimated=False)
    rows = rows.drop(columns="total")
    if estimated is None or estimated.empty:
        return rows
    keys = ["model", "split", "level"]
    rows = rows.set_index(keys)
    rows.update(estimated.set_index(keys)[["share", "low", "high"]])
    rows["estimated"] = rows.index.isin(pd.MultiIndex.from_frame(estimated[keys]))
    return rows.reset_index()


def weighted(mastery: pd.DataFrame, scored: pd.DataFrame) -> pd.DataFrame:
    """Return mastery with `weight`: how many facts each stands for.

    Args:
        mastery: `Results.mastery()`.
        scored: `Results.scored`; without rows each fact stands for itself. With rows, the facts of
            splits that were not chosen by score are left out.
    """
    if scored.empty:
        return mastery.assign(weight=1.0)
    weights = scored.loc[scored["weight"].notna(), ["fact_id", "weight"]]
    return mastery.merge(weights, on="fact_id", validate="1:1")


def template_rates(mastery: pd.DataFrame) -> pd.DataFrame:
    """Return the success rate in percent of every mapping template: topics × template number.

    `mastery` is `Results.mastery()`; a column is named after the template's place, counted from 1,
    in Tables 13–36. Templates that the profile does not use have no column.
    """
    columns = template_columns(mastery)
    groups = mastery.groupby("topic", observed=True)
    draws = groups["trials"].sum() / len(columns)
    rates = 100 * groups[columns].sum().div(draws, axis=0)
    return rates.rename(columns={c: int(c[1:]) + 1 for c in columns})


def best_templates(success: pd.DataFrame, texts: dict[str, tuple[str, ...]]) -> pd.DataFrame:
    """Return each topic's most successful mapping template and how much it matters.

    `success` comes from `templates`, `texts` holds every topic's templates. Columns: topic,
    template, best, mean, worst (success rates in percent).
    """
    best = success.idxmax(axis=1)
    return pd.DataFrame(
        {
            "topic": success.index,
            "template": [texts[topic][number - 1] for topic, number in best.items()],
            "best": success.max(axis=1).to_numpy(),
            "mean": success.mean(axis=1).to_numpy(),
            "worst": success.min(axis=1).to_numpy(),
        }
    ).sort_values("best", ascending=False, kind="stable", ignore_index=True)


def tables(ours: pd.DataFrame, model: str, estimated: pd.DataFrame | None = None) -> Html:
    """Return Tables 1 and 8 as tabs: ours, the paper's, and the difference of shares in points."""
    published = paper.table("distribution")
    shares = [
        level_shares(frame, estimate)[["split", "level", "share"]]
        for frame, estimate in ((ours, estimated), (published[published["model"] == LLM], None))
    ]
    compared = beside_paper(*shares, ["split", "level"], "share")
    cells = compared.assign(
        group="",
        row=compared["split"].map(SPLIT_TITLES),
        column=compared["level"].map(lambda level: f"level {level}"),
    )
    title = f"Shares: ours less {LLM}'s, points"
    parts = {
        "Ours": table(ours, _title(model, estimated), estimated),
        "Paper": table(published, "Tables 1 and 8 of the paper"),
        "Difference": differences(cells, ("", "Facts"), title, compared),
    }
    return tabs(parts, "Tables 1 and 8")


def _title(model: str, estimated: pd.DataFrame | None) -> str:
    if estimated is None or estimated.empty:
        return f"Ours: {model}"
    return f"Ours: {model}. Facts drawn; below, the estimated share of all facts (95 % interval)"


def result(ours: pd.DataFrame, model: str, estimated: pd.DataFrame | None = None) -> str:
    """Say how many training facts a model does not know at all, and how many it masters."""
    published = paper.table("distribution")
    parts = []
    sides = ((model, ours, estimated), (LLM, published[published["model"] == LLM], None))
    for name, frame, estimate in sides:
        rows = level_shares(frame[frame["split"] == "train"], estimate).set_index("level")["share"]
        none, full = (rows.get(level, 0.0) for level in (LEVELS[0], LEVELS[-1]))
        parts.append(f"{name}: {none:.0f} % at level 0, {full:.1f} % at level {LEVELS[-1]}")
    return f"Of the training facts before fine-tuning, {'; '.join(parts)}."
