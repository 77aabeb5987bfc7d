"""A study whose facts are chosen by score: its records, their keys, and the estimate."""

from dataclasses import replace

import chosen
import pytest
from chosen import CHOOSE, FACTS

from repro.data import stratified
from repro.errors import ConfigError
from repro.study import calibration, open_study, plan, profiles
from repro.study.requests import missing


@pytest.fixture
def unscored(tmp_path, tiny_model, tiny_facts_folder):
    """Return a study without any record."""
    with chosen.study(tmp_path, tiny_model, tiny_facts_folder) as study:
        yield study


@pytest.fixture(scope="module")
def opened(tmp_path_factory, tiny_model, tiny_facts_folder):
    """Return a study whose scores are there; take a copy to compute more."""
    with chosen.study(tmp_path_factory.mktemp("choice"), tiny_model, tiny_facts_folder) as study:
        study.compute([study.choice.request()])
        yield study


def kinds(requests):
    return [request.kind for request in requests]


def test_scores_come_first_then_mastery_then_the_rest(unscored):
    study = replace(unscored)
    assert kinds(study.all_requests()) == ["score"]
    table = plan.plan(study)  # a plan needs no scores and computes none
    assert table.set_index("kind")["missing"][["score", "mastery"]].tolist() == [1, 1]
    assert missing([study.choice.request()])
    study.compute([study.choice.request()])
    assert kinds(study.all_requests()) == ["score", "mastery"]
    measured = replace(unscored).results.mastery()
    assert measured["split"].value_counts().to_dict() == {
        "train": 18,
        "test": 12,
        "dev": 6,
        "testood": 8,
    }
    assert set(kinds(study.all_requests())) > {"score", "mastery"}
    study.computation.load()
    assert sorted(study.computation.facts["fact_id"]) == sorted(measured["fact_id"])


def test_later_records_name_the_scores_and_the_facts_that_were_drawn(opened):
    study = replace(opened)
    params = study.requests.mastery().params
    assert params["score"] == study.choice.request().key
    assert params["choose"] == CHOOSE and params["facts"] == FACTS
    assert len(params["drawn"]) == 16
    for change in (
        {"facts": {**FACTS, "train": [9, 10]}},
        {"choose": {**CHOOSE, "edges": [-5.0]}},
    ):
        other = replace(opened, profile=replace(opened.profile, **change))
        assert other.choice.request().key == study.choice.request().key
        assert other.requests.mastery().key != study.requests.mastery().key
    other = replace(opened, profile=replace(opened.profile, choose={**CHOOSE, "templates": [0]}))
    assert other.choice.request().key != study.choice.request().key


def test_the_drawn_facts_are_those_of_their_bands(opened):
    study = replace(opened)
    record = study.choice.request().record()
    drawn, scored = study.choice.drawn(record), study.choice.scored(record)
    assert drawn.groupby(["split", "band"]).size().to_dict() == {
        ("test", 0): 6,
        ("test", 1): 6,
        ("train", 0): 8,
        ("train", 1): 10,
    }
    merged = drawn.merge(scored, on=["fact_id", "score"])
    assert len(merged) == len(drawn)
    assert ((merged["score"] >= -4.5) == (merged["band_x"] == 1)).all()
    population = record.result["population"]
    assert {split: sum(topics.values()) for split, topics in population.items()} == {
        "train": 36,
        "test": 36,
    }


def test_the_estimate_stands_for_all_facts(opened):
    table = replace(opened).results.natural_distribution()
    assert table["split"].unique().tolist() == ["train", "test"]
    totals = table.groupby("split")[["share", "drawn"]].sum()
    assert totals["share"].tolist() == pytest.approx([100, 100])
    assert totals["drawn"].to_dict() == {"train": 18, "test": 12}
    assert ((table["low"] <= table["share"]) & (table["share"] <= table["high"])).all()


def test_a_study_whose_facts_are_drawn_at_random_has_no_estimate(
    tiny_model, tiny_facts_folder, tmp_path, monkeypatch
):
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path / "cache"))
    study = open_study(tiny_model, "smoke", tiny_facts_folder)
    assert study.choice is None
    assert "choose" not in study.requests.source
    assert study.results.natural_distribution().empty


def test_counts_that_do_not_fit_the_bands_are_refused(opened):
    profile = replace(opened.profile, facts={**FACTS, "train": [8]})
    with pytest.raises(ConfigError, match="score bands"):
        replace(opened, profile=profile).results.mastery()


def test_every_profile_draws_from_each_band_of_each_split():
    for name in profiles.PROFILES:
        profile = profiles.profile(name)
        for split in profile.choose["candidates"] if profile.choose else ():
            counts, topics = profile.facts[split], 14 if split == "testood" else 10
            assert len(counts) == len(profile.choose["edges"]) + 1
            assert min(counts) >= stratified.CELL * topics


def test_a_plan_times_the_scoring_itself(opened):
    study = replace(opened, seed=7)  # nothing of it is scored yet
    speed = calibration.calibrate(study)
    table = plan.plan(study, speed).set_index("kind")
    candidates, _ = study.choice.to_score()
    assert table["seconds"]["score"] == pytest.approx(speed.scored * len(candidates))
    assert speed.scored > 0 and speed.fact > 0
