"""Single facts from known to lost to brought back: shares, comparisons, and their null."""

import numpy as np
import pandas as pd
import pytest

from repro.report import single_answers, transitions
from repro.report.single_answers import Answered
from repro.study import open_study

LEVELS = np.repeat([0, 1, 2, 3, 4], 80)


def answered(right, back, samples=2, seed=0, before=None):
    """Return made-up answers of two training levels and two restored shares.

    `right`: the chance of each fact to be right after fine-tuning, `back`: of a wrong one to come
    right when 20 % are restored. With 5 % nothing changes.
    """
    generator = np.random.default_rng(seed)
    number, rows = len(LEVELS), []
    facts = pd.DataFrame({"level": LEVELS, "before": LEVELS + np.linspace(0, 0.9, number) % 0.25})
    facts["before"] = facts["before"] if before is None else before
    facts = facts.assign(fact_id=[f"f{i:03d}" for i in range(number)], topic="P17")
    for level in (0, 3):
        for sample in range(samples):
            tuned = generator.random(number) < right
            restored = tuned | (generator.random(number) < back)
            for percent, values in ((0.0, tuned), (5.0, tuned), (20.0, restored)):
                rows.append((level, 240, sample, percent, values.astype(np.int8)))
    columns = ["train_level", "train_size", "sample", "restored_percent", "values"]
    return Answered("made-up", "R", facts, pd.DataFrame(rows, columns=columns))


CHANCE = np.array([0.1, 0.3, 0.5, 0.7, 0.9])[LEVELS]
EVEN = answered(CHANCE, np.full(400, 0.3))
KNOWN = answered(CHANCE, np.where(LEVELS >= 3, 0.6, 0.1))


def test_the_curve_counts_the_wrong_answers_of_each_bin():
    curve = transitions.calibration(EVEN)
    assert set(curve["level"]) == {1, 2, 3, 4}
    assert curve.groupby("level")["facts"].sum().tolist() == [80] * 4
    assert curve["facts"].min() >= transitions.IN_BIN
    values = np.stack(EVEN.tuned()["values"].tolist())
    lost = 100 * (1 - values[:, LEVELS == 2].mean())
    rows = curve[curve["level"] == 2]
    assert np.average(rows["lost"], weights=rows["facts"]) == pytest.approx(lost)
    assert ((curve["low"] <= curve["lost"]) & (curve["lost"] <= curve["high"])).all()
    assert rows["before"].is_monotonic_increasing


def test_what_is_shown_before_predicts_the_loss_only_where_it_does():
    before = LEVELS + np.tile(np.linspace(0, 0.9, 80), 5)
    upper_half = np.tile(np.arange(80) >= 40, 5)
    blind = answered(CHANCE, 0.1, before=before)
    assert (transitions.losses(blind)["verdict"] != "supported").all()
    seen = answered(CHANCE + np.where(upper_half, 0.2, -0.2), 0.1, before=before)
    compared = transitions.losses(seen)
    assert compared["verdict"].tolist() == ["supported"] * 4
    assert compared["claim"].iloc[0] == "level 1: the half with the higher R is lost less often"
    upper, lower = upper_half & (LEVELS == 1), ~upper_half & (LEVELS == 1)
    lost = 1 - np.stack(seen.tuned()["values"].tolist())
    difference = 100 * (lost[:, upper].mean() - lost[:, lower].mean())
    assert compared["estimate"].iloc[0] == pytest.approx(difference)


def test_tied_facts_stay_in_one_half():
    halves = transitions._upper_half(pd.Series([1, 1, 1, 1, 2, 3]))
    assert halves.tolist() == [False] * 4 + [True] * 2
    assert not transitions._upper_half(pd.Series([1.0, 1.0])).any()


def test_lost_facts_come_back_only_where_they_do():
    (even,) = transitions.returns(EVEN).itertuples()  # at 5 % nothing comes right: no row
    assert even.verdict == "undecided" and even.low < 0 < even.high
    (comparison,) = transitions.returns(KNOWN).itertuples()
    assert comparison.claim.startswith("20 % restored: lost facts")
    assert comparison.verdict == "supported" and comparison.low_joint > 0
    row = transitions.counts(KNOWN).set_index("restored_percent").loc[20]
    difference = row["brought_back"] / row["lost"] - row["others_right"] / row["others_wrong"]
    assert comparison.estimate == pytest.approx(100 * difference)


