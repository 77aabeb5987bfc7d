"""The paper's Figure 1 with real numbers: the changes of fine-tuning, and which are restored.

`benchmarks/weights.py` fine-tunes one run and writes the result of `restoration.weight_changes`.
"""

import json

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from repro import files
from repro.report.html import Html
from repro.report.layout import figure as numbered
from repro.report.style import COLOURS, STYLE, VIVID, WIDTH

BACK, KEPT = VIVID[1], COLOURS[1]


def weight_record(model: str) -> dict | None:
    """Return what `benchmarks/weights.py` has written for a model of the registry, or None."""
    path = files.results_dir() / model / "benchmarks" / "weights.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def shown(model: str, percent: float, number: str) -> Html:
    """Return Figure 1 for a model at the measured share nearest to `percent`, or a line without it.

    `model` is a registry name; `number` is the figure's on its page.
    """
    record = weight_record(model)
    if record is None:
        text = f"The weights of {model} were not kept: python benchmarks/weights.py {model}"
        return Html(f'<p class="repro-note">{text}</p>', text)
    data = min(record["shares"], key=lambda one: abs(one["percent"] - percent))
    caption = (
        f"Ten weights of one run (level {record['level']}, {record['size']:,} facts), and the sizes"
        f" of all its changes; {data['percent']:g} % of the parameters are set back."
    )
    alt = "Ten weights before, after fine-tuning and restored; histogram of all relative changes"
    return numbered(restoration(data), number, caption, alt)


@plt.rc_context(STYLE)
def restoration(data: dict) -> Figure:
    """Draw Figure 1 from `weight_changes.measure`: ten weights, and the sizes of all changes."""
    figure, axes = plt.subplots(2, 1, figsize=(WIDTH, 6.2), layout="constrained")
    _ten(axes[0], data["weights"])
    _sizes(axes[1], data)
    handles, labels = axes[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    plt.close(figure)
    return figure


def _ten(axis, weights: list[dict]) -> None:
    for weight in sorted(weights, key=lambda one: one["restored"]):
        moved = weight["after"] / weight["before"]
        back = weight["restored"]
        style = {"color": BACK if back else KEPT, "ls": "-" if back else "--"}
        marker = "o" if back else "s"
        axis.plot([0, 1, 2], [1, moved, 1 if back else moved], marker=marker, ms=4, **style)
    axis.set_xticks([0, 1, 2], ["pre-trained", "fine-tuned", "restored"])
    axis.set_yscale("symlog", linthresh=2)
    axis.set(title="Ten weights", ylabel="Times the pre-trained value", xlim=(-0.25, 2.25))


def _sizes(axis, data: dict) -> None:
    """Draw how many parameters changed by how much, and which of them are set back."""
    edges, every = 10 ** np.array(data["edges"]), np.array(data["parameters"])
    back = np.array(data["restored"])
    axis.stairs(every, edges, fill=True, color=KEPT, alpha=0.55, label="kept as fine-tuned")
    axis.stairs(back, edges, fill=True, color=BACK, hatch="//", ec="white", label="set back")
    axis.set_xscale("log")
    filled = np.flatnonzero(every)
    if len(filled):
        axis.set_xlim(edges[filled[0]], edges[filled[-1] + 1])
    axis.yaxis.set_major_formatter("{x:,.0f}")
    axis.set(xlabel=r"Relative change $|s_i - p_i|\,/\,|p_i|$", ylabel="Parameters")
    axis.set_title(
        f"{data['percent']:g} % of the parameters: {data['change_percent']:.1f} % of the change"
    )
