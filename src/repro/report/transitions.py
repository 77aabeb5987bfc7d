"""Single facts: known before fine-tuning, lost by it, and brought back by restoration.

A test fact is *known* if the pre-trained model has it at level `KNOWN` or above: more than half of
its sampled completions contain the answer (Equation 1). It is *lost* if the fine-tuned model
answers it wrong. The page asks two questions, which need the answer to every single question:

- Can it be told from the answers of the pre-trained model that a fact will be lost?
- Does restoration bring back the lost facts, or others?

The runs of each training level are those of its largest restored size. Intervals are over questions
and data samples (`repro.statistics.bootstrap`).
"""

from collections.abc import Iterable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from repro.paper import LEVELS
from repro.report.layout import Finding
from repro.report.single_answers import (
    KNOWN,
    Answered,
    comparison_with_zero,
    interval_over_levels,
    units_of_runs,
)
from repro.report.style import COLOURS, MARKERS, STYLE, closed, panels, say_if_empty, share_axis
from repro.statistics import bootstrap
from repro.statistics.verdicts import compare_jointly

BINS, IN_BIN = 5, 20  # most bins of a level in the calibration curve, fewest facts of a bin
FEW = 10  # fewest facts that are lost, and that come right, for the second question
ALL = -1  # "level" of all facts together
CURVE = ["level", "before", "facts", "lost", "low", "high"]
RECOVERY = ["level", "restored_percent", "wrong", "right", "share", "low", "high"]
COUNTS = ["restored_percent", "known", "lost", "brought_back", "expected", "others_wrong"]
COUNTS += ["others_right", "known_broken", "others_broken"]
BY_MODEL = ["model", "question", "at", "estimate", "low", "high", "low_joint", "high_joint"]
BY_MODEL += ["verdict"]


# --- is it lost? ----------------------------------------------------------------------------------


