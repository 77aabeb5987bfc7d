"""Figures 2 and 6: sizes, whole pools, learning rates."""

import made_up
import pandas as pd
import pytest
from table_cells import rows

from repro.report import (
    html,
    scale,
    style,
)
from repro.statistics import summary


def test_whole_pools_are_one_block_after_the_sizes():
    accuracy = made_up.accuracy(levels=(0,), sizes=[(3000, "All"), (8, "8")])
    other = made_up.accuracy(levels=(1,), sizes=[(700, "All"), (8, "8")], seed=3)
    means = summary.means(pd.concat([accuracy, other])).query("split == 'test'")
    body = rows(scale.table(means, "sizes"))[1:]
    assert [row[-6] for row in body] == ["8", "All"]
    assert html.ABSENT not in body[1][-5:-3]


def test_learning_rates_take_the_same_questions_once():
    runs = made_up.accuracy(levels=(0,), sizes=[(8, "8")], samples=5).query("split == 'dev'")
    runs = runs.query("train_level == 0").assign(learning_rate=1e-4)
    alone, five = runs.query("sample == 0"), runs.assign(correct=runs["correct"].iloc[0])
    one = scale.learning_rate_means(alone.assign(correct=runs["correct"].iloc[0])).iloc[0]
    row = scale.learning_rate_means(five).iloc[0]
    assert (row["n"], row["total"]) == (5, 5 * one["total"])
    assert row["low"] == pytest.approx(one["low"]) and row["spread"] == pytest.approx(0)


def test_a_level_that_was_not_trained_on_is_not_drawn():
    figure = scale.figure(summary.means(made_up.accuracy(levels=(0, 2), sizes=[(8, "8")])))
    colours = {line.get_color() for line in figure.axes[0].lines}
    assert style.COLOURS[2] in colours and style.COLOURS[1] not in colours
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["0", "2", "before"]
