"""Records: their keys, writing whole files or none, where they are looked up, and damage."""

import json
import os
import resource
import threading
from contextlib import contextmanager
from dataclasses import replace

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repro import files, paper, provenance
from repro.errors import StoreError
from repro.measures import accuracy, mastery
from repro.study import committed, integrity, records

VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(-1e9, 1e9)
PARAMS = st.dictionaries(st.text(max_size=5), VALUES | st.lists(VALUES, max_size=3), min_size=1)
SETTINGS = {"weights": "sha256:0", "seed": 0, "recipe": {"learning_rate": 1e-5, "batch_size": 8}}
RESULT = {"correct": 3, "total": 5, "hits": accuracy.pack([1, 1, 0, 1, 0]), "tokens": 9}
TABLE = pd.DataFrame(
    {
        "fact_id": ["P17-test-00000", "P19-test-00001", "P17-train-00000"],
        "topic": ["P17", "P19", "P17"],
        "split": ["test", "test", "train"],
        "t00": [1, 0, 2],
        "t01": [2, 0, 1],
    }
)
MASTERY = {
    "facts": {"train": 1, "dev": 0, "test": 2, "testood": 0},
    "protocol": {"templates": 2, "draws": 2},
}
LEVELS = mastery.distribution(mastery.add_levels(TABLE, 4), paper.SPLITS)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Return a folder whose `cache` and `results` the store uses."""
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("REPRO_RESULTS", str(tmp_path / "results"))
    return tmp_path


def record(kind="accuracy", result=None, **params):
    """Return a record of answers, or of mastery, that says nothing impossible."""
    params = {"split": "test", **params} if kind == "accuracy" else {**MASTERY, **params}
    usual = {
        "accuracy": RESULT,
        "divergence": {"table": [{"topic": "P17", "facts": 2, "kl_sum": 0.5}], "facts": 2},
        "mastery": {"counts": LEVELS.to_dict("records"), "table": True},
    }[kind]
    made_at = {"date": "2026-01-02T03:04:05+00:00"}
    return records.Record(
        kind, provenance.key(kind, params), params, usual | (result or {}), made_at
    )


def load(kind="accuracy", **params):
    return records.load(kind, record(kind, **params).params)


def files_in(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


# --- keys -------------------------------------------------------------------------------------


@settings(deadline=None)
@given(PARAMS, st.randoms())
def test_the_order_of_parameters_does_not_change_the_key(params, random):
    names = list(params)
    random.shuffle(names)
    assert provenance.key("run", {name: params[name] for name in names}) == provenance.key(
        "run", params
    )


@settings(deadline=None)
@given(PARAMS, st.data())
def test_every_parameter_changes_the_key(params, data):
    name = data.draw(st.sampled_from(sorted(params)))
    # JSON text decides what is a different value: True and 1 are, 0.0 and 0.0 are not.
    value = data.draw(VALUES.filter(lambda v: json.dumps(v) != json.dumps(params[name])))
    without = {k: v for k, v in params.items() if k != name}
    keys = [provenance.key("run", p) for p in (params, {**params, name: value}, without)]
    assert len(set(keys)) == 3


def test_nested_settings_and_the_kind_are_part_of_the_key():
    keys = {
        provenance.key("finetune", SETTINGS),
        provenance.key("accuracy", SETTINGS),
        provenance.key(
            "finetune", {**SETTINGS, "recipe": {"learning_rate": 1e-5, "batch_size": 16}}
        ),
        provenance.key(
            "finetune", {**SETTINGS, "recipe": {"learning_rate": 1.1e-5, "batch_size": 8}}
        ),
    }
    assert len(keys) == 4
    assert all(len(key) == 16 and int(key, 16) >= 0 for key in keys)


# --- writing ----------------------------------------------------------------------------------


@contextmanager
def files_of_at_most(size):
    """Make every write beyond `size` bytes of a file fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_written_file_is_whole_readable_and_alone(tmp_path):
    path = tmp_path / "a" / "b" / "file.json"
    files.write_atomic(path, "naïve\n")
    files.write_atomic(path, b"second")
    assert path.read_bytes() == b"second"
    assert path.stat().st_mode & 0o777 == 0o644
    assert files_in(tmp_path) == [path]