def calibration(answered: Answered) -> pd.DataFrame:
    """Return the share of lost facts by level and by `before`, the pre-trained model's measure.

    The facts of each level from 1 are divided into bins of equal size by `before`. The columns are
    `CURVE`: level, the mean of `before` in the bin, its number of facts, and the percentage that
    fine-tuned models answer wrong, as a mean over runs with its 95 % interval.
    """
    rows = []
    for level in LEVELS[1:]:
        facts = answered.facts[answered.facts["level"] == level]
        number = min(BINS, len(facts) // IN_BIN)
        if not number or answered.answers.empty:
            continue
        for members in _bins(facts["before"], number):
            before = answered.facts["before"].to_numpy()[members].mean()
            units = units_of_runs(answered.tuned(), lambda run, at=members: 1 - run["values"][at])
            rows.append((level, before, len(members), *interval_over_levels(units)))
    return pd.DataFrame(rows, columns=CURVE)


def losses(answered: Answered) -> pd.DataFrame:
    """Compare the upper and the lower half of the facts of each level, by `before`.

    Returns rows of `verdicts.compare_jointly`: the percentage lost of the upper half less that of
    the lower half, in points. Levels with too few facts for a paired interval have no row.
    """
    comparisons = []
    for level in LEVELS[1:]:
        facts = answered.facts[answered.facts["level"] == level]
        upper = _upper_half(facts["before"])
        if min(upper.sum(), (~upper).sum()) < bootstrap.ENOUGH or answered.answers.empty:
            continue
        at, sign = facts.index.to_numpy(), np.where(upper, 2.0, -2.0)
        units = units_of_runs(
            answered.tuned(), lambda run, at=at, sign=sign: sign * (1 - run["values"][at]), upper
        )
        text = f"level {level}: the half with the higher {answered.measure} is lost less often"
        comparisons.append(comparison_with_zero(text, units, "below"))
    return compare_jointly(comparisons)


def _bins(before: pd.Series, number: int) -> list[np.ndarray]:
    """Return the places of the facts of each bin of `before`; ties make sizes unequal."""
    bins = pd.qcut(before, number, labels=False, duplicates="drop")
    return [group.index.to_numpy() for _, group in before.groupby(bins)]


def _upper_half(before: pd.Series) -> np.ndarray:
    """Return which facts are in the upper half, bool (facts,). Equal values stay together."""
    values = before.to_numpy(float)
    cuts = np.unique(values)[1:]
    if not len(cuts):
        return np.zeros(len(values), bool)
    sizes = np.array([(values >= cut).sum() for cut in cuts])
    return values >= cuts[np.abs(sizes - len(values) / 2).argmin()]


# --- does it come back? ---------------------------------------------------------------------------


def recovery(answered: Answered) -> pd.DataFrame:
    """Return how many wrong answers are right after restoration, by level before fine-tuning.

    The columns are `RECOVERY`: level, restored_percent, wrong (answers, over all runs), right
    (after restoration), their share in percent with its 95 % interval. The level `ALL` is all
    facts: every level would have this share if restoration were independent of what the model
    knew. Levels of fewer than `IN_BIN` facts have no row.
    """
    rows = []
    level_of = answered.facts["level"].to_numpy()
    for percent in answered.percents():
        pairs = answered.pairs(percent)
        for level in (ALL, *LEVELS):
            chosen = np.ones(len(level_of), bool) if level == ALL else level_of == level
            wrong, right = _counts(pairs, chosen)
            if wrong and chosen.sum() >= IN_BIN:
                units = units_of_runs(pairs, _ratio(pairs, [chosen]))
                rows.append((level, percent, wrong, right, *interval_over_levels(units)))
    return pd.DataFrame(rows, columns=RECOVERY)


def returns(answered: Answered) -> pd.DataFrame:
    """Compare how often lost facts come back with how often other facts come right.

    Returns rows of `verdicts.compare_jointly`, one for each restored share: the percentage of known
    facts answered wrong that come right, less that of the other facts answered wrong. It is 0 if
    restoration is independent of what was known. A share has no row if fewer than `FEW` facts of
    either kind were answered wrong, or fewer than `FEW` come right.
    """
    is_known = (answered.facts["level"] >= KNOWN).to_numpy()
    comparisons = []
    for percent in answered.percents():
        pairs = answered.pairs(percent)
        if (
            min(_ever_wrong(pairs, is_known), _ever_wrong(pairs, ~is_known), _come_right(pairs))
            < FEW
        ):
            continue
        units = units_of_runs(pairs, _ratio(pairs, [~is_known, is_known]), is_known)
        text = f"{percent:g} % restored: lost facts come back more often than others come right"
        comparisons.append(comparison_with_zero(text, units, "above"))
    return compare_jointly(comparisons)


def counts(answered: Answered) -> pd.DataFrame:
    """Return the numbers of answers that change at each restored share, over all runs.

    The columns are `COUNTS`: known: answers about known facts; lost: those of them that are wrong
    after fine-tuning; brought_back: lost ones that are right after restoration; expected: their
    number if the answers that come right were drawn from all wrong ones; others: facts that were
    not known; broken: right after fine-tuning, wrong after restoration.
    """
    is_known = (answered.facts["level"] >= KNOWN).to_numpy()
    rows = []
    for percent in answered.percents():
        pairs = answered.pairs(percent)
        lost, back = _counts(pairs, is_known)
        wrong, right = _counts(pairs, ~is_known)
        expected = lost * (back + right) / (lost + wrong) if lost + wrong else 0.0
        answers = int(is_known.sum()) * len(pairs)
        broken = _broken(pairs, is_known), _broken(pairs, ~is_known)
        rows.append((percent, answers, lost, back, expected, wrong, right, *broken))
    return pd.DataFrame(rows, columns=COUNTS)


def _counts(pairs: pd.DataFrame, chosen: np.ndarray) -> tuple[int, int]:
    """Return how many answers to these facts are wrong, and how many of them come right."""
    before, after = _stacked(pairs, chosen)
    return int((before == 0).sum()), int(((before == 0) & (after == 1)).sum())


def _broken(pairs: pd.DataFrame, chosen: np.ndarray) -> int:
    """Return how many right answers to these facts go wrong."""
    before, after = _stacked(pairs, chosen)
    return int(((before == 1) & (after == 0)).sum())


def _stacked(pairs: pd.DataFrame, chosen: np.ndarray | slice) -> list[np.ndarray]:
    """Return the answers without and with restoration, (runs, facts) of these facts."""
    return [np.stack(pairs[name].tolist())[:, chosen] for name in ("before", "values")]


def _ever_wrong(pairs: pd.DataFrame, chosen: np.ndarray) -> int:
    """Return how many of these facts at least one run answers wrong."""
    before, _ = _stacked(pairs, chosen)
    return int((before == 0).any(axis=0).sum())


def _come_right(pairs: pd.DataFrame) -> int:
    """Return how many facts come right in at least one run."""
    before, after = _stacked(pairs, slice(None))
    return int(((before == 0) & (after == 1)).any(axis=0).sum())


def _ratio(pairs: pd.DataFrame, groups: list[np.ndarray]):
    """Return a function from a run to values of facts whose mean is the share that comes right.

    The share of a group's wrong answers that come right is a ratio of two sums over facts and runs.
    To bootstrap it as a mean, it is linearised: the value of a fact is the ratio plus the fact's
    part in its deviation. Then the mean of the values is the ratio, and their spread is that of the
    ratio. For two groups, the mean over both halves each, so the values are doubled; those of the
    first group have a minus sign.
    """
    runs, parts = len(pairs), []
    signs = [1.0] if len(groups) == 1 else [-2.0, 2.0]
    for sign, group in zip(signs, groups, strict=True):
        wrong, right = _counts(pairs, group)
        parts.append((sign, group, right / wrong, group.sum() * runs / wrong))
    members = groups[0] if len(groups) == 1 else np.ones(len(groups[0]), bool)

    def values(run: pd.Series) -> np.ndarray:
        wrong = run["before"] == 0
        right = wrong & (run["values"] == 1)
        values_of_facts = np.zeros(len(wrong))
        for sign, group, ratio, scale in parts:
            values_of_facts += group * sign * (ratio + scale * (right - ratio * wrong))
        return values_of_facts[members]

    return values


# --- what is shown --------------------------------------------------------------------------------


def findings(answered: Answered) -> list[Finding]:
    """Return the findings on both questions, each corrected for its number of comparisons."""
    lost, back = losses(answered), returns(answered)
    higher_half = f"facts with a higher {answered.measure} of one level are lost"
    return [
        Finding(
            "Is it lost?",
            "What the pre-trained model shows of a fact tells, within a level, whether it is lost.",
            lost,
            f"{higher_half} less often",
            f"{higher_half} more often",
            "the question",
        ),
        Finding(
            "Does it come back?",
            "Restoration brings back the facts that fine-tuning lost, not others.",
            back,
            "lost facts come back more often than others come right",
            "lost facts come back less often than others come right",
            "the question",
        ),
    ]


def about(models: Iterable[Answered]) -> str:
    """Return Markdown: the numbers of facts and runs of each model."""
    lines = []
    for answered in models:
        runs = answered.tuned()
        sizes = ", ".join(f"{size:,}" for size in sorted(runs["train_size"].unique()))
        known_facts = int((answered.facts["level"] >= KNOWN).sum())
        facts = f"{len(answered.facts):,} test facts, {known_facts:,} of them known"
        text = f"- **{answered.title}**: {facts};"
        text += f" {len(runs)} runs of {sizes} facts." if len(runs) else " no restored runs."
        if answered.chosen:
            text += " The facts were chosen by score: within a level not as a random fact of it."
        if known_facts < bootstrap.ENOUGH:
            text += f" With fewer than {bootstrap.ENOUGH} known facts nothing is compared."
        lines.append(text)
    return "\n".join(lines)


def by_model(models: Iterable[Answered]) -> pd.DataFrame:
    """Return the comparisons of every model: `BY_MODEL`, differences in points.

    low_joint and high_joint bound intervals that hold for all comparisons of a model and question.
    """
    parts = [pd.DataFrame(columns=BY_MODEL)]
    for answered in models:
        questions = {"lost": losses(answered), "comes back": returns(answered)}
        for question, compared in questions.items():
            if len(compared):
                at = compared["claim"].str.partition(":")[0]
                named = compared.assign(model=answered.title, question=question, at=at)
                parts.append(named[BY_MODEL])
    return pd.concat(parts, ignore_index=True)


@plt.rc_context(STYLE)
def calibration_figure(models: Iterable[Answered]) -> Figure:
    """Draw the calibration curves: a panel for each model, a line for each level from 1."""
    curves = [(answered, calibration(answered)) for answered in models]
    shown = [(answered, curve) for answered, curve in curves if len(curve)]
    figure, axes = panels(max(1, len(shown)))
    for axis, (answered, curve) in zip(axes, shown, strict=False):
        for level, rows in curve.groupby("level"):
            _line(axis, rows, "before", "lost", level)
        axis.set(title=answered.title, xlabel=f"Before fine-tuning: {answered.measure}")
        axis.set(ylabel="Lost (%)", ylim=(0, 103))
    return _with_levels(figure, axes, pd.concat([curve for _, curve in curves] or [EMPTY]))


@plt.rc_context(STYLE)
def recovery_figure(models: Iterable[Answered]) -> Figure:
    """Draw the wrong answers that come right against the restored share, a panel for each model.

    There is a line for each level before fine-tuning; the dashed line is for all facts.
    """
    curves = [(answered, recovery(answered)) for answered in models]
    shown = [(answered, curve) for answered, curve in curves if len(curve)]
    figure, axes = panels(max(1, len(shown)))
    for axis, (answered, curve) in zip(axes, shown, strict=False):
        for level, rows in curve.groupby("level"):
            if level == ALL:
                axis.plot(rows["restored_percent"], rows["share"], color="0.3", ls="--", lw=1.4)
            else:
                _line(axis, rows, "restored_percent", "share", level)
        share_axis(axis, curve["restored_percent"])
        axis.set(title=answered.title, xlabel="Parameters restored (%, square-root scale)")
        axis.set(ylabel="Wrong that come right (%)", ylim=(0, None))
    dashed = Line2D([], [], color="0.3", ls="--", label="all facts")
    all_curves = pd.concat([curve for _, curve in curves] or [EMPTY])
    return _with_levels(figure, axes, all_curves, [dashed])


EMPTY = pd.DataFrame(columns=["level"])


def _line(axis, rows: pd.DataFrame, x: str, y: str, level: int) -> None:
    """Draw a level's line with a bar for each interval."""
    ends = np.abs([rows[y] - rows["low"], rows["high"] - rows[y]])
    style = {"color": COLOURS[level], "marker": MARKERS[level], "ms": 5, "lw": 1.4}
    axis.errorbar(rows[x], rows[y], yerr=ends, elinewidth=1, **style)


def _with_levels(figure: Figure, axes, rows: pd.DataFrame, extra=()) -> Figure:
    """Add a legend of the levels that `rows` has, or say that there are none."""
    say_if_empty(axes[0], rows)
    present = sorted(level for level in rows["level"].unique() if level >= 0)
    handles = [Line2D([], [], color=COLOURS[i], marker=MARKERS[i], label=str(i)) for i in present]
    if handles:
        options = {"loc": "outside lower center", "ncols": 6, "columnspacing": 1.2}
        title = "Mastery level before fine-tuning"
        figure.legend(handles=[*handles, *extra], title=title, **options)
    return closed(figure)
