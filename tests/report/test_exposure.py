"""Mastery against exposure: means, steps, where half is mastered, and what is known of whom."""

import made_up
import numpy as np
import pandas as pd
import pytest

from repro.data import atlas
from repro.report import exposure
from repro.study import open_study

FACTS = made_up.exposed()


def test_a_curve_is_the_mean_over_facts():
    curves = exposure.curves(FACTS)
    assert list(curves["model"].unique()) == ["small", "large"]
    facts = FACTS.query("model == 'large' and exposure == 5")
    row = curves.query("model == 'large' and exposure == 5").iloc[0]
    assert row["facts"] == len(facts) and row["rate"] == pytest.approx(facts["rate"].mean())
    assert row["low"] < row["rate"] < row["high"]


def test_levels_are_shares_of_all_facts():
    shares = exposure.levels(FACTS)
    np.testing.assert_allclose(shares[[0, 1, 2, 3, 4]].sum(axis=1), 100)
    first = shares.query("model == 'small' and exposure == 0").iloc[0]
    assert first[0] == 100 and first[4] == 0


def test_topics_are_of_one_model():
    table = exposure.topics(FACTS, "small")
    assert table.shape == (10, 6) and (table[0] == 0).all()


def flat(seen):
    """The same R at every exposure."""
    return FACTS[FACTS["exposure"].isin(seen)].assign(rate=np.resize([0.2, 0.3, 0.4], 100 * 2))


def test_steps_rise_where_mastery_does():
    steps = exposure.steps(FACTS)
    assert len(steps) == 2 * 5 and (steps["rise"] > 0).all()
    assert (steps["low"].iloc[1:5] > 0).any()
    still = exposure.steps(flat([0, 20]))
    assert ((still["low"] < 0) & (still["high"] > 0)).all()


def test_half_is_mastered_where_the_curve_crosses_it():
    halves = exposure.halves(FACTS).set_index("model")
    # Made with R = n / (n + 8) and n / (n + 4), but taken to rise evenly from 5 to 10 and 2 to 5.
    assert 7 < halves.loc["small", "exposure"] < 9.5
    assert 3.5 < halves.loc["large", "exposure"] < 5
    assert (halves["low"] <= halves["exposure"]).all()
    assert (halves["exposure"] <= halves["high"]).all()


def test_half_that_is_not_reached_is_said():
    low = FACTS[FACTS["exposure"] < 3]
    assert np.isinf(exposure.halves(low)["exposure"]).all()
    text = exposure.reading(low)
    assert text.count("Half is not reached with 2 statements.") == 2


def test_the_reading_names_steps_that_fall():
    turned = FACTS.assign(rate=1 - FACTS["rate"])
    first, second = exposure.reading(turned).splitlines()
    assert first.startswith("- **small**: mean *R* rises for certain at 0 of 5 steps and falls")
    assert "from 5 to 10" in second
    rising = exposure.reading(FACTS).splitlines()[0]
    assert "never falls for certain. Half is mastered at" in rising


@pytest.fixture
def own_folders(tmp_path, monkeypatch):
    """Keep records apart from those of the repository and the user."""
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("REPRO_RESULTS", str(tmp_path / "results"))


def test_a_model_is_measured_and_others_are_shown_as_far_as_they_are(own_folders):
    measured = open_study("micro-s", "smoke")
    facts = exposure.known(measured)
    assert list(facts["model"].unique()) == ["micro-s"]
    assert exposure.unknown(measured) == ["micro-m", "micro-l"]
    open_study("micro-m", "smoke").results.mastery()
    assert list(exposure.known(measured)["model"].unique()) == ["micro-s", "micro-m"]
    assert exposure.unknown(measured) == ["micro-l"]
    number = sum(measured.profile.facts.values())
    assert (facts["model"].value_counts() == number).all()
    said = atlas.exposure().set_index("fact_id")["exposure"]
    assert (facts["exposure"] == facts["fact_id"].map(said)).all()


def test_of_another_world_only_what_is_measured_is_shown(own_folders, tiny_model):
    facts = exposure.known(open_study(tiny_model, "smoke"))
    assert facts.empty and exposure.reading(facts) == ""


def test_nothing_known_makes_empty_tables():
    empty = FACTS.iloc[:0]
    for make_table in (exposure.curves, exposure.levels, exposure.steps, exposure.halves):
        assert isinstance(table := make_table(empty), pd.DataFrame) and table.empty
    assert exposure.reading(empty) == ""


EXPOSED = made_up.exposed()


def test_exposure_has_a_line_per_model_in_their_order():
    figure = exposure.figure(exposure.curves(EXPOSED))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["small", "large"]
    small, large = (line.get_ydata() for line in figure.axes[0].lines[:2])
    assert len(small) == 6 and (large[1:] > small[1:]).all()


def test_exposures_too_close_to_label_share_a_label():
    assert exposure._apart([0, 1, 2, 100]) == [0, 1, 100]