def test_the_interval_covers_independence_as_often_as_it_says():
    """Of 100 studies in which restoration does not care what was known, about 95 cover 0."""
    covered = 0
    for seed in range(100):
        (row,) = transitions.returns(answered(CHANCE, 0.3, seed=seed)).itertuples()
        covered += row.low <= 0 <= row.high
    assert covered >= 88


def test_counts_add_up_and_expect_what_independence_gives():
    row = transitions.counts(KNOWN).set_index("restored_percent").loc[20]
    wrong = int((np.stack(KNOWN.tuned()["values"].tolist()) == 0).sum())
    assert row["lost"] + row["others_wrong"] == wrong
    assert row["known"] == 4 * (LEVELS >= 3).sum()
    right = row["brought_back"] + row["others_right"]
    assert row["expected"] == pytest.approx(row["lost"] * right / wrong)
    assert row["brought_back"] > row["expected"]
    assert row["known_broken"] == row["others_broken"] == 0


def test_recovery_has_a_line_for_each_level_and_one_for_all():
    rows = transitions.recovery(KNOWN).query("restored_percent == 20").set_index("level")
    assert rows.index.tolist() == [transitions.ALL, 0, 1, 2, 3, 4]
    assert rows.loc[[3, 4], "share"].min() > rows.loc[transitions.ALL, "share"]
    assert rows.loc[0:4, "right"].sum() == rows.loc[transitions.ALL, "right"]
    ratio = 100 * rows["right"] / rows["wrong"]
    assert rows["share"].tolist() == pytest.approx(ratio.tolist())


def test_findings_name_the_direction():
    lost, back = transitions.findings(KNOWN)
    assert back.text().startswith(
        "Lost facts come back more often than others come right in 1 of 1"
    )
    assert lost.rows.equals(transitions.losses(KNOWN))


def test_a_model_that_knows_too_little_is_not_compared():
    few = Answered("few", "R", EVEN.facts.assign(level=0), EVEN.answers)
    assert transitions.losses(few).empty and transitions.returns(few).empty
    assert "nothing is compared" in transitions.about([few])
    empty = Answered("none", "R", EVEN.facts, EVEN.answers.iloc[:0])
    assert transitions.calibration(empty).empty and transitions.counts(empty).empty
    assert transitions.by_model([few, empty]).empty
    for figure in (transitions.calibration_figure([empty]), transitions.recovery_figure([empty])):
        figure.draw_without_rendering()
        assert figure.axes[0].texts[0].get_text() == "No such runs"


def test_the_table_of_all_models_names_question_and_place():
    rows = transitions.by_model([KNOWN, EVEN])
    assert rows["at"].tolist() == [*(f"level {i}" for i in (1, 2, 3, 4)), "20 % restored"] * 2
    assert rows["question"].tolist() == (["lost"] * 4 + ["comes back"]) * 2
    joint = rows["high_joint"] - rows["low_joint"]
    single = rows["high"] - rows["low"]
    assert (joint[rows["question"] == "lost"] > single[rows["question"] == "lost"]).all()


def test_figures_have_a_panel_for_each_model():
    for draw in (transitions.calibration_figure, transitions.recovery_figure):
        figure = draw([EVEN, KNOWN])
        assert [axis.get_title(loc="left") for axis in figure.axes] == ["made-up"] * 2


def test_the_committed_answers_are_those_of_the_records():
    """Of micro-s, each training level at 1,920 facts: every share of every data sample."""
    study = open_study("micro-s", "full")
    answered = single_answers.gather(study)
    assert answered.measure == "R" and len(answered.facts) == 2000
    assert answered.facts["fact_id"].is_monotonic_increasing
    assert set(answered.answers["train_size"]) == {1920}
    assert len(answered.answers) == 5 * 5 * len(study.profile.percents)
    accuracy = study.results.accuracy()
    rows = accuracy.query(
        "train_level == 0 and train_size == 1920 and sample == 1 and restored_percent == 20"
        " and split == 'test'"
    )
    answers = answered.answers.query("train_level == 0 and sample == 1 and restored_percent == 20")
    assert answers["values"].iloc[0].sum() == rows["correct"].sum()
