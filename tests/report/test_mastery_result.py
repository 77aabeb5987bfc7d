"""Tables 1 and 8: shares, templates, topics, the histogram of R."""

import made_up
import numpy as np
import pandas as pd
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


ESTIMATED = pd.DataFrame(
    {
        "model": "made-up",
        "split": "train",
        "level": range(5),
        "drawn": [30, 12, 3, 0, 0],
        "share": [90.0, 9.0, 1.0, 0.0, 0.0],
        "low": [88.0, 7.5, 0.6, 0.0, 0.0],
        "high": [92.0, 10.5, 1.8, 0.5, 0.5],
    }
)


def test_where_facts_were_chosen_the_shares_are_the_estimates_and_the_counts_the_drawn():
    shares = mastery.level_shares(made_up.distribution(), ESTIMATED)
    train, test = (shares.query(f"split == '{split}'") for split in ("train", "test"))
    assert train["share"].tolist() == ESTIMATED["share"].tolist()
    assert train["high"].tolist() == ESTIMATED["high"].tolist()
    assert train["count"].tolist() == [30, 12, 3, 0, 0]
    assert train["estimated"].all() and not test["estimated"].any()
    plain = mastery.level_shares(made_up.distribution())
    assert test["share"].tolist() == plain.query("split == 'test'")["share"].tolist()


def test_an_estimated_share_stands_below_the_drawn_count_with_its_interval():
    text = mastery.tables(made_up.distribution(), "made-up", ESTIMATED).html
    assert "30<br><small>90.0% (88.0–92.0)</small>" in text
    assert "30<br><small>66.7%</small>" in text  # the test split, drawn at random
    assert "Facts drawn; below, the estimated share of all facts" in text
    assert "estimated" not in mastery.tables(made_up.distribution(), "made-up").title
    assert "made-up: 90 % at level 0" in mastery.result(
        made_up.distribution(), "made-up", ESTIMATED
    )


def test_the_bars_of_chosen_facts_are_the_estimates():
    figure = mastery.figure(made_up.distribution(), estimated=ESTIMATED)
    assert [bar.get_width() for bar in figure.axes[0].patches][:3] == [90, 9, 1]


def test_topics_count_a_fact_as_often_as_it_stands_for_others():
    facts = made_up.mastery(facts=6).assign(level=[0, 0, 0, 1, 1, 1])
    scored = facts[["fact_id"]].assign(weight=[3.0, 1, 1, 1, 1, None])
    weighted = mastery.weighted(facts, scored)
    assert weighted["fact_id"].tolist() == [f"f{i}" for i in range(5)]
    names = {topic: topic for topic in made_up.TOPICS}
    bars = mastery.topics_figure(weighted, names).axes[0].patches
    assert sorted(round(bar.get_width()) for bar in bars[:3]) == [50, 75, 100]
    assert mastery.weighted(facts, scored.iloc[:0])["weight"].tolist() == [1] * 6


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
