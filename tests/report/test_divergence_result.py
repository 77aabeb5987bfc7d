"""Figures 3 to 5: means over facts, tokens."""

import made_up
import numpy as np
import pandas as pd
import pytest

from repro.report import (
    divergence,
    restoration,
)


def test_divergence_is_the_mean_over_facts():
    frame = pd.DataFrame(
        {"train_level": 0, "train_size": 8, "sample": 0, "topic": ["a", "b"]}
        | {"facts": [1, 3], "kl_sum": [1.0, 0.6]}
    )
    row = divergence.means(frame).iloc[0]
    assert row["kl"] == pytest.approx(0.4) and row["facts"] == 4
    # Residuals are 1 − 0.4 and 0.6 − 1.2, so the variance is 2 · (0.36 + 0.36) / 16.
    assert row["high"] - row["kl"] == pytest.approx(1.959964 * 0.3)
    alone = divergence.means(frame.iloc[:1]).iloc[0]
    assert np.isnan(alone["low"]) and np.isnan(alone["high"])


def test_frames_without_runs_are_summarised_as_empty():
    assert divergence.means(pd.DataFrame()).empty
    assert restoration.concentration_means(pd.DataFrame()).empty


def test_tokens_show_their_spaces():
    labels = [
        t.get_text()
        for t in divergence.logits_figure(made_up.logits_example()).axes[0].get_yticklabels()
    ]
    assert labels[0] == "␣France" and labels[4] == "⏎" and len(labels) == 10
