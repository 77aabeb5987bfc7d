"""Processes that share a study find what one finds: launched by accelerate, or workers."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from repro.errors import ReproError
from repro.study import workers

TWO = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "-m"]


def start(model, data, cache, launcher: list[str], *options: str) -> subprocess.Popen:
    """Start a study through the real command."""
    environment = os.environ | {"REPRO_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, "repro.cli", "run", str(model), "--profile", "smoke"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # What a shell has put in the background ignores interrupts, and so would what it starts.
    pipes["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen([*command, "--data", str(data), *options], env=environment, **pipes)


def run(model, data, cache, launcher: list[str], *options: str) -> dict[str, dict]:
    """Run a study to its end; return its records by key."""
    process = start(model, data, cache, launcher, *options)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert out.count("all are there") == 1  # the first process speaks, no other
    paths = sorted((cache / "records").rglob("*.json"))
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths}


@pytest.fixture(scope="module")
def alone(tiny_model, tiny_facts_folder, tmp_path_factory):
    """A study by one process: (cache, records)."""
    cache = tmp_path_factory.mktemp("alone")
    return cache, run(tiny_model, tiny_facts_folder, cache, ["-m"], "--workers", "1")


def test_two_processes_count_what_one_counts(tiny_model, tiny_facts_folder, tmp_path, alone):
    cache, one = alone
    two = run(tiny_model, tiny_facts_folder, tmp_path / "two", TWO)
    assert one.keys() == two.keys()
    assert {record["provenance"]["processes"] for record in one.values()} == {1}
    assert {record["provenance"]["processes"] for record in two.values()} == {2}
    tables = [path.relative_to(cache) for path in cache.glob("records/*/*.csv")]
    assert tables
    for table in tables:
        assert (cache / table).read_text() == (tmp_path / "two" / table).read_text()
    # What no training touched is the same to the last count.
    for key, record in one.items():
        if record["kind"] == "mastery" or "mastery" in record["params"]:
            if record["kind"] != "finetune":
                assert record["result"] == two[key]["result"]
            else:  # whatever is left for the last batch
                ours, theirs = (r["result"]["losses"] for r in (record, two[key]))
                assert len(ours) == len(theirs)
                for one_loss, other_loss in zip(ours, theirs, strict=True):
                    assert abs(one_loss["loss"] - other_loss["loss"]) < 1e-4
    assert not list((tmp_path / "two").rglob(".*"))


# --- workers ------------------------------------------------------------------------------------


def timeless(records: dict[str, dict]) -> dict[str, dict]:
    results = {key: record["result"] | {"seconds": 0} for key, record in records.items()}
    return {key: (records[key]["params"], result) for key, result in results.items()}


def test_workers_find_the_same_to_the_last_digit(tiny_model, tiny_facts_folder, tmp_path, alone):
    shared = run(tiny_model, tiny_facts_folder, tmp_path, ["-m"], "--workers", "2")
    assert timeless(shared) == timeless(alone[1])
    tables = {p.name: p.read_text() for p in alone[0].glob("records/*/*.csv")}
    assert tables == {p.name: p.read_text() for p in tmp_path.glob("records/*/*.csv")}
    assert len(tables) == 1
    assert not [
        p for p in tmp_path.rglob("*") if p.name.startswith(".") or p.parent.name == "partial"
    ]


def descendants(pid: int) -> list[str]:
    """Return the processes that a process has started and that are running."""
    listing = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True
    )
    return listing.stdout.split()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_study_of_workers_that_is_stopped_goes_on(
    tiny_model, tiny_facts_folder, tmp_path, alone, number
):
    process = start(tiny_model, tiny_facts_folder, tmp_path, ["-m"], "--workers", "2")
    limit = time.monotonic() + 120
    while not list(tmp_path.glob("records/accuracy/*.json")) and time.monotonic() < limit:
        time.sleep(0.01)
    children = descendants(process.pid)
    assert len(children) == 2
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
    assert "Traceback" not in err
    while any(Path("/proc", child).exists() for child in children):
        assert time.monotonic() < limit
        time.sleep(0.01)
    paths = list((tmp_path / "records").rglob("*.json"))
    before = {path: path.stat().st_mtime_ns for path in paths}
    assert 0 < len(before) < len(alone[1])
    rest = run(tiny_model, tiny_facts_folder, tmp_path, ["-m"], "--workers", "2")
    assert timeless(rest) == timeless(alone[1])
    assert {path: path.stat().st_mtime_ns for path in paths} == before


def test_what_a_worker_raises_is_said_in_one_line(tiny_model, tiny_facts_folder, tmp_path):
    options = ["--workers", "2", "--learning-rate", "1e9"]
    process = start(tiny_model, tiny_facts_folder, tmp_path, ["-m"], *options)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1
    last = err.strip().splitlines()[-1]
    assert last.startswith("repro: ") and "learning rate" in last
    assert "Traceback" not in err


def test_a_worker_that_dies_is_an_error(tmp_path):
    with workers.started(1, list) as pool:
        [process] = pool.processes.values()
        process.kill()
        with pytest.raises(ReproError, match=r"ended with status -9, .*--workers 1"):
            list(pool.spread([("records", [])]))


@pytest.mark.parametrize(("jobs", "least", "most"), [(0, 1, 1), (15, 1, 1), (10**6, 1, 10**3)])
def test_few_jobs_start_no_workers(jobs, least, most):
    assert least <= workers.how_many(jobs) <= most
    assert workers.how_many(jobs) <= max(1, len(os.sched_getaffinity(0)))
