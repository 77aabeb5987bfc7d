"""The paper's Figure 1 with real numbers: what fine-tuning changed, and which of it is set back.

`measure` reads the weights of one run and returns numbers small enough for a record; `restoration`
draws them. Figure 3, the other diagram of the paper, is `repro.report.plots.logits`.
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from repro.report.style import COLOURS, STYLE, VIVID, WIDTH
from repro.restoration import restore
from repro.restoration.ranking import selection

LOWEST, HIGHEST, STEP = -7.0, 3.0, 0.25  # bins of log10 r; what lies outside is in the end bins
SHOWN = (0.999, 0.99, 0.95, 0.9, 0.85, 0.75, 0.5, 0.25, 0.1, 0.05)  # quantiles of r of ten weights
BACK, KEPT = VIVID[1], COLOURS[1]


def measure(ranking: restore.Ranking, percent: float) -> dict:
    """Return how large the changes of a run are, and which of them `percent` sets back (§5.1).

    Args:
        ranking: by relative change, of a fine-tuned model against itself before (`restore.rank`).
        percent: of the ranked parameters that are restored, 0 to 100.

    Returns:
        percent; edges of bins of log10 r; parameters (those with r > 0) and restored in each bin;
        unchanged (with r = 0); change_percent (the part of Σr that is undone); weights: ten of the
        first tensor, each with before, after (fine-tuned) and restored (true or false).
    """
    edges = np.arange(LOWEST, HIGHEST + STEP, STEP)
    counts, unchanged, weights = np.zeros((2, len(edges) - 1), int), 0, []
    sums = np.zeros(2)
    cut = restore.thresholds(ranking, [percent])[percent]
    for block, keys, (mask,) in selection(ranking, [cut]):
        change = keys.view(np.float32)  # keys are the bits of r
        moved = change > 0
        unchanged += int((~moved).sum())
        for row, chosen in enumerate((moved, moved & mask)):
            size = np.clip(np.log10(change[chosen]), LOWEST, HIGHEST - STEP / 2)
            counts[row] += np.histogram(size, edges)[0]
            sums[row] += change[chosen].sum(dtype=float)
        weights = weights or _weights(block, change, mask)
    part = float(100 * sums[1] / sums[0]) if sums[0] else 0.0
    return {
        "percent": percent,
        "edges": edges.tolist(),
        "parameters": counts[0].tolist(),
        "restored": counts[1].tolist(),
        "unchanged": unchanged,
        "change_percent": part,
        "weights": weights,
    }


def _weights(block, change: np.ndarray, mask: np.ndarray) -> list[dict]:
    order = np.argsort(change, kind="stable")
    found = [int(order[int(share * (len(order) - 1))]) for share in SHOWN]
    before, after = block.base.float(), block.tuned.float()
    return [
        {"before": float(before[i]), "after": float(after[i]), "restored": bool(mask[i])}
        for i in found
        if before[i] != 0
    ]


@plt.rc_context(STYLE)
def restoration(data: dict) -> Figure:
    """Draw Figure 1 from what `measure` returned: ten weights, and the sizes of all changes."""
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
