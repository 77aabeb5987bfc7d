"""Damaged files of records and of examples: a named error or what was written, nothing else."""

import json
import os
import string

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_records import record

from repro.data import task_examples
from repro.errors import DataError, StoreError
from repro.study import committed, records

QUICK = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@st.composite
def damages(draw):
    """Return a function that changes bytes: cuts them off, replaces, doubles or removes some."""
    place, length = draw(st.floats(0, 1)), draw(st.integers(0, 30))
    kind = draw(st.sampled_from(["cut", "replace", "double", "remove"]))
    new = draw(st.binary(min_size=length, max_size=length))

    def damage(content: bytes) -> bytes:
        at = int(place * len(content))
        before, part, after = content[:at], content[at : at + length], content[at + length :]
        inserted = {"cut": None, "replace": new, "double": part + part, "remove": b""}[kind]
        return before if inserted is None else before + inserted + after

    return damage


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Return a folder with one record in the cache, and another in `results/` with its digest."""
    folder = tmp_path_factory.mktemp("records")
    before = {name: os.environ.get(name) for name in ("REPRO_CACHE", "REPRO_RESULTS")}
    os.environ |= {"REPRO_CACHE": str(folder / "cache"), "REPRO_RESULTS": str(folder / "results")}
    cached, exported, other = record(seed=0), record(seed=1), record("divergence", seed=2)
    records.save(cached)
    records.export([exported, record(seed=3), other], folder / "results" / "m" / "p")
    yield folder, cached, exported
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value
    committed.forget()


def check_damaged(path, content: bytes, original, whole: bytes) -> None:
    """Write a damaged file; a record is then refused, absent or the one that was written."""
    path.write_bytes(content)
    committed.forget()
    try:
        loaded = records.load(original.kind, original.params)
        assert loaded is None or loaded == original
        for match in records.matching(original.kind, {"split": "test"}):
            assert match in (original, record(seed=0), record(seed=1), record(seed=3))
    except StoreError as error:
        assert "\n" not in str(error)
    finally:
        path.write_bytes(whole)
        committed.forget()


@QUICK
@given(damage=damages())
def test_a_damaged_record_in_the_cache_is_never_another_one(home, damage):
    folder, cached, _ = home
    [path] = (folder / "cache" / "records" / "accuracy").glob("*.json")
    whole = path.read_bytes()
    check_damaged(path, damage(whole), cached, whole)


@QUICK
@given(damage=damages(), name=st.sampled_from(["accuracy.jsonl", "digests.json"]))
def test_a_damaged_file_of_results_never_gives_another_record(home, damage, name):
    folder, _, exported = home
    path = folder / "results" / "m" / "p" / name
    whole = path.read_bytes()
    check_damaged(path, damage(whole), exported, whole)


@QUICK
@given(
    value=VALUES | st.fixed_dictionaries(dict.fromkeys(("kind", "key", "params", "result"), VALUES))
)
def test_json_that_is_no_record_is_refused(home, value):
    folder, cached, _ = home
    [path] = (folder / "cache" / "records" / "accuracy").glob("*.json")
    check_damaged(path, json.dumps(value).encode(), cached, path.read_bytes())


LINES = st.lists(
    st.fixed_dictionaries({"question": st.text(max_size=5) | VALUES, "answer": VALUES})
    | st.fixed_dictionaries({"question": st.text("ab", min_size=1), "answer": st.just("#### 1")})
    | VALUES,
    max_size=4,
)


@QUICK
@given(rows=LINES, blank=st.sampled_from(["\n", "\n\n", "\r\n", "\n \n", ""]))
def test_examples_are_all_read_or_a_line_is_named(tmp_path, rows, blank):
    folder = tmp_path / "gsm8k"
    folder.mkdir(exist_ok=True)
    text = "".join(json.dumps(row) + (blank or "\n") for row in rows)
    for split in task_examples.SPLITS:
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8", newline="")
    try:
        frame, skipped = task_examples.read("gsm8k", tmp_path)
    except DataError as error:
        assert "line " in str(error) and "\n" not in str(error)
        usable = [r for r in rows if isinstance(r, dict)]
        texts = [r.get(name) for r in usable for name in ("question", "answer")]
        halves = any(
            isinstance(t, str) and any("\ud800" <= c <= "\udfff" for c in t) for t in texts
        )
        assert len(usable) < len(rows) or halves or not all(isinstance(t, str) for t in texts)
        return
    assert len(frame) + sum(skipped.values()) == 2 * len(rows)


@QUICK
@given(text=st.binary(max_size=60) | st.text(string.printable, max_size=60).map(str.encode))
def test_examples_of_any_bytes_are_read_or_a_line_is_named(tmp_path, text):
    folder = tmp_path / "gsm8k"
    folder.mkdir(exist_ok=True)
    for split in task_examples.SPLITS:
        (folder / f"{split}.jsonl").write_bytes(text)
    try:
        frame, skipped = task_examples.read("gsm8k", tmp_path)
    except DataError as error:
        assert "\n" not in str(error)
        return
    assert not text.strip() and frame.empty and not skipped
