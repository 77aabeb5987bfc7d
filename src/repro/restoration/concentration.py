"""How concentrated the change is: in how few parameters (Table 3), in which tensors (Table 10)."""

from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
import pandas as pd

from repro.errors import ConfigError
from repro.restoration import regions, score_kernels, shared_counts
from repro.restoration.ranking import Ranking
from repro.restoration.tensor_pairs import Block
from repro.restoration.thresholds import Cut, thresholds


def concentration(ranking: Ranking, percents: Sequence[float]) -> pd.DataFrame:
    """Return the share of the total change that the most changed parameters hold (Table 3).

    Returns:
        DataFrame[top_percent, share_of_change_percent, without_zero_base_percent, k, n,
        threshold, moved, zero_base, unchanged]. Sums are exact and rounded once. `moved` counts
        those of the k parameters that differ at all. `zero_base` and `unchanged` count the
        parameters of the whole region with p = 0 and with s = p. A parameter with p = 0 that moved
        has a score of |s| / 1e-8, as large as that of thousands of others together. So
        `without_zero_base_percent` is the share without such parameters, both in the chosen and in
        the total.

    Raises:
        ConfigError: the ranking is not by size, or a percentage is not between 0 and 100.
    """
    if ranking.criterion.strategy not in ("top", "absolute"):
        raise ConfigError("concentration is of the largest changes: rank by top or absolute")
    total, zero = ranking.counts.keys.total(), ranking.counts.zero.total()
    rows = [
        {
            "top_percent": percent,
            "share_of_change_percent": percentage(cut.score_sum, total),
            "without_zero_base_percent": percentage(
                cut.score_sum - cut.score_sum_zero_base, total - zero
            ),
            "k": cut.k,
            "n": ranking.size,
            "threshold": cut.threshold,
            "moved": cut.k if cut.key else cut.k - cut.ties,
            "zero_base": ranking.zero_base,
            "unchanged": ranking.unchanged,
        }
        for percent, cut in thresholds(ranking, percents).items()
    ]
    return pd.DataFrame(rows)


def percentage(part: int, whole: int) -> float:
    """Return 100 · part / whole, rounded once; 0 if the whole is 0."""
    return float(Fraction(100 * part, whole)) if whole else 0.0


def by_tensor(ranking: Ranking, percents: Sequence[float]) -> pd.DataFrame:
    """Return how many chosen parameters each tensor has (Table 10 adds them up).

    Returns:
        DataFrame[tensor, layer, module, n, change_percent, one column per percentage].
        `change_percent` is the tensor's share of the sum of all changes, NaN if the strategy does
        not rank by size. The last columns hold the number of chosen parameters of the tensor.
    """
    cuts = thresholds(ranking, percents)
    chosen = _chosen_by_tensor(ranking, list(cuts.values()))
    by_size, total = ranking.criterion.strategy in ("top", "absolute"), ranking.counts.keys.total()
    rows = [
        {
            "tensor": name,
            "layer": regions.layer(name),
            "module": regions.module(name),
            "n": shape.numel(),
            "change_percent": percentage(ranking.counts.change.get(name, 0), total)
            if by_size
            else np.nan,
            **dict(zip(cuts, (int(k) for k in chosen[row]), strict=True)),
        }
        for row, (name, shape) in enumerate(ranking.shapes.items())
    ]
    return pd.DataFrame(rows)


def _chosen_by_tensor(ranking: Ranking, cuts: list[Cut]) -> np.ndarray:
    """Return how many parameters of each tensor (rows) each cut (columns) chooses."""
    rows = {name: i for i, name in enumerate(ranking.shapes)}
    keys = np.array([cut.key for cut in cuts], np.uint32)
    counts_by_thread = np.zeros((ranking.pair.threads, 2, len(rows), len(cuts)), np.int64)

    def worker(above: np.ndarray, equal: np.ndarray) -> Callable[[Block], None]:
        def count(block: Block) -> None:
            row = rows[block.name]
            score_kernels.count_at_thresholds(
                ranking.criterion.keys(block), keys, above[row], equal[row]
            )

        return count

    ranking.pair.spread([worker(*tables) for tables in counts_by_thread])
    totals = counts_by_thread.sum(0)
    if ranking.pair.shared:
        shared_counts.add_up_arrays([totals])
    above, equal = totals
    # Of the parameters that equal a threshold, those of earlier tensors are chosen first.
    before = equal.cumsum(0) - equal
    return above + np.clip(np.array([cut.ties for cut in cuts]) - before, 0, equal)
