"""Examples of GSM8K and XSum: read, checked, counted, drawn and cut."""

import json
import os
import re
import subprocess
import sys
from decimal import Decimal

import pytest
from made_up_tasks import SIZES, news, sums, write, write_folder

from repro.data import task_examples, xsum
from repro.data.gsm8k import final_number
from repro.errors import DataError


@pytest.fixture
def folder(tmp_path):
    """Return a folder of made-up examples, to change at will."""
    return write_folder(tmp_path / "examples")


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
        # signs, decimals, fractions, powers of ten
        ("#### -$5", -5),
        ("#### $-5", -5),
        ("#### +3", 3),
        ("#### −5", -5),
        ("#### .5", Decimal("0.5")),
        ("#### -.5", Decimal("-0.5")),
        ("#### 1/2", Decimal("0.5")),
        ("#### 1e3", 1000),
        ("#### 1,000,000", 1_000_000),
        ("#### 18.", 18),
        ("#### 18.\n5 is left", 18),
        ("#### 50% of them", 50),
        ("#### 5kg", 5),
        # not one plain number: never a part of it
        ("#### 1/0", None),
        ("#### --5", None),
        ("#### 2 + 3", None),
        ("#### 3:30", None),
        ("#### 1 1/2", None),
        ("#### 1/2/3", None),
        ("#### 1.2.3", None),
        ("#### 1,2", None),
        ("#### 1 000", None),
        ("#### 1\u00a0000", None),
        ("#### 5 million", None),
        ("#### 5k", None),
        ("#### 1e99999", None),
        ("#### 2 × 3\n#### 6", None),
    ],
)
def test_the_final_number_is_the_marked_one(text, number):
    assert final_number(text) == number


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


def test_a_summary_that_rouge_has_no_word_for_is_skipped(folder):
    rows = news("train", 10) + news("test", 8)
    rows[0]["summary"] = "橋が開いた。"
    write(folder / "xsum/news.jsonl", rows)
    frame, skipped = task_examples.read("xsum", folder)
    assert len(frame) == 17 and skipped == {"without a word that ROUGE knows": 1}


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
    with pytest.raises(DataError) as error:
        task_examples.read(path.partition("/")[0], folder)
    assert re.search(rf"{path}, line \d+: ", str(error.value))
    assert words in str(error.value) and "\n" not in str(error.value)


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
from repro.data import task_examples
from repro.errors import DataError
for task in task_examples.TASKS:
    try:
        task_examples.read(task, task_examples.HUB)
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
    cut = xsum.shorten(tokenizer, texts, 7)
    assert cut[:2] == texts[:2] and texts[2].startswith(cut[2]) and len(cut[2]) > 5
    assert len(tokenizer(cut[2], add_special_tokens=False).input_ids) == 7
