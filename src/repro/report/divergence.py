"""How far fine-tuning moves the predicted tokens (§4): Figures 3, 4 and 5."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from repro.report.layout import Finding
from repro.report.style import (
    COLOURS,
    MARKERS,
    STYLE,
    WIDTH,
    closed,
    finish,
    level_curves,
    panels,
    size_axis,
    untuned_line,
)
from repro.statistics.bootstrap import ARRAYS
from repro.statistics.intervals import Z95
from repro.statistics.summary import RUN, run_columns, tuned
from repro.study import Study


@plt.rc_context(STYLE)
def accuracy_figure(levels: pd.DataFrame, test_level: int) -> Figure:
    """Draw Figure 4: accuracy on the in-domain facts of one mastery level against data size."""
    rows = levels[(levels["split"] == "test") & (levels["test_level"] == test_level)]
    figure, (axis,) = panels(1)
    level_curves(axis, tuned(rows), "train_size", "accuracy")
    untuned_line(axis, rows)
    size_axis(axis, tuned(rows))
    axis.set(ylabel=f"Accuracy on level-{test_level} facts (%)")
    axis.set_xlabel("Training facts (logarithmic)")
    return finish(figure, rows)


@plt.rc_context(STYLE)
def figure(frame: pd.DataFrame) -> Figure:
    """Draw Figure 5: KL divergence (nats) from the pre-trained model against data size.

    `frame` comes from `summary.divergence`; the bands are 95 % intervals over topics.
    """
    figure, (axis,) = panels(1)
    level_curves(axis, tuned(frame), "train_size", "kl")
    size_axis(axis, tuned(frame))
    axis.set(ylabel="KL divergence (nats)", xlabel="Training facts (logarithmic)")
    return finish(figure, frame)


@plt.rc_context(STYLE)
def scatter_figure(frame: pd.DataFrame) -> Figure:
    """Draw Finding 2 of §4.2: accuracy against KL divergence, one point per run.

    `frame` has train_level, train_size, kl (nats) and accuracy (percent) on the same facts. A
    line joins the runs of a level in the order of their size.
    """
    figure, (axis,) = panels(1)
    doublings = np.log2(frame["train_size"] / frame["train_size"].min())
    frame = frame.assign(area=14 + 14 * doublings).sort_values("train_size")
    for level, rows in frame.groupby("train_level"):
        style = {"c": COLOURS[level], "marker": MARKERS[level], "zorder": 2}
        axis.plot("kl", "accuracy", data=rows, color=COLOURS[level], lw=0.8, alpha=0.5)
        axis.scatter("kl", "accuracy", s="area", data=rows, **style)
    axis.margins(0.1)
    axis.set(xlabel="KL divergence (nats); larger: more training facts", ylabel="Accuracy (%)")
    return finish(figure, frame)


def example(measured: Study) -> dict:
    """Return one worked example of §4.1 (Figure 3): the median fact of the largest run.

    It is empty if no run could be compared. `repro.measures.divergence.compare` makes its entries.
    """
    requests = [measured.requests.divergence(run) for run in measured.grid.runs()]
    measured.compute(requests)
    examples = [request.record().result["example"] for request in requests]
    return next((candidate for candidate in reversed(examples) if candidate), {})


@plt.rc_context(STYLE)
def logits_figure(example: dict) -> Figure:
    """Draw Figure 3 on a real example: the ten logits of both models, before and after softmax.

    `example` comes from the function of that name; the tokens are the tuned model's ten highest.
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
    return closed(figure)


def _token(text: str) -> str:
    text = text.replace("$", r"\$").replace("\n", "⏎")
    return "␣" + text[1:] if text.startswith(" ") else text


def means(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the mean KL divergence in nats (§4.1) of every run, averaged over samples.

    Columns: the run, kl, low, high (95 %, over topics), spread, n, facts. With facts of a single
    topic the interval is unknown (NaN).
    """
    by = run_columns(frame) if len(frame) else RUN[:3]
    groups = frame.groupby(by) if len(frame) else []
    rows = [dict(zip(by, key, strict=True)) | _kl(runs) for key, runs in groups]
    return pd.DataFrame(rows, columns=[*by, "kl", "low", "high", "spread", "n", "facts"])


def _kl(runs: pd.DataFrame) -> dict:
    """Return mean, interval over topics, spread over data samples and counts of one run."""
    samples = runs.groupby("sample")[["kl_sum", "facts"]].sum()
    topics = runs.groupby("topic")[["kl_sum", "facts"]].sum()
    facts, count = topics["facts"].sum(), len(topics)
    kl = topics["kl_sum"].sum() / facts
    # The variance of the ratio estimator with topics as clusters, because the facts of a topic
    # share a template.
    residuals = topics["kl_sum"] - kl * topics["facts"]
    variance = (residuals**2).sum() * count / (count - 1) / facts**2 if count > 1 else np.nan
    half = Z95 * np.sqrt(variance)
    spread = (samples["kl_sum"] / samples["facts"]).std()
    low = max(kl - half, 0.0) if count > 1 else np.nan
    result = {"kl": kl, "low": low, "high": kl + half, "spread": spread}
    return result | {"n": len(samples), "facts": int(facts / len(samples))}


def with_accuracy(kl: pd.DataFrame, compared: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `kl` with the accuracy of the same run on the compared facts."""
    runs = ["train_level", "train_size", "size_label"]
    return kl.merge(tuned(compared)[[*runs, "accuracy"]], on=runs)


def findings(down: pd.DataFrame, up: pd.DataFrame, lowers: pd.DataFrame) -> list[Finding]:
    """Return Findings 1 (two halves) and 2 of §4.2 with the comparisons that test them."""
    first = "The divergence first falls, then rises, as the data grows."
    second = "The larger the divergence, the lower the accuracy."
    ways = ("larger", "smaller")
    beyond = [f"the divergence is {way} beyond 240 facts than at 240" for way in ways]
    return [
        Finding(
            "Finding 1, up to 240 facts",
            first,
            down,
            "the divergence falls up to 240 facts",
            "the divergence rises up to 240 facts",
        ),
        Finding("Finding 1, beyond 240 facts", first, up, *beyond),
        Finding(
            "Finding 2",
            second,
            lowers,
            "accuracy falls as the divergence grows",
            "accuracy rises as the divergence grows",
        ),
    ]


def topic_units(divergence: pd.DataFrame) -> pd.DataFrame:
    """Return `Results.divergence` in the form of `bootstrap.contrast`: topics with nats (§4.1).

    Facts of a topic share a sentence, so a topic is redrawn as a whole.
    """
    columns = ["train_level", "train_size", "size_label", "sample"]
    rows = []
    for run, facts in divergence.groupby(columns) if len(divergence) else ():
        facts = facts.sort_values("topic")
        arrays = [facts["kl_sum"].to_numpy(), facts["facts"].to_numpy(), np.zeros(len(facts))]
        rows.append((*run, *arrays))
    return pd.DataFrame(rows, columns=[*columns, *ARRAYS])