def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.json"
    files.write_atomic(path, "old")

    def interrupted(error):
        with files.atomic(path) as temporary:
            temporary.write_text("half of the new")
            raise error

    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error):
            interrupted(error)
        assert path.read_text() == "old"
        assert files_in(tmp_path) == [path]


def test_a_full_disk_is_an_error_and_leaves_nothing_half_written(tmp_path):
    path, fresh = tmp_path / "file.json", tmp_path / "fresh.json"
    files.write_atomic(path, "old")
    for target in (path, fresh):
        with (
            files_of_at_most(1000),
            pytest.raises(StoreError, match=r"cannot write .*free space.*REPRO_CACHE") as error,
        ):
            files.write_atomic(target, "x" * 5000)
        assert str(target) in one_line(error)
    assert path.read_text() == "old"
    assert files_in(tmp_path) == [path]
    files.write_atomic(fresh, "x" * 5000)  # the limit, not the file, was the reason


def test_a_reader_never_sees_half_a_file(tmp_path):
    path, contents = tmp_path / "file", [letter * 300_000 for letter in "ab"]
    files.write_atomic(path, contents[0])

    def write():
        for attempt in range(60):
            files.write_atomic(path, contents[attempt % 2])

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while writer.is_alive():
        seen.add(path.read_text())
    writer.join()
    assert seen <= set(contents)


def test_a_cache_blocked_by_a_file(home):
    (home / "cache").write_text("in the way")
    assert load(seed=0) is None
    with pytest.raises(StoreError, match=r"cannot write .*cache.*set REPRO_CACHE") as error:
        records.save(record(seed=0))
    one_line(error)
    assert files_in(home) == [home / "cache"]


