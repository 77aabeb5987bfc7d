"""GSM8K and XSum on a tiny model: what is run, and what the page shows."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from made_up_tasks import sums, write, write_folder

from repro import cli, provenance
from repro.claims import claims
from repro.claims.sources import Side
from repro.data.gsm8k import final_number
from repro.errors import ConfigError
from repro.inference.decoding import Prompt
from repro.measures import accuracy
from repro.measures.task_scores import METRICS
from repro.models import loading
from repro.report import html, tasks
from repro.restoration import restore
from repro.study import records, requests, task_results, task_study
from repro.study.requests import REGION
from repro.training import sft
from repro.training.prompts import encode_prompts
from repro.training.recipe import Recipe


@pytest.fixture
def folder(tmp_path):
    """Return a folder of made-up examples, to change at will."""
    return write_folder(tmp_path / "examples")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Return a folder whose cache and results are the test's own; nothing names examples."""
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("REPRO_RESULTS", str(tmp_path / "results"))
    monkeypatch.delenv("REPRO_TASKS", raising=False)
    return tmp_path


@pytest.fixture
def trial(place, folder, tiny_model):
    opened = task_study.open_task_study(tiny_model, "smoke", folder)
    return replace(opened, model=replace(opened.model, learning_rate=1e-3))


def results(trial):
    return [(r.kind, r.key, r.result) for r in requests.finished(trial.requests())]


def test_it_computes_once_goes_on_and_is_read_without_examples(trial, place, tiny_loaded):
    assert trial.results.means().empty and trial.run() == 8 and trial.run() == 0
    blind = replace(trial, data=None)
    assert results(blind) == results(trial) and blind.run() == 0
    means = blind.results.means()
    pd.testing.assert_frame_equal(means, trial.results.means())
    assert len(means) == 3 * 4 and (means["total"] == 6).all()
    assert (means["low"] <= means["accuracy"]).all() and (means["accuracy"] <= means["high"]).all()
    assert list(blind.results.training()["cut_documents"]) == [0, 8]
    assert list(blind.results.training()["rows_skipped"]) == ["none", "none"]
    assert (blind.results.answers()["cut"] <= blind.results.answers()["questions"]).all()
    assert len(blind.results.differences()) == 2 * 4 and set(blind.records()["kind"]) == {
        "task_finetune",
        "task_score",
    }
    parameters = restore.pair(*[restore.snapshot(tiny_loaded[0])] * 2, REGION).parameters
    restored = {share: record.result["restored"] for _, share, record in trial.results._scores()}
    assert restored == {x: restore.how_many(parameters, x) for x in (0.0, 20.0, 60.0)}
    check_by_hand(trial)

    before = results(trial)
    lost = [t for t in trial.requests() if t.kind == "task_score"][1]
    path = place / "cache/records/task_score" / f"{provenance.key(lost.kind, lost.params)}.json"
    path.unlink()
    times = {p: p.stat().st_mtime_ns for p in (place / "cache/records").rglob("*.json")}
    assert trial.run() == 1
    assert {p: p.stat().st_mtime_ns for p in times} == times
    assert [(k, r) for k, _, r in results(trial) if k == "task_score"] == [
        (k, r) for k, _, r in before if k == "task_score"
    ]

    files = blind.export()
    names = ["digests.json", "task_finetune.jsonl", "task_score.jsonl"]
    assert sorted(f.name for f in files) == names
    assert files[0].parent == place / "results/tiny-llama/smoke"
    (place / "cache").rename(place / "elsewhere")
    pd.testing.assert_frame_equal(blind.results.means(), means)


def check_by_hand(trial) -> None:
    """Fine-tune and answer without a session, and compare with the share 0 of GSM8K."""
    network, tokenizer = loading.load_model(trial.model, torch.float32)
    examples = trial.examples("gsm8k")
    recipe = trial.finetune_request("gsm8k").params["recipe"]
    sft.finetune(network, tokenizer, examples.train, Recipe(**recipe))
    prompts = [Prompt(ids) for ids in encode_prompts(tokenizer, examples.test["question"])]
    done = accuracy.answer(network, tokenizer, prompts, max_new_tokens=8)
    record = trial.score_requests("gsm8k")[0].record()
    assert record.result["tokens"] == sum(len(c.ids) for c in done) > 6
    texts = [c.text for c in done]
    assert record.result["blank"] == sum(final_number(text) is None for text in texts)


def test_other_examples_are_other_records(trial, folder):
    keys = {provenance.key(t.kind, t.params) for t in trial.requests()}
    rows = sums(50, 9)
    rows[0]["answer"] = "#### 1"
    write(folder / "gsm8k/test.jsonl", rows[:6])
    again = {provenance.key(t.kind, t.params) for t in replace(trial).requests()}
    assert len(keys) == 8 and len(keys & again) == 5  # all but the three scores of GSM8K


