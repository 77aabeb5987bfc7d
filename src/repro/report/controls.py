"""Controls of restoration (§5): does it matter which parameters are restored, or only how much?

The most changed parameters (`top`) are compared with as many others: chosen at `random`, the least
changed (`bottom`), or those with the largest `absolute` change. They are also compared with
`interpolate`, which undoes the same part of every change and so makes no choice. At the same amount
undone, any difference is due to the choice of parameters.
"""

from collections.abc import Iterable
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import stats

from repro.report.html import Html, details, grid, in_size_order, shade, signed, trained_on
from repro.report.layout import Finding
from repro.report.style import MARKERS, STYLE, VIVID, closed, panel_grid, say_if_empty
from repro.statistics import bootstrap, summary
from repro.statistics.contrasts import Term
from repro.statistics.verdicts import COLUMNS, CONTRADICTED, SUPPORTED, compare
from repro.study import Study
from repro.study.results import control_requests

STRATEGIES = ("top", "absolute", "random", "interpolate", "bottom")
TOP, NONE, INTERPOLATE = "top", "none", "interpolate"
AMOUNTS = {"undone_l1": "Σ|s − p|", "undone_l2": "Σ(s − p)²"}  # the sums of which a part is undone
NEAR = 0.5  # percentage points by which an amount may exceed the largest one of interpolation
CHANCE = 0.05  # the share of comparisons that are decided by chance alone
KEYS = ["train_size", "train_level", "strategy", "restored_percent"]


def gather(measured: Study) -> tuple[pd.DataFrame, pd.DataFrame, bool]:
    """Return means, units of paired intervals, and whether all levels are taken together.

    The means have one row per run, strategy and share: accuracy, low, high (percent), spread, n,
    undone_l1, undone_l2 (percent of the whole change). Accuracy is Acc (§3.3); if a level has fewer
    than `bootstrap.ENOUGH` test facts, it is the mean over all questions instead.
    """
    counts = measured.results.controls()
    units = measured.results.answers(control_requests(measured))
    facts = measured.pools.facts(None, "test")["level"].value_counts()
    take_together = bool(facts.min() < bootstrap.ENOUGH)
    if take_together:
        counts = counts.assign(test_level=0)
        units = units.assign(strata=[np.zeros_like(s) for s in units.get("strata", ())])
    return means(counts), units, take_together


def means(counts: pd.DataFrame) -> pd.DataFrame:
    """Return `summary.means` of `Results.controls` by strategy, with the amounts undone."""
    if counts.empty:
        return pd.DataFrame(columns=[*KEYS, "accuracy", "low", "high", "spread", "n", *AMOUNTS])
    undone = counts.groupby(KEYS)[list(AMOUNTS)].mean().reset_index()
    return summary.means(counts).merge(undone, on=KEYS, validate="1:1")


def same_share(means: pd.DataFrame, units: pd.DataFrame) -> pd.DataFrame:
    """Compare the most changed parameters with as many others, share by share.

    Returns rows of `verdicts.COLUMNS`, after the columns of `KEYS`; `strategy` is that of the other
    parameters. If the estimate (points) is positive, the most changed parameters are better.
    """
    rows = []
    for run in _restored(means, [s for s in STRATEGIES if s != TOP]):
        top_run = {**run, "strategy": TOP}
        text = "the {restored_percent:g}% most changed parameters do better than {strategy}"
        terms = [(1, top_run), (-1, run)]
        rows.append(run | compare(text.format(**run), means, terms, "above", units))
    return pd.DataFrame(rows, columns=[*KEYS, *COLUMNS])


def same_amount(
    means: pd.DataFrame, units: pd.DataFrame, amount: str = "undone_l1"
) -> pd.DataFrame:
    """Compare every choice of parameters with interpolation at the same amount undone.

    Between two measured shares, the accuracy of interpolation is assumed to be linear in the
    amount. A choice that undid more than interpolation ever did cannot be compared, and has no row.
    The result is that of `same_share`; if the estimate is positive, the choice is better.
    """
    rows = []
    for setting in _restored(means, [s for s in STRATEGIES if s != INTERPOLATE]):
        run = {key: setting[key] for key in KEYS[:2]}
        undone = _row(means, setting)[amount]
        expected = _interpolated(means, run, undone, amount)
        if expected:
            text = "undoing {:.0f}% by {strategy} does better than by interpolation"
            terms = [(1, setting), *((-weight, where) for weight, where in expected)]
            rows.append(
                setting | compare(text.format(undone, **setting), means, terms, "above", units)
            )
    return pd.DataFrame(rows, columns=[*KEYS, *COLUMNS])


