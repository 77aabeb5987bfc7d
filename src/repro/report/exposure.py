"""Mastery R_k (§3.1) against exposure, the number of sentences in which a model has read a fact.

The exposure is known for the models that were pre-trained only on `atlas`. Facts of a topic share
their sentences and their probable answers, so the intervals are over topics, as in §4.1.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from repro.data import atlas
from repro.models import registry, weights
from repro.paper import LEVELS
from repro.report.html import ABSENT
from repro.report.style import (
    COLOURS,
    MARKERS,
    STYLE,
    WIDTH,
    closed,
    heat_map,
    level_legend,
    panels,
    say_if_empty,
    square_root,
    stack_levels,
)
from repro.statistics import bootstrap
from repro.study import Study, open_study
from repro.study.requests import missing

QUESTION = "How often must a model read a fact before it masters it?"
HALF = 0.5  # the mean R at which a model is said to master half


def known(measured: Study) -> pd.DataFrame:
    """Return DataFrame[model, fact_id, topic, rate, level, exposure] of the `atlas` models here.

    If `measured` is the study of one of them, its mastery is computed if it is missing; the others
    have rows if they were measured under the same profile. Otherwise all are taken from the
    studies under their own profiles.
    """
    columns = ["model", "fact_id", "topic", "rate", "level", "exposure"]
    parts = [
        s.results.mastery()
        .merge(atlas.exposure(), on="fact_id", validate="1:1")
        .assign(model=s.model.title)
        for s in _studies(measured)
        if s.model.name == measured.model.name or not missing([s.requests.mastery()])
    ]
    return pd.concat([part[columns] for part in parts] or [pd.DataFrame(columns=columns)])


def about(measured: Study, facts: pd.DataFrame) -> str:
    """Return Markdown: whose facts `known` returned, and how to measure the missing models."""
    titles = ", ".join(facts["model"].unique()) or "none"
    text = f"{facts['fact_id'].nunique():,} facts. Models: {titles}."
    if measured.model.facts != "atlas":
        text = (
            f"**{measured.model.title}** was not pre-trained on `atlas`: nobody counted how often"
            " its text states each fact, so there is no exposure to set its mastery against. What"
            f" follows is of the models that were, as far as they have been measured. {text}"
        )
    if names := unknown(measured):
        commands = (f"{name} (`-p model {name}` measures it)" for name in names)
        text += f" Not measured yet: {', '.join(commands)}."
    return text


def shown(measured: Study, facts: pd.DataFrame) -> str:
    """Return the title of the model that is shown in detail: that of the study, if it has facts."""
    titles = list(facts["model"].unique())
    titles_of_study = [title for title in titles if title == measured.model.title]
    return (titles_of_study or titles or [ABSENT])[-1]


def unknown(measured: Study) -> list[str]:
    """Return the names of the `atlas` models on this machine that have not been measured."""
    return [s.model.name for s in _studies(measured) if missing([s.requests.mastery()])]


def _studies(measured: Study) -> list[Study]:
    ours = [e for e in registry.entries().values() if e.facts == "atlas" and weights.available(e)]
    is_atlas = measured.model.facts == "atlas"
    return [open_study(e.name, measured.profile.name if is_atlas else e.profile) for e in ours]


def curves(facts: pd.DataFrame) -> pd.DataFrame:
    """Return the mean R by model and exposure: model, exposure, facts, rate, low, high."""
    rows = []
    for (model, exposure), group in facts.groupby(["model", "exposure"], sort=False):
        sums, sizes = _by_topic(group)
        numbers = bootstrap.interval([sums[None]], sizes, np.zeros(len(sizes)))
        rows.append((model, exposure, len(group), *numbers))
    columns = ["model", "exposure", "facts", "rate", "low", "high"]
    return _ordered(pd.DataFrame(rows, columns=columns), facts)


def levels(facts: pd.DataFrame) -> pd.DataFrame:
    """Return the share of facts at each mastery level in percent: model, exposure, 0 … 4."""
    groups = facts.groupby(["model", "exposure"])["level"]
    shares = 100 * groups.value_counts(normalize=True).unstack(fill_value=0.0)
    return _ordered(shares.reindex(columns=list(LEVELS), fill_value=0.0).reset_index(), facts)


def topics(facts: pd.DataFrame, model: str) -> pd.DataFrame:
    """Return one model's mean R in percent, one row per topic and one column per exposure."""
    model_facts = facts[facts["model"] == model]
    return 100 * model_facts.pivot_table(
        index="topic", columns="exposure", values="rate", aggfunc="mean"
    )


def steps(facts: pd.DataFrame) -> pd.DataFrame:
    """Return by how much the mean R rises from each exposure to the next one.

    Columns: model, fewer, more (the two exposures), rise, low, high. The rise is taken topic by
    topic, because both exposures have the same topics.
    """
    rows = []
    for model, model_facts in facts.groupby("model", sort=False):
        table = model_facts.pivot_table(
            index="topic", columns="exposure", values="rate", aggfunc=["mean", "size"]
        )
        for fewer, longer in zip(table["mean"].columns, table["mean"].columns[1:], strict=False):
            pair = table[[("mean", fewer), ("mean", longer), ("size", longer)]].dropna().to_numpy()
            rise = (pair[:, 1] - pair[:, 0]) * pair[:, 2]
            numbers = bootstrap.interval([rise[None]], pair[:, 2], np.zeros(len(pair)))
            rows.append((model, fewer, longer, *numbers))
    return pd.DataFrame(rows, columns=["model", "fewer", "more", "rise", "low", "high"])


