"""Controls: what is compared with what, at the same share and at the same amount."""

import re
from types import SimpleNamespace

import made_up
import numpy as np
import pandas as pd
import pytest

from repro.report import controls

COUNTS = made_up.controls()
MEANS = controls.means(COUNTS)
NO_UNITS = pd.DataFrame()


def accuracy(level, size, strategy, percent):
    rows = MEANS.query("train_level == @level and train_size == @size and strategy == @strategy")
    return rows.loc[rows["restored_percent"] == percent, "accuracy"].item()


def test_there_is_one_mean_per_run_way_and_share():
    assert len(MEANS) == 2 * 2 * (1 + 5 * 2)
    assert not MEANS.duplicated(controls.KEYS).any()
    top = MEANS.query("strategy == 'top' and restored_percent == 20")
    assert (top["undone_l1"] == 30).all() and (top["n"] == 2).all()


def test_the_same_share_sets_top_against_all_others():
    compared = controls.same_share(MEANS, NO_UNITS)
    assert len(compared) == 2 * 2 * 4 * 2
    row = compared.query("train_level == 1 and train_size == 960 and strategy == 'bottom'").iloc[1]
    expected = accuracy(1, 960, "top", 20) - accuracy(1, 960, "bottom", 20)
    assert row["restored_percent"] == 20 and row["estimate"] == pytest.approx(expected)


def test_the_same_amount_lies_between_two_shares_of_interpolation():
    compared = controls.same_amount(MEANS, NO_UNITS)
    row = compared.query("train_level == 0 and train_size == 240 and strategy == 'top'")
    assert list(row["restored_percent"]) == [5]  # 20 % undid 30 %, more than interpolation ever did
    between = 0.5 / 3 * (part := accuracy(0, 240, "interpolate", 20))
    between += (1 - 0.5 / 3) * (first := accuracy(0, 240, "interpolate", 5))
    assert part != first
    assert row["estimate"].item() == pytest.approx(accuracy(0, 240, "top", 5) - between)


def test_an_amount_below_the_first_share_is_measured_from_nothing_restored():
    compared = controls.same_amount(MEANS, NO_UNITS)
    row = compared.query("train_level == 0 and train_size == 240 and strategy == 'bottom'").iloc[0]
    between = 0.2 * accuracy(0, 240, "interpolate", 5) + 0.8 * accuracy(0, 240, "none", 0)
    assert row["estimate"] == pytest.approx(accuracy(0, 240, "bottom", 5) - between)


def test_the_same_amount_at_a_measured_share_is_compared_with_that_share():
    compared = controls.same_amount(MEANS, NO_UNITS)
    row = compared.query("train_level == 0 and train_size == 240 and strategy == 'random'").iloc[1]
    expected = accuracy(0, 240, "random", 20) - accuracy(0, 240, "interpolate", 20)
    assert row["estimate"] == pytest.approx(expected)
    assert "×" not in row["runs"]


def test_an_amount_a_hair_beyond_the_last_share_is_compared_with_it():
    random = (MEANS["strategy"] == "random") & (MEANS["restored_percent"] == 20)
    over = MEANS.assign(undone_l1=MEANS["undone_l1"] + 0.01 * random)
    compared = controls.same_amount(over, NO_UNITS).query("strategy == 'random'")
    assert len(compared) == 2 * 2 * 2 and compared["estimate"].notna().all()


def test_differences_keep_the_order_of_the_strategies():
    compared = controls.same_amount(MEANS, NO_UNITS)
    first = (compared["train_level"] == 0) & (compared["train_size"] == 240)
    compared = compared[
        ~(first & (compared["restored_percent"] == 20) & (compared["strategy"] == "random"))
    ]
    heads = re.findall(r">(top|absolute|random|bottom)<", controls.table(compared, "x").html)
    assert heads == ["top", "absolute", "random", "bottom", "random", "bottom"]


def test_unknown_amounts_are_left_out():
    lost = MEANS.assign(undone_l1=MEANS["undone_l1"].mask(MEANS["strategy"] == "top"))
    assert "top" not in set(controls.same_amount(lost, NO_UNITS)["strategy"])


def rows(verdicts):
    return pd.DataFrame({"verdict": verdicts, "strategy": "top"})