def by_model(studies: Iterable[Study]) -> pd.DataFrame:
    """Count the comparisons of the most changed parameters with every other choice, by study.

    DataFrame[model, profile, against, comparisons, better, worse, undecided]; a study without
    controls has no row.
    """
    rows = []
    for one in studies:
        model_means, units, _ = gather(one)
        share = same_share(model_means, units)
        by_choice = {
            f"as many, {name}": share[share["strategy"] == name] for name in STRATEGIES[1:]
        }
        for amount, name in AMOUNTS.items():
            rows_at_amount = same_amount(model_means, units, amount)
            by_choice[f"as much of {name}, interpolate"] = rows_at_amount[
                rows_at_amount["strategy"] == TOP
            ]
        for text, compared in by_choice.items():
            if len(compared):
                rows.append((one.model.title, one.profile.name, text, *_decided(compared)))
    columns = ["model", "profile", "against", "comparisons", "better", "worse", "undecided"]
    return pd.DataFrame(rows, columns=columns)


def answer(rows: pd.DataFrame, amount: str) -> str:
    """Return Markdown: whether the most changed parameters do more than their amount alone."""
    top_rows = rows[rows["strategy"] == TOP]
    name = f"Most changed against interpolated, with as much of {AMOUNTS[amount]} undone"
    conclusion = "how much is undone is not all: *which* parameters matters as well"
    if not shown(top_rows):
        conclusion = "*how much* is undone explains what we see, as far as these runs can tell"
    return (
        f"{sentence(name, top_rows)} So, by this measure, {conclusion}."
        if len(top_rows)
        else sentence(name, top_rows)
    )


def shown(rows: pd.DataFrame) -> bool:
    """Tell whether more comparisons are decided than chance (one in twenty) can explain."""
    decided = rows["verdict"].isin([SUPPORTED, CONTRADICTED]).sum()
    return bool(stats.binom.sf(decided - 1, len(rows), CHANCE) < CHANCE)


def sentence(name: str, rows: pd.DataFrame) -> str:
    """Return one line of Markdown: how many comparisons are decided, and whether that is chance."""
    if rows.empty:
        return f"**{name}: nothing to compare.**"
    number, better, worse, undecided = _decided(rows)
    conclusion = "a difference is shown" if shown(rows) else "no difference is shown"
    counts = f"{better} better, {worse} worse, {undecided} undecided"
    plural = "" if number == 1 else "s"
    return f"**{name}: {conclusion}.** Of {number} comparison{plural}: {counts}."


def _decided(rows: pd.DataFrame) -> tuple[int, int, int, int]:
    """Return the number of comparisons, and how many are better, worse and undecided."""
    better, worse = ((rows["verdict"] == v).sum() for v in (SUPPORTED, CONTRADICTED))
    return len(rows), better, worse, len(rows) - better - worse


def _restored(means: pd.DataFrame, strategies: list[str]) -> list[dict]:
    rows = means[means["strategy"].isin(strategies)].copy()
    rows["place"] = rows["strategy"].map(STRATEGIES.index)
    order = ["train_size", "train_level", "restored_percent", "place"]
    return rows.sort_values(order)[KEYS].to_dict("records")


def _row(means: pd.DataFrame, where: dict) -> pd.Series:
    return means[(means[KEYS] == pd.Series(where)[KEYS]).all(axis=1)].iloc[0]


def _interpolated(means: pd.DataFrame, run: dict, undone: float, amount: str) -> list[Term]:
    """Return the two weighted shares of interpolation around an amount; none if there are none."""
    run_means = means[(means[KEYS[:2]] == pd.Series(run)).all(axis=1)]
    rows = run_means[run_means["strategy"].isin([NONE, INTERPOLATE])].sort_values(amount)
    most = rows[amount].max()
    undone = most if most < undone < most + NEAR else undone
    after = rows[rows[amount] >= undone].head(1)
    before = rows[rows[amount] < undone].tail(1)
    if after.empty or before.empty:
        return []
    low, high = before[amount].item(), after[amount].item()
    part = (undone - low) / (high - low)
    pairs = ((1 - part, before), (part, after))
    return [(w, run | row[KEYS[2:]].iloc[0].to_dict()) for w, row in pairs if w > 1e-6]


WAYS = dict(zip(("top", "absolute", "random", "interpolate", "bottom"), VIVID, strict=True))


