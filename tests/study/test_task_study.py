"""GSM8K and XSum: examples, scores, what is run and what the page shows, on a tiny model."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
import torch

from repro import cli, provenance
from repro.claims import claims
from repro.claims.sources import Side
from repro.data import task_examples
from repro.data.gsm8k import final_number
from repro.errors import ConfigError, DataError
from repro.inference.decoding import Prompt
from repro.measures import accuracy
from repro.measures.task_scores import METRICS, score
from repro.models import loading
from repro.report import html, tasks
from repro.restoration import restore
from repro.study import records, requests, task_results, task_study
from repro.study.requests import REGION
from repro.training import sft
from repro.training.prompts import encode_prompts
from repro.training.recipe import Recipe

SIZES = {"train": 8, "test": 6}


def sums(first: int, count: int) -> list[dict]:
    return [
        {
            "question": f"What is {n} + 2?",
            "answer": f"{n} + 2 = <<{n}+2={n + 2}>>{n + 2}\n#### {n + 2}",
        }
        for n in range(first, first + count)
    ]


def news(split: str, count: int) -> list[dict]:
    text = "The town of Ova {} has opened a long bridge over the river and many people came."
    return [
        {"document": text.format(n) * 2, "summary": f"Bridge {n} has opened.", "split": split}
        for n in range(count)
    ]


def write(path, rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def folder(tmp_path):
    """Return made-up examples: XSum in one file with both splits, and with one to be ignored."""
    made = tmp_path / "examples"
    write(made / "gsm8k/train.jsonl", sums(0, 12))
    write(made / "gsm8k/test.jsonl", sums(50, 9))
    write(made / "xsum/news.jsonl", news("train", 12) + news("validation", 3) + news("test", 9))
    return made


# --- scores ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so 2 + 2 = 4\n#### 4", 4),
        ("#### $1,234.50 ", Decimal("1234.5")),
        ("####-7", -7),
        ("#### 18.00", 18),
        ("#### 3\n#### 5", 3),
        ("the answer is 4", None),
        ("#### four", None),
        ("", None),
    ],
)
def test_the_final_number_is_the_marked_one(text, number):
    assert final_number(text) == number


def test_gsm8k_is_right_or_wrong_and_counts_what_has_no_number():
    answers = ["1 + 1 = 2 #### 2", "#### 2.0", "2", "#### 3", "#### 1,000"]
    done = score("gsm8k", answers, ["#### 2", "#### 2", "#### 2", "#### 2", "#### 1000"])
    assert done.values == {"gsm8k_accuracy": [1, 1, 0, 0, 1]}
    assert done.blank == 1


def test_rouge_by_hand():
    done = score("xsum", ["The cats sat", "a b c d", " . "], ["cat sits the", "a b c d", "a"])
    one, two, longest = (done.values[metric] for metric in METRICS["xsum"])
    assert one == [pytest.approx(2 / 3, abs=1e-6), 1, 0]  # the and cat (stemmed), of three each
    assert two == [0, 1, 0]
    assert longest == [pytest.approx(1 / 3, abs=1e-6), 1, 0]  # one word at most is in order
    assert done.blank == 1


# --- examples -------------------------------------------------------------------------------------


def test_examples_are_drawn_by_the_seed_alone_and_keep_their_split(folder):
    for task in task_examples.TASKS:
        drawn = task_examples.draw(task, folder, SIZES, 0)
        assert (len(drawn.train), len(drawn.test), drawn.divided) == (8, 6, False)
        assert set(drawn.train["split"]) == {"train"} and set(drawn.test["split"]) == {"test"}
        again = task_examples.draw(task, folder, SIZES, 0)
        assert again.digests == drawn.digests
        assert task_examples.draw(task, folder, SIZES, 1).digests != drawn.digests
        every = task_examples.draw(task, folder, {"train": "all", "test": "all"}, 0)
        assert (len(every.train), len(every.test)) == (12, 9)


def test_notes_for_a_calculator_are_left_out(folder):
    frame, skipped = task_examples.read("gsm8k", folder)
    assert frame["object"].iloc[3] == "3 + 2 = 5\n#### 5"
    assert frame["fact_id"].iloc[3] == "gsm8k-train-000003" and skipped == {}


def test_data_of_one_split_are_divided_without_an_overlap(folder):
    write(folder / "xsum/news.jsonl", news("test", 14))
    drawn = task_examples.draw("xsum", folder, SIZES, 0)
    assert drawn.divided and (len(drawn.train), len(drawn.test)) == (8, 6)
    assert not set(drawn.train["fact_id"]) & set(drawn.test["fact_id"])
    with pytest.raises(DataError, match="one split only"):
        task_examples.draw("xsum", folder, {"train": "all", "test": 3}, 0)
    with pytest.raises(DataError, match=r"xsum .*train: too few usable .*9 facts .* there are 8"):
        task_examples.draw("xsum", folder, {"train": 9, "test": 6}, 0)


def test_what_cannot_be_used_is_counted(folder):
    rows = sums(0, 12)
    rows[2]["answer"] = "no number here"
    rows[5]["answer"] = " "
    write(folder / "gsm8k/train.jsonl", rows)
    drawn = task_examples.draw("gsm8k", folder, SIZES, 0)
    assert drawn.skipped == {"with an empty answer": 1, "without a number": 1}
    rows = news("train", 10) + news("test", 8)
    rows[0]["document"] = "\n"
    rows[1]["document"] = ""
    write(folder / "xsum/news.jsonl", rows)
    frame, skipped = task_examples.read("xsum", folder)
    assert len(frame) == 16 and skipped == {"with an empty document": 2}


def broken(folder, path: str, row: dict | str) -> None:
    text = row if isinstance(row, str) else json.dumps(row)
    with (folder / path).open("a") as file:
        file.write(text)


DOCUMENT = {"document": "d", "split": "train"}
SUMMARY = {"document": "d", "summary": "s"}
WRONG = {
    "missing column": ("xsum/news.jsonl", DOCUMENT, "line 25: there is no text named 'summary'"),
    "missing split": ("xsum/news.jsonl", SUMMARY, "there is no text named 'split'"),
    "odd split": ("xsum/news.jsonl", {**SUMMARY, "split": "Train"}, "the split is 'Train'"),
    "null": ("gsm8k/test.jsonl", {"question": None, "answer": "#### 1"}, "named 'question'"),
    "truncated": ("gsm8k/train.jsonl", '{"question": "W', "line 13: truncated or not JSON"),
    "no object": ("gsm8k/train.jsonl", "[1]", "not a JSON object"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_broken_file_is_named_with_its_line(folder, name):
    path, row, words = WRONG[name]
    broken(folder, path, row)
    with pytest.raises(DataError) as told:
        task_examples.read(path.partition("/")[0], folder)
    assert re.search(rf"{path}, line \d+: ", str(told.value))
    assert words in str(told.value) and "\n" not in str(told.value)


def test_missing_files_are_named(folder, monkeypatch):
    (folder / "gsm8k/test.jsonl").unlink()
    (folder / "xsum/news.jsonl").unlink()
    for task, name in (("gsm8k", "test.jsonl"), ("xsum", r"\*.jsonl")):
        with pytest.raises(DataError, match=rf"cannot read .*{name} .*REPRO_TASKS must name"):
            task_examples.read(task, folder)
    with pytest.raises(DataError, match="does not exist"):
        task_examples.source(folder / "no")
    monkeypatch.setenv("REPRO_TASKS", str(folder))
    assert task_examples.source() == folder and task_examples.source("hub") == task_examples.HUB
    monkeypatch.delenv("REPRO_TASKS")
    assert task_examples.source() is None


def test_nothing_usable_is_an_error_that_counts(folder):
    write(folder / "gsm8k/test.jsonl", [{"question": "q", "answer": "none"}] * 3)
    write(folder / "gsm8k/train.jsonl", [{"question": "q", "answer": "none"}])
    with pytest.raises(DataError, match=r"4 without a number skipped.*too few usable"):
        task_examples.draw("gsm8k", folder, SIZES, 0)


def test_the_hub_needs_a_package_and_says_which(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)  # as where it is not installed
    with pytest.raises(DataError, match=r"pip install -e '\.\[hub\]'"):
        task_examples.read("xsum", task_examples.HUB)


def test_an_unreachable_hub_is_one_line(tmp_path):
    pytest.importorskip("datasets")
    code = """