@pytest.mark.parametrize(
    "decided, undecided, shown",
    [(0, 10, False), (1, 9, False), (3, 7, True), (1, 0, False), (2, 0, True), (1, 1, False)],
)
def test_a_difference_is_shown_where_chance_would_rarely_decide_as_many(decided, undecided, shown):
    compared = rows(["supported"] * decided + ["undecided"] * undecided)
    assert controls.shown(compared) is shown


def test_the_answer_follows_the_rule():
    which = controls.answer(rows(["supported"] * 5), "undone_l1")
    assert "a difference is shown" in which and "*which* parameters matters" in which
    amount = controls.answer(rows(["undecided"] * 5), "undone_l2")
    assert "no difference is shown" in amount and "*how much* is undone" in amount
    assert "nothing to compare" in controls.answer(rows([]), "undone_l1")


def test_a_study_without_controls_says_so():
    empty = controls.means(pd.DataFrame())
    for compare in (controls.same_share, controls.same_amount):
        assert compare(empty, NO_UNITS).empty
    assert "nothing to compare" in controls.sentence("top", controls.same_share(empty, NO_UNITS))
    assert "Training facts" in controls.table(controls.same_share(empty, NO_UNITS), "x").html


def test_differences_are_shaded_where_the_interval_excludes_zero():
    compared = controls.same_share(MEANS, NO_UNITS).iloc[:1].assign(estimate=3.0, low=1.0, high=5.0)
    shown = controls.table(compared.assign(verdict="supported"), "x").html
    assert "+3.00" in shown and "+1.0 to +5.0" in shown and "background-color" in shown
    undecided = controls.table(compared.assign(verdict="undecided"), "x").html
    assert "background-color" not in undecided


class Measured:
    """A study whose controls were measured on so many questions of each of two levels."""

    def __init__(self, questions):
        self.questions = questions
        self.profile = type("Named", (), {"control_percents": (5, 20)})
        self.results = self.grid = self.requests = self.pools = self

    def controls(self):
        return made_up.controls(questions=self.questions)

    def facts(self, run, split):
        return pd.DataFrame({"level": np.repeat([0, 1], self.questions)})

    def control_runs(self):
        return []

    def answers(self, tasks):
        assert tasks == []
        return pd.DataFrame()


def test_small_levels_are_taken_together():
    means, units, together = controls.gather(Measured(40))
    assert not together and (means["levels"] == 2).all() and units.empty
    means, _, together = controls.gather(Measured(10))
    assert together and (means["levels"] == 1).all()


def test_every_study_with_controls_is_counted(monkeypatch):
    def named(name):
        profile = SimpleNamespace(name="full")
        return SimpleNamespace(model=SimpleNamespace(title=name), profile=profile)

    empty = controls.means(pd.DataFrame())
    gathered = {"one": (MEANS, NO_UNITS, False), "none": (empty, NO_UNITS, False)}
    monkeypatch.setattr(controls, "gather", lambda study: gathered[study.model.title])
    compared = controls.by_model([named("one"), named("none")])
    assert set(compared["model"]) == {"one"} and len(compared) == 4 + 2
    share = controls.same_share(MEANS, NO_UNITS).query("strategy == 'random'")
    row = compared.set_index("against").loc["as many, random"]
    assert row["comparisons"] == len(share)
    assert row["better"] == (share["verdict"] == "supported").sum()
    assert row[["better", "worse", "undecided"]].sum() == row["comparisons"]


CONTROLS = controls.means(made_up.controls())


def test_controls_have_a_panel_per_run_and_a_line_per_way():
    figure = controls.figure(CONTROLS, "undone_l1")
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert titles == [f"level {i}, {size} facts" for i in (0, 1) for size in (240, 960)]
    colour = controls.WAYS["absolute"]
    (line,) = [one for one in figure.axes[3].lines if one.get_color() == colour]
    measured = CONTROLS.query("train_level == 1 and train_size == 960")
    measured = measured[measured["strategy"].isin(["none", "absolute"])].sort_values("undone_l1")
    np.testing.assert_array_equal(line.get_xydata(), measured[["undone_l1", "accuracy"]])


def test_a_control_whose_amount_is_unknown_is_not_drawn():
    lost = CONTROLS["undone_l1"].mask(CONTROLS["strategy"] == "top")
    figure = controls.figure(CONTROLS.assign(undone_l1=lost), "undone_l1")
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "top" not in texts and "random" in texts