@plt.rc_context(STYLE)
def figure(means: pd.DataFrame, x: str) -> Figure:
    """Draw accuracy after restoring parameters chosen in different ways, one panel per run.

    `means` comes from `controls.gather`; `x` is restored_percent, or undone_l1 or undone_l2. Rows
    are training levels, columns data sizes. The dotted line is the model without restoration.
    """
    levels, sizes = (sorted(means[name].unique()) for name in ("train_level", "train_size"))
    figure, axes = panel_grid(max(len(levels), 1), max(len(sizes), 1))
    for (row, level), (column, size) in product(enumerate(levels), enumerate(sizes)):
        run_means = means[(means["train_level"] == level) & (means["train_size"] == size)]
        axes[row, column].set_title(f"level {level}, {size:,} facts", fontsize=10)
        _strategy_curves(axes[row, column], run_means, x)
    labels = {"restored_percent": "Restored parameters (%)"}
    labels |= {"undone_l1": "Undone of Σ|s − p| (%)", "undone_l2": "Undone of Σ(s − p)² (%)"}
    for axis in axes[-1]:
        axis.set_xlabel(labels[x], fontsize=10)
    figure.supylabel("Accuracy (%)", fontsize=11)
    say_if_empty(axes[0, 0], means)
    handles = [
        Line2D([], [], color=colour, marker=marker, label=way)
        for (way, colour), marker in zip(WAYS.items(), MARKERS, strict=True)
        if (means.loc[means[x].notna(), "strategy"] == way).any()
    ]
    handles.append(Line2D([], [], color="0.3", ls=":", label="nothing restored"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, columnspacing=1.2)
    return closed(figure)


def _strategy_curves(axis: Axes, rows: pd.DataFrame, x: str) -> None:
    """Draw one line per strategy, starting at the model with nothing restored."""
    before = rows[rows["strategy"] == "none"]
    if before.empty:
        say_if_empty(axis, before)
        axis.set_yticks([])
    else:
        axis.axhline(before["accuracy"].item(), color="0.3", ls=":", lw=1.2)
    for (way, colour), marker in zip(WAYS.items(), MARKERS, strict=True):
        curve = pd.concat([before, rows[rows["strategy"] == way].dropna(subset=x)]).sort_values(x)
        if len(curve) > len(before):
            axis.plot(x, "accuracy", data=curve, color=colour, marker=marker, ms=4, lw=1.2)
            axis.fill_between(curve[x], curve["low"], curve["high"], color=colour, alpha=0.07, lw=0)


def table(frame: pd.DataFrame, title: str) -> Html:
    """Return comparisons of `controls`: runs by share and strategy, points and interval.

    `frame` has train_size, train_level, restored_percent, strategy, estimate, low, high, verdict.
    A cell is shaded if its interval excludes zero.
    """
    rows = in_size_order(frame, ["train_level"]) if len(frame) else frame.assign(group="")
    cells = zip(rows["estimate"], rows["low"], rows["high"], strict=True)
    rows["text"] = [
        signed(d) + details(f"{signed(low, 1)} to {signed(high, 1)}") for d, low, high in cells
    ]
    rows["css"] = np.where(rows["verdict"] == "undecided", "", rows["estimate"].map(shade))
    rows["row"] = rows["train_level"].map(trained_on)
    shares = rows["restored_percent"].map(lambda share: f"{share:g}%")
    rows["column"] = list(zip(shares, rows["strategy"], strict=True))
    place = rows["strategy"].map(list(rows["strategy"].unique()).index)
    columns = rows.assign(place=place).sort_values(["restored_percent", "place"])["column"].unique()
    return grid(rows, columns, ("Training facts", "Trained on"), title, frame)


def findings(share: pd.DataFrame, amount: pd.DataFrame) -> list[Finding]:
    """Return the findings: against as many other parameters, and at the same amount undone."""
    claim = "The most changed parameters are the ones to set back."
    source = "what follows if their choice matters"
    against = {"random": "as many at random", "bottom": "as many of the least changed"}
    compared = []
    for name, text in against.items():
        rows = share[share["strategy"] == name]
        words = f"top is better than {name}", f"top is worse than {name}"
        compared.append(Finding(f"Against {text}", claim, rows, *words, source))
    words = "top is better than interpolation", "top is worse than interpolation"
    rows = amount[amount["strategy"] == TOP]
    name = "Against as much undone of every change"
    return [*compared, Finding(name, claim, rows, *words, source)]