def test_without_examples_the_last_measured_is_read(place, trial):
    for day, data in (("2026-01-02", "b"), ("2026-01-03", "a"), ("2026-01-01", "c")):
        params = {"task": "gsm8k", "data": data, "train": 8}
        key = provenance.key("task_finetune", params)
        result = {"loss": [0.5], "steps": 1, "examples": 8}
        records.save(records.Record("task_finetune", key, params, result, {"date": day}))
    part = {"task": "gsm8k", "train": 8}
    assert [r.params["data"] for r in records.matching("task_finetune", part)] == ["c", "b", "a"]
    assert records.matching("task_finetune", {"task": "xsum"}) == []
    assert records.matching("task_score", part) == []


def test_rules_of_another_version_are_other_records(trial, monkeypatch):
    scores = trial.score_requests("gsm8k")
    assert scores[0].params["scoring"] == 2
    monkeypatch.setattr(task_study.task_scores, "VERSION", 3)
    again = replace(trial).score_requests("gsm8k")
    assert not {t.key for t in scores} & {t.key for t in again}


def test_committed_scores_follow_the_present_rules():
    requests = task_study.open_task_study("smollm2-135m", "quick").requests()
    scores = [r for r in requests if r.kind == "task_score"]
    assert len(scores) == 10
    for request in scores:
        assert request.params["scoring"] == task_study.task_scores.VERSION
        assert request.record()


# --- the page, the claims, the command ------------------------------------------------------------


def test_a_model_of_an_invented_world_has_no_part_in_it(place, folder, monkeypatch):
    with pytest.raises(ConfigError, match="choose a model of real text"):
        task_study.open_task_study("micro-m", "smoke", folder)
    monkeypatch.setenv("REPRO_TASKS", str(folder))
    shown, text = tasks.shown("micro-m", "smoke")
    assert "Table 5 does not apply" in text
    assert shown.results.means().empty and shown.requests() == []


def test_what_is_not_measured_says_what_to_set(place, tiny_model):
    shown, text = tasks.shown(str(tiny_model), "smoke")
    assert text.startswith("Nothing is measured yet") and "REPRO_TASKS must name" in text
    frames = shown.results
    for frame in (frames.training, frames.answers, frames.differences, frames.means):
        assert "Nothing" in html.table(frame(), "Nothing").html
    assert "<table" in tasks.table(frames.means(), "Nothing").html


def test_table_5_is_shaded_by_the_difference_from_no_restoration():
    page = tasks.table(tasks.published(), "Table 5").html
    assert page.count("57.69") == 4 and "+1.91" in page and "−57.69" in page
    assert page.count("ROUGE-") == 3


def made_up(gain: float) -> Side:
    """Return measures of 60 questions, of which restoring 20 % improves most by `gain`."""
    generator, rows = np.random.default_rng(0), []
    for metric in (m for group in METRICS.values() for m in group):
        base = generator.uniform(0.2, 0.5, 60)
        for share, values in ((0.0, base), (20.0, base + gain * generator.uniform(0.5, 1, 60))):
            rows.append((metric, share, 0, values, np.ones(60), np.zeros(60)))
    units = pd.DataFrame(rows, columns=task_results.UNITS)
    means = units[["metric", "restored_percent"]].assign(
        accuracy=[100 * v.mean() for v in units["values"]]
    )
    means = means.assign(low=means["accuracy"] - 5, high=means["accuracy"] + 5)
    return Side("ours", {"tasks": means}, {"tasks": units})


def test_the_claims_judge_our_runs_of_table_5():
    claim = claims.load()["other-tasks"]
    assert claim.notebook == "06_tasks"
    finding = claims.judge(claim, made_up(0.05))
    assert (finding.verdict, set(finding.rows["interval"])) == (claims.HOLDS, {"paired"})
    assert claims.judge(claim, made_up(-0.05)).verdict == claims.UNDECIDED  # best is 0
    assert claims.judge(claim, Side("ours", {})).verdict == claims.NOT_TESTABLE


def test_the_command_runs_exports_and_refuses_in_one_line(place, folder, tiny_model, capsys):
    words = ["tasks", str(tiny_model), "--profile", "smoke", "--data", str(folder)]
    assert cli.main(words) == 0
    assert capsys.readouterr().out == "tiny-llama smoke: 8 new records, all are there\n"
    assert cli.main(words) == 0
    assert "0 new records" in capsys.readouterr().out
    wrong = {
        str(folder / "no"): "DataError: the folder",
        str(folder / "xsum"): "DataError: cannot read",
    }
    for data, message in wrong.items():
        assert cli.main([*words[:-1], data]) == 1
        assert capsys.readouterr().err.startswith(f"repro: {message}")
    for model, message in (
        ("nonsense", "unknown model"),
        ("micro-m", "micro-m was trained only on"),
    ):
        assert cli.main([words[0], model, *words[2:]]) == 1
        assert capsys.readouterr().err.startswith(f"repro: ConfigError: {message}")
