"""Verdicts: the rule and the interval of a difference."""

import numpy as np
import pandas as pd
import pytest

from repro.statistics import contrasts, verdicts
from repro.statistics.intervals import wilson


def row(accuracy, low, high, **columns):
    return pd.Series({"accuracy": accuracy, "low": low, "high": high} | columns)


@pytest.mark.parametrize(
    "low, high, expected, verdict",
    [
        (-3, -1, "below", "supported"),
        (1, 3, "below", "contradicted"),
        (1, 3, "above", "supported"),
        (-3, -1, "above", "contradicted"),
        (-1, 1, "below", "undecided"),
        (0, 2, "above", "undecided"),
        (np.nan, np.nan, "above", "undecided"),
    ],
)
def test_the_rule(low, high, expected, verdict):
    assert verdicts.judge(low, high, expected) == verdict


def test_difference_of_proportions_is_newcombes():
    # Newcombe (1998), method 10, example (a): 56/70 − 48/80 has the interval 0.0524 to 0.3339.
    rows = [row(100 * c / n, *(100 * b for b in wilson(c, n))) for c, n in ((56, 70), (48, 80))]
    estimate, low, high = contrasts.contrast(zip((1, -1), rows, strict=True), "accuracy")
    assert estimate == pytest.approx(20)
    assert (low, high) == pytest.approx((5.24, 33.39), abs=0.01)


def test_spread_between_samples_widens_the_interval():
    tight = [(1, row(50, 45, 55, n=4, spread=0.0)), (-1, row(40, 35, 45, n=4, spread=0.0))]
    loose = [(1, row(50, 45, 55, n=4, spread=6.0)), (-1, row(40, 35, 45, n=4, spread=6.0))]
    alone = [(1, row(50, 45, 55, n=1, spread=np.nan)), (-1, row(40, 35, 45, n=1, spread=np.nan))]
    width = {k: np.diff(contrasts.contrast(t, "accuracy")[1:])[0] for k, t in
             {"tight": tight, "loose": loose, "alone": alone}.items()}  # fmt: skip
    assert width["tight"] == pytest.approx(width["alone"]) and width["loose"] > width["tight"]


def test_the_interval_covers_the_truth():
    generator = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        rows = []
        for chance in (0.05, 0.12):
            correct = generator.binomial(150, chance)
            rows.append(row(100 * correct / 150, *(100 * b for b in wilson(correct, 150))))
        _, low, high = contrasts.contrast(zip((1, -1), rows, strict=True), "accuracy")
        inside += low <= -7 <= high
    assert 0.92 <= inside / 400 <= 0.99