def halves(facts: pd.DataFrame) -> pd.DataFrame:
    """Return the exposure at which the mean R reaches one half: model, exposure, low, high.

    Between two exposures the mean is assumed to be linear. It is infinite if no exposure reaches
    one half.
    """
    rows = []
    for model, model_facts in facts.groupby("model", sort=False):
        groups = [_by_topic(part) for _, part in model_facts.groupby("exposure")]
        seen = np.sort(model_facts["exposure"].unique()).astype(float)
        drawn = [bootstrap.redrawn(*group, np.zeros(len(group[0])), seed=0) for group in groups]
        means = np.array([sums.sum() / sizes.sum() for sums, sizes in groups])
        crossings = [_crossing(seen, curve) for curve in np.transpose(drawn)]
        ends = np.quantile(crossings, [0.025, 0.975], method="nearest")
        rows.append((model, _crossing(seen, means), *ends))
    return pd.DataFrame(rows, columns=["model", "exposure", "low", "high"])


def reading(facts: pd.DataFrame) -> str:
    """Return Markdown: whether the curves always rise, and where half of the facts is mastered."""
    rises, reached, lines = steps(facts), halves(facts).set_index("model"), []
    for model, model_rises in rises.groupby("model", sort=False):
        down = model_rises[model_rises["high"] < 0]
        falls = "; ".join(
            f"from {a} to {b}" for a, b in zip(down["fewer"], down["more"], strict=True)
        )
        down_steps = f"falls {falls}" if falls else "never falls for certain"
        up_steps = (model_rises["low"] > 0).sum()
        up = f"mean *R* rises for certain at {up_steps} of {len(model_rises)} steps"
        half = _half(*reached.loc[model], model_rises["more"].max())
        lines.append(f"- **{model}**: {up} and {down_steps}. {half}")
    return "\n".join(lines)


def _half(exposure: float, low: float, high: float, most: int) -> str:
    if not np.isfinite(exposure):
        return f"Half is not reached with {most} statements."
    upper = f"{high:.1f}" if np.isfinite(high) else f"more than {most}"
    return f"Half is mastered at {exposure:.1f} statements (95 %: {low:.1f} to {upper})."


def _crossing(seen: np.ndarray, curve: np.ndarray) -> float:
    above = np.flatnonzero(curve >= HALF)
    if not len(above):
        return np.inf
    at = above[0]
    return float(np.interp(HALF, curve[at - 1 : at + 1], seen[at - 1 : at + 1]) if at else seen[0])


def _by_topic(facts: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    sums = facts.groupby("topic")["rate"].agg(["sum", "size"])
    return sums["sum"].to_numpy(), sums["size"].to_numpy(float)


def _ordered(rows: pd.DataFrame, facts: pd.DataFrame) -> pd.DataFrame:
    """Return rows in the order of the models in the registry, which is by size."""
    place = {model: i for i, model in enumerate(facts["model"].unique())}
    return rows.sort_values(
        ["model", "exposure"], key=lambda c: c.replace(place), ignore_index=True
    )


MODEL_LINES = ["-", "--", ":", "-."]


@plt.rc_context(STYLE)
def figure(curves: pd.DataFrame) -> Figure:
    """Draw mean R against exposure, one line per model; the bands are 95 % intervals over topics.

    `curves` comes from `exposure.curves`. The axis is a square root, which has room for 0.
    """
    figure, (axis,) = panels(1)
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
    axis.set_xscale("function", functions=(square_root, np.square))
    ticks = _apart(sorted(curves["exposure"].unique()))
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set(xlabel="Statements in the pre-training text (square-root scale)", ylim=(0, 1))
    axis.set_ylabel("Mean R")
    say_if_empty(axis, curves)
    if len(groups):
        figure.legend(loc="outside lower center", ncols=3)
    return closed(figure)


@plt.rc_context(STYLE)
def levels_figure(levels: pd.DataFrame) -> Figure:
    """Draw the share of facts at each mastery level by exposure, one panel per model.

    `levels` comes from `exposure.levels`.
    """
    panels = list(levels.groupby("model", sort=False))
    heights = [0.5 + 0.24 * len(rows) for _, rows in panels] or [2.0]
    figure, axes = plt.subplots(
        len(heights), 1, figsize=(WIDTH, 1.2 + sum(heights)), squeeze=False, layout="constrained"
    )
    for axis, (model, rows) in zip(axes[:, 0], panels, strict=False):
        stack_levels(axis, rows.set_index(rows["exposure"].astype(str))[list(LEVELS)])
        axis.set(title=model, ylabel="Statements")
    axes[-1, 0].set_xlabel("Facts (%)")
    say_if_empty(axes[0, 0], levels)
    level_legend(figure)
    return closed(figure)


@plt.rc_context(STYLE)
def topics_figure(rates: pd.DataFrame) -> Figure:
    """Draw the mean R by topic (rows) and exposure (columns); `rates` is in percent."""
    figure = heat_map(rates, "Statements in the pre-training text", "Mean R (%)")
    figure.axes[0].set_xticks(range(rates.shape[1]), [f"{seen:g}" for seen in rates.columns])
    return figure


def _apart(values: list[float]) -> list[float]:
    """Return the values whose labels do not overlap on a square-root axis."""
    accepted: list[float] = []
    for value in values:
        if not accepted or np.sqrt(value) - np.sqrt(accepted[-1]) > 0.055 * np.sqrt(values[-1]):
            accepted.append(value)
    return accepted


def result(facts: pd.DataFrame) -> str:
    """Return a sentence: at how many statements each model masters half of the facts."""
    parts = []
    for row in halves(facts).itertuples():
        reached = np.isfinite(row.exposure)
        often = f"after {row.exposure:.1f} statements" if reached else "at no number of statements"
        parts.append(f"{row.model} {often}")
    return f"Half is mastered by {', '.join(parts)}." if parts else "No model has been measured."
