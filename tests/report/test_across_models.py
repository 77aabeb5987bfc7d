"""Effects model by model: what is counted, what is pooled over models, and that it can be drawn."""

import pandas as pd
import pytest

from repro.report import across_models
from repro.statistics import verdicts
from repro.statistics.contrasts import Comparison

TITLES = {"helps": "Restoring helps", "falls": "More is worse"}


def compared(gains, half=1.0):
    """Comparisons of pairs of runs, of which the second has gained so much."""
    comparisons = []
    for place, gain in enumerate(gains):
        frame = pd.DataFrame({"run": [0, 1], "accuracy": [40.0, 40.0 + gain]})
        frame = frame.assign(low=frame["accuracy"] - half, high=frame["accuracy"] + half)
        terms = [(1, {"run": 1}), (-1, {"run": 0})]
        comparisons.append(Comparison(f"pair {place}", terms, "above", frame))
    return verdicts.compare_jointly(comparisons)


FOUND = {
    "theirs": {"helps": compared([5, 6])},
    "one": {"helps": compared([4, 6]), "falls": compared([-9, -8])},
    "two": {"helps": compared([8, 9]), "falls": compared([])},
    "three": {"helps": compared([-7, 1])},
}
EFFECTS = across_models.effects(FOUND, {"theirs"})


def test_an_effect_is_the_mean_of_a_phenomenons_comparisons():
    row = EFFECTS.query("phenomenon == 'helps' and model == 'one'").iloc[0]
    assert row["effect"] == pytest.approx(5)
    assert row["low"] < 5 < row["high"]
    assert (row["comparisons"], row["supported"], row["contradicted"]) == (2, 2, 0)
    assert row["verdict"] == "holds" and row["ours"]
    assert not EFFECTS.set_index("model").loc["theirs", "ours"]


def test_a_model_without_the_runs_has_no_row():
    assert set(EFFECTS.query("phenomenon == 'falls'")["model"]) == {"one"}


def test_the_papers_models_do_not_enter_the_effect_over_models():
    (row,) = across_models.over_models(EFFECTS).to_dict("records")
    assert row["phenomenon"] == "helps" and row["models"] == 3
    ours = EFFECTS.query("phenomenon == 'helps' and ours")["effect"]
    assert ours.min() < row["effect"] < ours.max() and row["between"] > 0
    assert row["low"] < row["effect"] < row["high"]
    two = EFFECTS[EFFECTS["model"].isin(["one", "two"])]
    assert across_models.over_models(two).empty


def test_results_say_on_how_many_of_our_models():
    text = across_models.results(EFFECTS, TITLES)
    assert text["Restoring helps"].startswith("in every comparison on 2 of 3 models (one; two);")
    assert text["More is worse"] == (
        "in every comparison on 0 of 1 models; on average on 0, the opposite on 1 (one)"
    )
    assert (
        "; of the paper's tables, in every comparison on 1 of 1 models (theirs);"
        in (text["Restoring helps"])
    )
    row = across_models.over_models(EFFECTS).iloc[0]
    assert f"; over 3 models of ours +{row['effect']:.2f} (" in text["Restoring helps"]
    assert text["Restoring helps"].endswith(" points")
    assert across_models.results(EFFECTS, TITLES, ["helps"])["Restoring helps"].endswith(" nats")


def test_a_model_with_two_studies_counts_once():
    comparisons = {**FOUND, "one, again": {"helps": compared([40, 60])}}
    twice = across_models.effects(comparisons, {"theirs"}, {"one, again"})
    pd.testing.assert_frame_equal(
        across_models.over_models(twice), across_models.over_models(EFFECTS)
    )
    text = across_models.results(twice, TITLES)["Restoring helps"]
    assert text == across_models.results(EFFECTS, TITLES)["Restoring helps"]
    assert "one, again" in set(twice["model"])  # it has its row in the figure all the same


def test_the_forest_has_a_row_for_each_model_and_one_over_all():
    figure = across_models.figure(EFFECTS, TITLES, "points")
    figure.draw_without_rendering()
    first, second = figure.axes
    names = [label.get_text() for label in first.get_yticklabels()]
    assert names == ["theirs", "one", "two", "three", across_models.ALL_OURS]
    assert [label.get_text() for label in second.get_yticklabels()] == ["one"]
    assert first.get_title(loc="left") == "Restoring helps"


def test_nothing_measured_is_said():
    empty = across_models.effects({}, ())
    assert empty.empty and across_models.over_models(empty).empty
    assert across_models.results(empty, TITLES) == {}
    across_models.figure(empty, TITLES, "points").draw_without_rendering()
