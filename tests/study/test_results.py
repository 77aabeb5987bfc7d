"""What is committed in results/ is whole, readable, and what the registry says follows from it."""

import pandas as pd
import pytest

from repro import files
from repro.models import registry
from repro.report import scale
from repro.statistics import summary
from repro.study import Study, open_study, profiles, task_results, task_study
from repro.study.requests import missing

FOLDERS = sorted(
    folder
    for folder in files.results_dir().glob("*/*/")
    if folder.parent.name in registry.entries() and folder.name in profiles.PROFILES
)
STUDIES = [(f.parent.name, f.name) for f in FOLDERS if (f / "accuracy.jsonl").exists()]
MASTERY = [(f.parent.name, f.name) for f in FOLDERS if not (f / "accuracy.jsonl").exists()]


@pytest.fixture(params=STUDIES, ids="/".join)
def measured(request, tmp_path, monkeypatch):
    """Return a committed study, of which nothing is computed: a record that is missing fails."""

    def only_read(self, tasks, workers=None):
        assert not missing(tasks), "no record in results/: repro run, then repro export"

    monkeypatch.setenv("REPRO_CACHE", str(tmp_path))
    monkeypatch.delenv("REPRO_DATA", raising=False)
    monkeypatch.setattr(Study, "compute", only_read)
    return open_study(*request.param)


def test_the_default_study_is_committed():
    usual = registry.entry(registry.DEFAULT_MODEL).profile or profiles.DEFAULT_PROFILE
    assert (registry.DEFAULT_MODEL, usual) in STUDIES


@pytest.mark.parametrize("model_and_profile", MASTERY, ids="/".join)
def test_where_only_mastery_was_measured_it_is_that_of_the_weights(model_and_profile):
    alone = open_study(*model_and_profile)
    assert missing([alone.requests.mastery()]) == []
    assert alone.results.mastery()["level"].nunique() == 5


def test_nothing_is_missing(measured):
    tasks = measured.all_requests()
    assert len(tasks) > 1 and missing(tasks) == []


def test_table_5_is_whole_or_absent(measured):
    requests = task_study.TaskStudy(measured.model, measured.profile).requests()
    expected = len(task_results.TITLES) * (1 + len(measured.profile.tasks["percents"]))
    assert len(requests) in (0, expected)
    assert missing(requests) == []


def test_the_learning_rate_is_the_best_on_dev(measured):
    rates = scale.learning_rate_means(measured.results.learning_rates())
    assert len(rates) == len(measured.profile.rates)
    assert scale.best_rate(rates) == measured.model.learning_rate


def test_best_rate_counts_right_answers_and_prefers_the_smaller():
    rates = pd.DataFrame({"learning_rate": [1e-3, 1e-4, 1e-5], "correct": [7, 7, 3]})
    assert scale.best_rate(rates) == 1e-4
    assert scale.best_rate(rates.iloc[:0]) is None


def test_answers_never_exceed_questions_and_cover_the_split(measured):
    frame = measured.results.accuracy()
    assert (frame["correct"] <= frame["total"]).all() and (frame["total"] > 0).all()
    questions = frame[frame["split"] == "test"].groupby(["run", "restored_percent"])["total"].sum()
    in_profile = measured.profile.number_of_facts("test")
    facts = measured.results.mastery()["split"].value_counts()
    assert set(questions) == {facts["test"]}
    # Where facts are chosen by score, a band may hold fewer candidates than the profile asks for.
    drawn_by_score = measured.profile.choose is not None
    assert in_profile in ("all", facts["test"]) or (drawn_by_score and facts["test"] < in_profile)


def test_intervals_hold_their_accuracy(measured):
    rows = summary.acc(measured.results.accuracy(), ["run", "restored_percent", "split"])
    assert (rows["low"] <= rows["accuracy"]).all() and (rows["accuracy"] <= rows["high"]).all()


def test_every_record_says_where_it_comes_from(measured):
    rows = measured.records()
    columns = ["wall_seconds", "date", "git_commit", "device", "dtype", "weights", "data", "model"]
    assert rows[columns].notna().all().all()
