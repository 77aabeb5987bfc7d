"""Measures how far fine-tuning moved the weights of a run, and which are restored (Figure 1)."""

import numpy as np

from repro.restoration import restore
from repro.restoration.thresholds import selection

# Bins of log10 r; values outside are counted in the first or last bin.
LOWEST, HIGHEST, STEP = -7.0, 3.0, 0.25
# The ten example weights are at these quantiles of r.
SHOWN = (0.999, 0.99, 0.95, 0.9, 0.85, 0.75, 0.5, 0.25, 0.1, 0.05)


def measure(ranking: restore.Ranking, percent: float) -> dict:
    """Return a histogram of the changes of a run, and of those that are restored (§5.1).

    Args:
        ranking: of a model before and after fine-tuning, by relative change (`restore.rank`).
        percent: of the ranked parameters that are restored, 0 to 100.

    Returns:
        A dict with `percent`; `edges` of the bins of log10 r; `parameters`, the number in each bin
        with r > 0; `restored`, the number of those in each bin that are restored; `unchanged`, the
        number with r = 0; `change_percent`, the share of Σr that is undone; and `weights`, ten
        examples from the first tensor, each with `before`, `after` (fine-tuned) and `restored`
        (true or false).
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
    change_percent = float(100 * sums[1] / sums[0]) if sums[0] else 0.0
    return {
        "percent": percent,
        "edges": edges.tolist(),
        "parameters": counts[0].tolist(),
        "restored": counts[1].tolist(),
        "unchanged": unchanged,
        "change_percent": change_percent,
        "weights": weights,
    }


def _weights(block, change: np.ndarray, mask: np.ndarray) -> list[dict]:
    """Return the weights of one block that are at the quantiles `SHOWN` of r."""
    order = np.argsort(change, kind="stable")
    places = [int(order[int(share * (len(order) - 1))]) for share in SHOWN]
    before, after = block.base.float(), block.tuned.float()
    return [
        {"before": float(before[i]), "after": float(after[i]), "restored": bool(mask[i])}
        for i in places
        if before[i] != 0
    ]
