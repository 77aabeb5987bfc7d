"""A study is in one number format: that of its first record, else the faster one."""

import json

import pytest

from repro import files, paper, provenance
from repro.errors import ConfigError
from repro.models import devices, registry
from repro.study import number_format, open_study, records, task_study

FACTS = dict.fromkeys(paper.SPLITS, 1)
PARAMS = {"version": 0, "weights": "made up", "facts": FACTS}
LARGE = registry.entry("llama-3-8b")  # its weights are not here
SMALL = registry.entry("micro-s")


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    """Have no record but a test's own, and a machine that is faster in bfloat16."""
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("REPRO_RESULTS", str(tmp_path / "results"))
    measured = {"float32": 2.0, "bfloat16": 1.0}
    monkeypatch.setattr(devices, "_seconds_by_format", lambda shapes, threads, keep: measured)
    return measured


def record(named: dict, dtype: str, date: str) -> None:
    """Write the first record of a study, in a format that its parameters name or not."""
    params = PARAMS | named
    key = provenance.key("mastery", params)
    where = {"date": date, "dtype": dtype}
    result = {"counts": [{"split": split, "level": 0, "count": 1} for split in FACTS]}
    records.save(records.Record("mastery", key, params, result, where))


def chosen(model=LARGE, fixed=None):
    return number_format.choose(model, "mastery", PARAMS, fixed)


def test_without_records_it_is_the_faster_format_and_is_named(empty_cache):
    assert chosen() == ({"dtype": "bfloat16"}, "bfloat16")
    empty_cache["bfloat16"] = 3.0
    assert chosen() == ({"dtype": "float32"}, "float32")


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_the_user_fixes_it(name):
    assert chosen(fixed=name) == ({"dtype": name}, name)


def test_a_small_model_stays_in_float32_and_its_records_do_not_name_it():
    assert chosen(SMALL) == chosen(SMALL, "float32") == ({}, "float32")
    assert chosen(SMALL, "bfloat16") == ({"dtype": "bfloat16"}, "bfloat16")


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_a_record_of_before_that_does_not_name_its_format_decides(name):
    record({}, name, "2026-01-01")
    assert chosen() == chosen(fixed=name) == ({}, name)
    [other] = {"float32", "bfloat16"} - {name}
    assert chosen(fixed=other) == ({"dtype": other}, other)


def test_the_first_of_several_records_decides():
    record({"dtype": "bfloat16"}, "bfloat16", "2026-01-02")
    record({"dtype": "float32"}, "float32", "2026-01-01")
    assert chosen() == ({"dtype": "float32"}, "float32")
    assert chosen(fixed="bfloat16") == ({"dtype": "bfloat16"}, "bfloat16")


def test_mastery_that_was_begun_decides_until_a_record_is_finished():
    key = provenance.key("mastery", PARAMS | {"dtype": "float32"})
    (files.cache_dir() / "partial" / key).mkdir(parents=True)
    assert chosen() == ({"dtype": "float32"}, "float32")
    record({"dtype": "bfloat16"}, "bfloat16", "2026-01-02")
    assert chosen() == ({"dtype": "bfloat16"}, "bfloat16")


@pytest.mark.parametrize("opening", [open_study, task_study.open_task_study])
def test_an_unknown_format_is_refused(opening):
    with pytest.raises(ConfigError, match="number format 'float16'"):
        opening("micro-s", "smoke", dtype="float16")


def test_every_key_of_a_study_names_its_format():
    """Or none does: so that no record of another format is ever taken for this one's."""
    plain, named = (open_study("micro-s", "smoke", dtype=dtype) for dtype in (None, "bfloat16"))
    assert named.requests.source == plain.requests.source | {"dtype": "bfloat16"}
    assert named.requests.mastery().params == plain.requests.mastery().params | {
        "dtype": "bfloat16"
    }


def test_committed_records_are_found_though_they_do_not_name_their_format(monkeypatch):
    monkeypatch.delenv("REPRO_RESULTS")
    for path in sorted(files.results_dir().glob("*/*/mastery.jsonl")):
        for line in path.read_text().splitlines():
            params = json.loads(line)["params"]
            fixed = params.pop("dtype", None)
            model = registry.entry(path.parent.parent.name)
            named, name = number_format.choose(model, "mastery", params, fixed)
            assert records.load("mastery", params | named).provenance["dtype"] == name