@contextmanager
def unprivileged():
    """Act as a user to whom permissions apply: they do not to root."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_folders_that_may_not_be_written_or_read(home, monkeypatch):
    records.save(record(seed=0))
    before = files_in(home)
    folder = home / "cache" / "records" / "accuracy"
    folder.chmod(0o500)
    (home / "results").mkdir()
    home.chmod(0)
    with unprivileged(), pytest.raises(StoreError, match=r"cannot write .*Permission denied"):
        records.save(record(seed=1))
    folder.chmod(0)
    for results, blocked in ((home / "results", "results"), ("/nowhere", "cache")):
        monkeypatch.setenv("REPRO_RESULTS", str(results))
        with (
            unprivileged(),
            pytest.raises(StoreError, match=rf"cannot read .*{blocked}.*Permission denied"),
        ):
            load(seed=0)
    for closed in (home, folder):
        closed.chmod(0o700)
    assert files_in(home) == before


def test_the_table_is_written_before_its_record(home):
    saved = record("mastery", seed=0)
    blocked = home / "cache" / "records" / "mastery" / f"{saved.key}.csv"
    (blocked / "not empty").mkdir(parents=True)
    with pytest.raises(StoreError):
        records.save(saved, TABLE)
    assert files_in(home) == []
    assert load("mastery", seed=0) is None


# --- looking up -------------------------------------------------------------------------------


def test_saved_is_loaded_and_other_parameters_are_not(home):
    saved = record(seed=0, recipe={"learning_rate": 1e-5})
    records.save(saved)
    assert load(recipe={"learning_rate": 1e-5}, seed=0) == saved
    assert load(seed=0, recipe={"learning_rate": 2e-5}) is None
    assert records.load("divergence", saved.params) is None


def test_results_come_before_the_cache(home):
    published, recomputed = record(result={"from": "results"}, seed=0), record(seed=0)
    records.export([published], home / "results" / "model" / "smoke")
    records.save(recomputed)
    assert load(seed=0).result == {**RESULT, "from": "results"}
    records.save(record(seed=1))
    assert load(seed=1).result == RESULT


def test_what_a_killed_process_leaves_is_no_record(home):
    saved = record(seed=0)
    records.save(saved)
    folder = home / "cache" / "records" / "accuracy"
    whole = (folder / f"{saved.key}.json").read_text()
    other = record(seed=1)
    (folder / f".{other.key}.json.abc123").write_text(whole[:40])
    results = home / "results" / "model" / "smoke"
    results.mkdir(parents=True)
    (results / ".accuracy.jsonl.abc123").write_text(whole[:40])
    assert records.load("accuracy", other.params) is None
    assert records.load("accuracy", saved.params) == saved


def test_the_environment_says_where_the_cache_is(home, monkeypatch):
    assert files.cache_dir() == home / "cache"
    monkeypatch.delenv("REPRO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    assert files.cache_dir().name == "repro"
    monkeypatch.delenv("REPRO_RESULTS")
    assert files.results_dir() == files.REPOSITORY / "results"


# --- export -----------------------------------------------------------------------------------


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in files_in(folder)}


def test_export_and_load_again_gives_the_same_records_and_tables(home, monkeypatch):
    saved = [record(seed=n, result={"losses": [0.1 + 0.2, 1e-30 * n]}) for n in (2, 0, 1)]
    tabled = record("mastery", seed=0)
    for one in saved:
        records.save(one)
    records.save(tabled, TABLE)
    folder = home / "results" / "model" / "smoke"
    written = records.export([*saved, tabled], folder)
    assert sorted(written) == files_in(home / "results")
    assert [p.name for p in written] == [
        "accuracy.jsonl",
        "digests.json",
        f"mastery-{tabled.key}.csv",
        "mastery.jsonl",
    ]

    monkeypatch.setenv("REPRO_CACHE", str(home / "empty"))
    again = [records.load(r.kind, r.params) for r in (*saved, tabled)]
    assert again == [*saved, tabled]
    pd.testing.assert_frame_equal(records.load_table(again[-1]), TABLE)

    first = contents(home / "results")
    records.export(again[::-1], folder)  # now from results/ itself, and in another order
    assert contents(home / "results") == first
    assert not (home / "empty").exists()


def test_a_table_inside_a_record_needs_no_file(home):
    inside = record("divergence", seed=0)
    records.save(inside)
    written = records.export([inside], home / "results" / "model" / "smoke")
    assert [path.name for path in written] == ["digests.json", "divergence.jsonl"]
    assert load("divergence", seed=0) == inside


def test_an_export_without_its_table_leaves_no_record(home):
    with pytest.raises(StoreError, match="is missing"):
        records.export([record("mastery", seed=0)], home / "results" / "m" / "smoke")
    assert files_in(home) == []


# --- damage -----------------------------------------------------------------------------------


DAMAGE = {
    "truncated": lambda text: text[: len(text) // 2],
    "empty": lambda text: b"",
    "not text": lambda text: b"\xff\xfe" + text,
    "another shape": lambda text: b"[1, 2]",
    "a field too few": lambda text: text.replace(b'"result"', b'"outcome"'),
    "a number JSON has not": lambda text: text.replace(b'"seed": 0', b'"seed": NaN'),
    "edited parameters": lambda text: text.replace(b'"seed": 0', b'"seed": 1'),
    "another key": lambda text: text.replace(b'"key": "', b'"key": "0'),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("place", ["cache", "results"])
def test_a_damaged_record_is_an_error_that_names_its_file(home, damage, place):
    saved = record(seed=0)
    records.save(saved)
    path = home / "cache" / "records" / "accuracy" / f"{saved.key}.json"
    if place == "results":
        records.export([saved], home / "results" / "model" / "smoke")
        path = home / "results" / "model" / "smoke" / "accuracy.jsonl"
    damaged = DAMAGE[damage](path.read_bytes())
    assert damaged != path.read_bytes()
    path.write_bytes(damaged or b"\n")
    # An empty line in results/ is no record and no damage elsewhere: it is damage here.
    with pytest.raises(StoreError, match="repro check MODEL --repair") as error:
        load(seed=0)
    assert str(path) in one_line(error)


def test_a_record_that_cannot_be_read(home):
    (home / "cache" / "records" / "accuracy" / f"{record(seed=0).key}.json").mkdir(parents=True)
    with pytest.raises(StoreError, match="cannot read") as error:
        load(seed=0)
    one_line(error)


@pytest.mark.parametrize("place", ["cache", "results"])
def test_a_missing_table_is_an_error_that_names_it(home, place):
    saved = record("mastery", seed=0)
    records.save(saved, TABLE)
    if place == "results":
        records.export([saved], home / "results" / "model" / "smoke")
    path = next((home / place).rglob(f"*{saved.key}.csv"))
    path.unlink()
    with pytest.raises(StoreError, match="is missing") as error:
        records.load_table(saved)
    assert str(path) in one_line(error)


def test_a_result_that_is_not_finite_is_not_stored(home):
    with pytest.raises(StoreError, match="not finite") as error:
        records.save(record(seed=0, result={"kl_sum": float("nan")}))
    one_line(error)
    assert files_in(home) == []


# --- digests ----------------------------------------------------------------------------------


def damage_text(path, old, new):
    text = path.read_bytes()
    assert old in text
    path.write_bytes(text.replace(old, new, 1))


@pytest.mark.parametrize("place", ["cache", "results"])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"correct": 3', b'"correct": 4'),
        (b'"correct": 3', b'"correct": -1'),
        (b'"tokens": 9', b'"tokens": 8'),
        (b'"tokens": 9', b'"tokens": NaN'),
        (b'"tokens": 9', b'"tokens": 1e999'),
        (b"2026-01-02", b"2026-01-03"),
    ],
)
def test_a_record_that_was_changed_is_refused_by_name(home, place, old, new):
    saved = record(seed=0)
    records.save(saved)
    path = home / "cache" / "records" / "accuracy" / f"{saved.key}.json"
    if place == "results":
        records.export([saved], home / "results" / "model" / "smoke")
        path = home / "results" / "model" / "smoke" / "accuracy.jsonl"
    assert load(seed=0) == saved
    damage_text(path, old, new)
    committed.forget()
    with pytest.raises(StoreError, match="repro check MODEL --repair") as error:
        load(seed=0)
    assert str(path) in one_line(error)


TABLES = {
    "half": lambda text: text[: len(text) // 2],
    "its last row cut": lambda text: text[: text.rindex(b"\n", 0, -1) + 1],
    "its last row cut in the middle": lambda text: text[:-3],
    "a row twice": lambda text: text + text.splitlines(keepends=True)[-1],
    "a negative count": lambda text: text.replace(b",2\n", b",-2\n"),
    "another count": lambda text: text.replace(b",2\n", b",1\n"),
    "only its header": lambda text: text.splitlines(keepends=True)[0],
    "other columns": lambda text: text.replace(b"t01", b"t02"),
    "text in a count": lambda text: text.replace(b",2\n", b",two\n"),
    "no text": lambda text: b"\xff\xfe" + text,
    "nothing": lambda text: b"",
}


@pytest.mark.parametrize("place", ["cache", "results"])
@pytest.mark.parametrize("digests", ["with digests", "without"])
@pytest.mark.parametrize("damage", TABLES)
def test_a_damaged_table_is_refused_by_name(home, place, digests, damage):
    """Without digests, as records of old are, what it says is compared with what was asked."""
    saved = record("mastery", seed=0)
    records.save(saved, TABLE)
    folder = home / "cache" / "records" / "mastery"
    path = folder / f"{saved.key}.json"
    if place == "results":
        records.export([saved], home / "results" / "model" / "smoke")
        folder = home / "results" / "model" / "smoke"
        path = folder / "digests.json"
    if digests == "without" and place == "results":
        path.unlink()
    elif digests == "without":
        content = json.loads(path.read_bytes())
        del content["digest"], content["table_digest"]
        path.write_text(json.dumps(content))
    committed.forget()
    pd.testing.assert_frame_equal(records.load_table(saved), TABLE)
    (table,) = folder.glob("*.csv")
    changed = TABLES[damage](table.read_bytes())
    assert changed != table.read_bytes()
    table.write_bytes(changed)
    with pytest.raises(StoreError, match="is not a table") as error:
        records.load_table(saved)
    assert str(table) in one_line(error)


def test_line_ends_are_no_damage(home):
    saved = [record(seed=0), record("mastery", seed=0)]
    records.save(saved[0])
    records.save(saved[1], TABLE)
    records.export(saved, home / "results" / "model" / "smoke")
    for path in files_in(home / "results"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    committed.forget()
    assert [records.load(r.kind, r.params) for r in saved] == saved
    pd.testing.assert_frame_equal(records.load_table(saved[1]), TABLE)


def test_a_record_without_a_digest_is_read_only_where_none_has_one(home):
    saved = [record(seed=n) for n in (0, 1)]
    for one in saved:
        records.save(one)
    folder = home / "results" / "model" / "smoke"
    records.export(saved, folder)
    digests = json.loads((folder / "digests.json").read_bytes())
    del digests[saved[0].name]
    (folder / "digests.json").write_text(json.dumps(digests))
    committed.forget()
    assert load(seed=1) == saved[1]
    with pytest.raises(StoreError, match="no digest"):
        load(seed=0)
    (folder / "digests.json").unlink()
    committed.forget()
    assert load(seed=0) == saved[0]


def test_an_export_keeps_records_of_other_kinds_and_their_digests(home):
    folder, other = home / "results" / "model" / "smoke", record("mastery", seed=0)
    records.save(other, TABLE)
    records.export([other], folder)
    (folder / "digests.json").unlink()  # a folder of old
    committed.forget()
    records.save(one := record(seed=0))
    records.export([one], folder)
    assert set(json.loads((folder / "digests.json").read_bytes())) == {
        *(one.name, other.name, f"{other.name}.csv")
    }
    records.save(two := record(seed=1))
    records.export([two], folder)
    assert set(json.loads((folder / "digests.json").read_bytes())) == {
        *(two.name, other.name, f"{other.name}.csv")
    }
    assert records.load("mastery", other.params) == other


@pytest.mark.parametrize("place", ["cache", "results"])
@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (b"null", "NoneType"),
        (b"[1, 2]", "list"),
        (b"[" * 100_000 + b"]" * 100_000, "recursion"),
        (b'{"a": ' * 100_000 + b"1" + b"}" * 100_000, "recursion"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        (b"<<<<<<< HEAD\n{}\n=======\n{}\n>>>>>>> theirs\n", "resolve the merge"),
        (b"", "empty"),
        (b"\xff\xfe", "UTF-8"),
    ],
    ids=["null", "list", "deep list", "deep object", "lfs", "merge", "empty", "bytes"],
)
def test_what_damaged_a_file_is_named(home, place, text, cause):
    saved = record(seed=0)
    records.save(saved)
    path = home / "cache" / "records" / "accuracy" / f"{saved.key}.json"
    if place == "results":
        records.export([saved], home / "results" / "model" / "smoke")
        path = home / "results" / "model" / "smoke" / "accuracy.jsonl"
    path.write_bytes(text)
    committed.forget()
    with pytest.raises(StoreError, match=cause) as error:
        load(seed=0)
    assert str(path) in one_line(error)


def test_damage_to_one_folder_does_not_hide_the_records_of_another(home):
    for model, saved in (("one", record(seed=0)), ("two", record(seed=1))):
        records.save(saved)
        records.export([saved], home / "results" / model / "smoke")
    (home / "results" / "one" / "smoke" / "accuracy.jsonl").write_text("{}\n")
    committed.forget()
    assert load(seed=1) == record(seed=1)
    assert load(seed=2) is None  # the digests of the damaged folder say it never held this one
    with pytest.raises(StoreError, match="is not a record"):
        load(seed=0)


@pytest.mark.parametrize("place", ["cache", "results"])
def test_a_named_pipe_in_place_of_a_record_is_not_waited_for(home, place):
    saved = record(seed=0)
    records.save(saved)
    path = home / "cache" / "records" / "accuracy" / f"{saved.key}.json"
    if place == "results":
        records.export([saved], home / "results" / "model" / "smoke")
        path = home / "results" / "model" / "smoke" / "accuracy.jsonl"
    path.unlink()
    os.mkfifo(path)
    committed.forget()
    with pytest.raises(StoreError, match="not a regular file") as error:
        load(seed=0)
    one_line(error)


def test_the_committed_records_are_as_they_were_written():
    folders = committed.folders(files.REPOSITORY / "results")
    assert len(folders) > 3
    for folder in folders:
        assert folder.digests, f"{folder.path} has no digests.json: repro export writes one"
        assert integrity.check_folder(folder.path) == []


# --- provenance -------------------------------------------------------------------------------


def test_provenance_traces_a_number_and_is_json():
    origin = provenance.provenance(device="cpu", wall_seconds=1.5)
    assert json.loads(json.dumps(origin)) == origin
    assert set(origin) == {
        *("date", "git_commit", "machine", "python", "versions"),
        *("device", "wall_seconds"),
    }
    assert set(origin["versions"]) == set(provenance.PACKAGES)
    assert f"{os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}" in origin["machine"]
    assert replace(record(seed=0), provenance=origin).key == record(seed=0).key
