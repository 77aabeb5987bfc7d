"""Tables 1 and 8: shares, templates, topics, the histogram of R."""

import made_up
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from repro import paper
from repro.report import (
    mastery,
    style,
)


def test_templates_are_rates_per_topic():
    facts = made_up.mastery(facts=30, templates=4, draws=5)
    success = mastery.template_rates(facts)
    one = facts[facts["topic"] == "P17"]
    assert list(success.columns) == [1, 2, 3, 4]
    assert success.loc["P17", 2] == pytest.approx(100 * one["t01"].sum() / (5 * len(one)))
    best = mastery.best_templates(success, dict.fromkeys(success.index, ("a", "b", "c", "d")))
    assert best["best"].is_monotonic_decreasing and set(best["template"]) <= set("abcd")


def test_level_shares_have_intervals():
    shares = mastery.level_shares(made_up.distribution()).query("split == 'train'")
    assert shares["share"].sum() == pytest.approx(100)
    assert ((shares["low"] <= shares["share"]) & (shares["share"] <= shares["high"])).all()
    assert shares.query("count == 0")["high"].gt(0).all()


def test_bars_add_up_to_all_facts():
    figure = mastery.figure(paper.table("distribution"), "test")
    widths = np.array([bar.get_width() for bar in figure.axes[0].patches]).reshape(5, 5)
    np.testing.assert_allclose(widths.sum(axis=0), 100)


def test_the_histogram_counts_every_fact_once():
    facts = made_up.mastery()
    heights = [bar.get_height() for bar in mastery.rates_figure(facts).axes[0].patches]
    assert sum(heights) == len(facts) and heights[0] == (facts["rate"] == 0).sum()


def test_rates_at_a_boundary_belong_to_the_lower_level():
    facts = made_up.mastery(facts=4).assign(rate=[0, 0.25, 0.251, 1], level=[0, 1, 2, 4])
    bars = mastery.rates_figure(facts).axes[0].patches[1:]
    filled = [(place, bar) for place, bar in enumerate(bars) if bar.get_height()]
    assert [place for place, _ in filled] == [4, 5, 19]
    colours = [to_rgb(bar.get_facecolor()) for _, bar in filled]
    assert colours == [to_rgb(style.COLOURS[level]) for level in (1, 2, 4)]


def test_topics_with_the_same_question_keep_their_own_bars():
    facts = made_up.mastery()
    names = {topic: f"{topic}: Where is it?" for topic in made_up.TOPICS}
    assert len(mastery.topics_figure(facts, names).axes[0].get_yticks()) == len(made_up.TOPICS)
    with pytest.raises(ValueError, match="same name"):
        mastery.topics_figure(facts, dict.fromkeys(made_up.TOPICS, "Where is it?"))
