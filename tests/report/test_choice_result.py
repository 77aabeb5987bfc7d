"""How facts were chosen by score: bands, what it does in a level, levels that stay too small."""

from dataclasses import replace

import chosen
import numpy as np
import pandas as pd
import pytest

from repro.report import choice, mastery
from repro.study import open_study


@pytest.fixture(scope="module")
def study(tmp_path_factory, tiny_model, tiny_facts_folder):
    """Return a study whose facts are chosen by score, in a cache of its own."""
    folder = tmp_path_factory.mktemp("choice")
    with chosen.study(folder, tiny_model, tiny_facts_folder) as opened:
        opened.results.mastery()
        yield opened


def test_scored_facts_have_a_weight_where_they_were_drawn(study):
    scored = study.results.scored()
    assert scored["split"].value_counts().to_dict() == {"train": 36, "test": 30}
    drawn = scored[scored["weight"].notna()]
    assert drawn["split"].value_counts().to_dict() == {"train": 18, "test": 12}
    assert drawn["level"].notna().all() and scored["level"].notna().sum() == len(drawn)
    assert drawn.groupby("split")["weight"].sum().to_dict() == pytest.approx(
        {"train": 36, "test": 36}
    )
    estimated = study.results.natural_distribution().set_index(["split", "level"])["share"]
    weights = drawn.groupby(["split", "level"])["weight"].sum() / 0.36
    for (split, level), weight in weights.items():
        assert estimated[split, level] == pytest.approx(weight)


def test_bands_count_what_was_scored_and_drawn(study):
    scored = study.results.scored()
    table = choice.bands(scored, study.choice.edges)
    assert table["split"].tolist() == ["Training"] * 2 + ["In-domain"] * 2
    assert table["scores"].tolist() == ["below −4.5", "from −4.5"] * 2
    assert table["drawn"].tolist() == [8, 10, 6, 6]
    assert table["scored"].sum() == len(scored)
    levels = table[[f"level {level}" for level in range(5)]].sum(axis=1)
    assert levels.tolist() == table["drawn"].tolist()


def test_within_a_level_the_mean_of_the_drawn_is_set_beside_that_of_all():
    scored = pd.DataFrame(
        {
            "split": "train",
            "score": [-4.0, -2.0, -9.0],
            "band": [0, 1, 0],
            "level": [1.0, 1.0, np.nan],
            "weight": [3.0, 1.0, np.nan],
        }
    )
    (row,) = choice.within_levels(scored).to_dict("records")
    assert (row["level"], row["drawn"], row["stand_for"]) == (1, 2, 4)
    assert (row["score_of_drawn"], row["score_of_all"]) == (-3.0, -3.5)
    assert row["worth"] == pytest.approx(16 / 10)


def test_levels_that_are_too_small_are_named_with_the_facts_scored(study):
    scored = study.results.scored()
    missing = choice.unfilled(study.results.distribution(), scored)
    assert len(missing) == 10 and set(missing["scored"]) == {36, 30}
    assert missing.set_index(["split", "level"])["needed"]["train", 4] == 60
    text = choice.filling(study, scored)
    assert "in-domain level 4 (" in text and " facts after 36 were scored)" in text
    enough = study.results.distribution().assign(count=240)
    assert choice.unfilled(enough, scored).empty


def test_the_page_says_how_facts_were_chosen(study):
    text = choice.how(study, study.results.scored())
    assert "scored 36 of 36 training facts and 30 of 36 in-domain facts" in text
    assert "mapping templates 1, 4 of Tables" in text and "each of 2 score bands" in text
    assert "30 in all" in text and "over-represented" in text
    assert "below −4.5" in choice.tables(study, study.results.scored()).html


def test_of_facts_drawn_at_random_nothing_is_claimed(study, tiny_model, tiny_facts_folder):
    plain = open_study(tiny_model, "smoke", tiny_facts_folder)
    scored = plain.results.scored()
    assert scored.empty and mastery.weighted(plain.results.mastery(), scored)["weight"].eq(1).all()
    assert "chosen by score" not in choice.how(plain, scored)
    assert "–" in choice.tables(plain, scored).html
    assert "were scored" not in choice.filling(replace(plain), scored)
