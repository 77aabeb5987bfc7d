"""Several studies on one cache at once: each record is computed once, whoever dies."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from repro import cli
from repro.errors import ConfigError, StoreError
from repro.study import locks, open_study, schedule

RATE = 1e-3
# Starts 8 processes, which fork so that libraries are loaded once. Each enters in a log of its own
# the key of every record that it saves.
EIGHT = """
import os, signal, sys, time
from pathlib import Path
import torch
from repro.study import compute, open_study, records

model, data, folder, killed = sys.argv[1:]
torch.set_num_threads(1)
save = records.save

def save_and_log(record, table=None):
    with Path(folder, f"{os.getpid()}.log").open("a") as log:
        log.write(record.key + chr(10))
    save(record, table)

records.save = save_and_log
children = []
for _ in range(8):
    if child := os.fork():
        children.append(child)
        continue
    study = open_study(model, "smoke", Path(data), learning_rate=1e-3)
    study.run(workers=1)
    os._exit(0)
living = list(children)
for kind in killed.split():  # whoever has just saved a record of this kind
    seen = {}
    while not seen:
        time.sleep(0.002)
        cache = Path(os.environ["REPRO_CACHE"], "records", kind)
        keys = {path.stem for path in cache.glob("[!.]*.json")}
        for child in living:
            log = Path(folder, f"{child}.log")
            if log.exists() and keys & set(log.read_text().split()):
                seen[child] = log
    victim = next(iter(seen))
    living.remove(victim)
    os.kill(victim, signal.SIGKILL)
statuses = [os.waitpid(child, 0)[1] for child in children]
print(sorted(map(os.waitstatus_to_exitcode, statuses)))
"""


def records_in(cache: Path) -> dict[str, tuple]:
    """Return kind, parameters and result of every record, without the seconds it took."""
    contents = {p.stem: json.loads(p.read_text()) for p in (cache / "records").rglob("*.json")}
    return {
        key: (r["kind"], r["params"], {k: v for k, v in r["result"].items() if k != "seconds"})
        for key, r in contents.items()
    }


@pytest.fixture(scope="module")
def alone(tiny_model, tiny_facts_folder, tmp_path_factory):
    """Return the records of a study that one process computed undisturbed."""
    folder = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRO_CACHE", str(folder))
        patch.setenv("REPRO_RESULTS", str(folder / "results"))
        open_study(tiny_model, "smoke", tiny_facts_folder, learning_rate=RATE).run(workers=1)
    return records_in(folder)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Return an empty cache."""
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("REPRO_RESULTS", str(tmp_path / "results"))
    return tmp_path / "cache"


def left_over(cache: Path) -> list[Path]:
    return [p for p in cache.rglob("*") if p.is_file() and p.suffix not in (".json", ".csv")]