from repro import task_data
from repro.errors import DataError
for task in task_data.TASKS:
    try:
        task_data.read(task, task_data.HUB)
    except DataError as error:
        print(error)
"""
    away = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **away}, capture_output=True, text=True
    )
    lines = done.stdout.splitlines()
    assert [line.partition(" from")[0] for line in lines] == [
        "cannot get openai/gsm8k",
        "cannot get EdinburghNLP/xsum",
    ]
    assert all("try again, or REPRO_TASKS must name a folder" in line for line in lines)


def test_documents_are_cut_to_tokens(tiny_loaded):
    tokenizer, texts = tiny_loaded[1], ["", "Ova", "The bridge of Ova é is open " * 5]
    cut = task_examples.shorten(tokenizer, texts, 7)
    assert cut[:2] == texts[:2] and texts[2].startswith(cut[2]) and len(cut[2]) > 5
    assert len(tokenizer(cut[2], add_special_tokens=False).input_ids) == 7


# --- runs -----------------------------------------------------------------------------------------


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
    kept = {p: p.stat().st_mtime_ns for p in (place / "cache/records").rglob("*.json")}
    assert trial.run() == 1
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
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
    asked = [Prompt(ids) for ids in encode_prompts(tokenizer, examples.test["question"])]
    done = accuracy.answer(network, tokenizer, asked, max_new_tokens=8)
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


# --- the page, the claims, the command ------------------------------------------------------------


def test_a_model_of_an_invented_world_has_no_part_in_it(place, folder, monkeypatch):
    with pytest.raises(ConfigError, match="choose a model of real text"):
        task_study.open_task_study("micro-m", "smoke", folder)
    monkeypatch.setenv("REPRO_TASKS", str(folder))
    shown, told = tasks.shown("micro-m", "smoke")
    assert "Table 5 does not apply" in told
    assert shown.results.means().empty and shown.requests() == []


def test_what_is_not_measured_says_what_to_set(place, tiny_model):
    shown, told = tasks.shown(str(tiny_model), "smoke")
    assert told.startswith("Nothing is measured yet") and "REPRO_TASKS must name" in told
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
    found = claims.judge(claim, made_up(0.05))
    assert (found.verdict, set(found.rows["interval"])) == (claims.HOLDS, {"paired"})
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
    for data, told in wrong.items():
        assert cli.main([*words[:-1], data]) == 1
        assert capsys.readouterr().err.startswith(f"repro: {told}")
    for model, told in (("nonsense", "unknown model"), ("micro-m", "micro-m has read nothing")):
        assert cli.main([words[0], model, *words[2:]]) == 1
        assert capsys.readouterr().err.startswith(f"repro: ConfigError: {told}")