@pytest.mark.parametrize("killed", ["", "mastery", "finetune accuracy"])
def test_eight_studies_at_once_compute_each_record_once(
    tiny_model, tiny_facts_folder, tmp_path, here, alone, killed
):
    arguments = [str(tiny_model), str(tiny_facts_folder), str(tmp_path), killed]
    command = [sys.executable, "-c", EIGHT, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    number = len(killed.split())
    assert done.stdout == f"{[-9] * number + [0] * (8 - number)}\n", done.stderr
    assert records_in(here) == alone  # the living have done what the dead left
    logs = [log.read_text().split() for log in tmp_path.glob("*.log")]
    saved = [key for log in logs for key in log]
    # A record that was lost as its process died, between log and disk, is computed a second time.
    assert len(saved) - len(set(saved)) <= number
    assert set(saved) == set(alone)
    assert not left_over(here)
    assert not list(here.glob("partial/*"))


def test_a_lock_is_held_by_one_and_ends_with_its_process(here):
    first = locks.acquire("work")
    assert locks.acquire("work") is None
    other = locks.acquire("other")
    locks.release(first)
    assert list(here.rglob("*.lock")) == [Path(other.lock_file)]
    code = "from repro.study import locks; import time; lock = locks.acquire('work')"
    code += "; print(bool(lock), flush=True); time.sleep(60)"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "True\n"
        assert locks.acquire("work") is None
        process.kill()
    limit = time.monotonic() + 10
    while (again := locks.acquire("work")) is None:
        assert time.monotonic() < limit
    locks.release(again)
    locks.release(other)
    assert not list(here.rglob("*.lock"))


def test_a_cache_that_cannot_be_locked_is_one_line(here):
    here.write_text("in the way")
    with pytest.raises(StoreError, match=r"cannot write .*set REPRO_CACHE to another folder"):
        locks.acquire("work")


def test_a_record_that_another_process_has_stored_is_not_counted(
    tiny_model, tiny_facts_folder, here
):
    """Two studies miss the same record, and one of them computes it."""
    first, second = (
        open_study(tiny_model, "smoke", tiny_facts_folder, learning_rate=RATE) for _ in range(2)
    )
    absent = [second.requests.mastery()]
    assert first.compute(absent) == 1
    assert second.computation.compute(absent) == 0
    rest = first.run()
    assert 1 < rest == len(records_in(here)) - 1
    assert second.run() == 0


def test_an_interrupted_study_gives_its_claims_back(
    tiny_model, tiny_facts_folder, here, monkeypatch
):
    """In a notebook the process lives on, and the traceback with it."""
    study = open_study(tiny_model, "smoke", tiny_facts_folder, learning_rate=RATE)
    study.results.mastery()

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(study.computation, "save", interrupt)
        with pytest.raises(KeyboardInterrupt) as raised:
            study.compute(study.all_requests())
    assert raised.traceback and not list(here.rglob("*.lock"))


# --- parts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "0/2", "3/2", "1", "a/b", "1/2/3", "-1/2"])
def test_a_part_that_cannot_be_is_refused(text):
    with pytest.raises(ConfigError, match="such as 2/4"):
        schedule.parse_part(text)


def test_parts_are_disjoint_and_complete(tiny_model, tiny_facts_folder):
    study = open_study(tiny_model, "full", tiny_facts_folder)
    study = replace(study, assumed=dict.fromkeys(range(5), 5000))
    runs, splits = study.grid.runs(), ("test", "testood")
    requests = [study.requests.accuracy(run, split) for run in runs for split in splits]
    parts = [schedule.of_part(requests, schedule.Part(n, 4)) for n in range(1, 5)]
    keys = [{request.key for request in part} for part in parts]
    assert sum(map(len, keys)) == len(set().union(*keys)) == len(requests)
    assert set().union(*keys) == {request.key for request in requests}
    runs = [{request.run for request in part} for part in parts]
    assert sum(map(len, runs)) == len(set().union(*runs))  # a run is never divided
    assert max(map(len, runs)) - min(map(len, runs)) <= 1


def test_a_study_in_parts_is_the_study(
    tiny_model, tiny_facts_folder, here, alone, capsys, monkeypatch
):
    monkeypatch.setattr("repro.measures.mastery.BLOCK", 16)
    name = tiny_model.name
    words = ["run", str(tiny_model), "--profile", "smoke", "--data", str(tiny_facts_folder)]
    words += ["--learning-rate", str(RATE), "--workers", "1"]

    def run(*options: str) -> tuple[int, str]:
        status = cli.main([*words, *options])
        return status, capsys.readouterr().out

    nothing = "mastery is missing, and all that depends on it"
    assert run("--missing") == (1, f"{name} smoke: {nothing}\n")
    part = f"{name} smoke: 0 new records of this part; of the others, {nothing}\n"
    assert run("--part", "1/2") == (0, part)
    blocks = len(list(here.glob("partial/*/*.csv")))
    assert blocks > 0 and not records_in(here)
    status, out = run("--part", "2/2")  # the last to count its blocks stores mastery, and goes on
    assert status == 0 and " new records of this part; of the others, " in out
    second = records_in(here)
    assert not list(here.glob("partial/*")) and 1 < len(second) < len(alone)
    left = len(alone) - len(second)
    assert run("--missing") == (1, f"{name} smoke: {left} records are missing\n")
    assert run("--part", "2/2")[1].startswith(f"{name} smoke: 0 new records of this part")
    assert run("--part", "1/2") == (0, f"{name} smoke: {left} new records, all are there\n")
    assert run("--missing") == (0, f"{name} smoke: nothing is missing\n")
    assert records_in(here) == alone
    assert not left_over(here)
