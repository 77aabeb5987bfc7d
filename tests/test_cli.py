"""The command line in processes of its own: killed, interrupted, misused, and repeated."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from repro import cli, paper
from repro.cli import application
from repro.data import facts
from repro.models import devices, registry
from repro.restoration import restore_folder
from repro.study import open_study, plan

RATE = ("--learning-rate", "1e-3")
COMMAND = Path(sys.executable).with_name("repro")


@dataclass
class Place:
    """Where a command runs: a cache, results, the tiny model and the tiny facts."""

    folder: Path
    model: Path
    data: Path

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def results(self) -> Path:
        return self.folder / "results"

    @property
    def environment(self) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("REPRO_")}
        # One thread: sums in another order would round differently. No Hub: nothing listens there.
        folders = {"REPRO_CACHE": str(self.cache), "REPRO_RESULTS": str(self.results)}
        hub = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(self.folder / "hub")}
        return {**clean, **folders, **hub, "OMP_NUM_THREADS": "1"}

    def study(self, command: str) -> list[str]:
        return [command, str(self.model), "--profile", "smoke", "--data", str(self.data), *RATE]

    def start(self, *arguments: str) -> subprocess.Popen:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([COMMAND, *arguments], env=self.environment, **pipes)

    def run(self, *arguments: str) -> tuple[int, str, str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=300)
        return process.returncode, out, err

    def records(self) -> dict[str, dict]:
        return {p.stem: json.loads(p.read_text()) for p in self.record_files()}

    def record_files(self) -> list[Path]:
        return sorted((self.cache / "records").glob("*/*.json"))


@pytest.fixture
def place(tmp_path, tiny_model, tiny_facts_folder):
    return Place(tmp_path, tiny_model, tiny_facts_folder)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_model, tiny_facts_folder):
    """Return a place where `repro run` has run to its end, undisturbed; leave it as it is."""
    done = Place(tmp_path_factory.mktemp("finished"), tiny_model, tiny_facts_folder)
    status, out, err = done.run(*done.study("run"))
    assert (status, err.count("Traceback")) == (0, 0)
    number = int(re.fullmatch(r"tiny-llama smoke: (\d+) new records, all are there\n", out)[1])
    assert number == len(done.record_files()) > 20
    return done


@pytest.fixture
def here(place, monkeypatch):
    """Return a function that runs a command in this process, for speed, in `place`."""

    def run(*arguments: str) -> int:
        for name in ("REPRO_CACHE", "REPRO_RESULTS"):
            monkeypatch.setenv(name, place.environment[name])
        return cli.main(list(arguments))

    return run


def everything(folder: Path) -> dict[Path, tuple[int, int]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def timeless(records: dict[str, dict]) -> dict[str, tuple]:
    """Return kind, parameters and result of each record, without the seconds it took."""
    return {
        name: (r["kind"], r["params"], {k: v for k, v in r["result"].items() if k != "seconds"})
        for name, r in records.items()
    }


def table(place: Place) -> str:
    return next((place.cache / "records" / "mastery").glob("*.csv")).read_text()


# --- killed and interrupted -------------------------------------------------------------------


def stop(place: Place, number: int, when) -> tuple[int, str, str]:
    """Start the study, send it a signal as soon as `when(what it has said)`, and wait."""
    said = place.folder / f"said-{time.monotonic_ns()}"
    with said.open("w") as err:
        process = subprocess.Popen(
            [COMMAND, *place.study("run")],
            env=place.environment,
            stdout=subprocess.PIPE,
            stderr=err,
            text=True,
            # A background job starts with Ctrl-C ignored, and hands that on.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        limit = time.monotonic() + 300
        while not when(said.read_text()) and process.poll() is None:
            assert time.monotonic() < limit
            time.sleep(0.002)
        process.send_signal(number)
        out, _ = process.communicate(timeout=60)
    return process.returncode, out, said.read_text()


def test_killed_three_times_it_ends_with_the_records_of_an_undisturbed_run(place, finished):
    total = len(finished.record_files())
    begun = "mastery:   0%"
    moments = [
        ("while mastery is measured", lambda said: begun in said),
        ("after mastery", lambda said: len(place.record_files()) >= 1),
        ("between records", lambda said: len(place.record_files()) >= total // 2),
    ]
    done: dict[Path, tuple[int, int]] = {}
    for moment, when in moments:
        status, out, err = stop(place, signal.SIGKILL, when)
        assert status == -signal.SIGKILL, moment
        assert out == ""
        assert ("mastery:" in err) == (not done)  # measured once it is not measured again
        now = everything(place.cache)
        assert {path: now[path] for path in done} == done, f"rewritten: {moment}"
        done = {path: now[path] for path in place.record_files()}
        assert len(done) < total, moment
        assert all(json.loads(path.read_text())["key"] == path.stem for path in done)
    left = place.cache / "records" / "accuracy" / ".0123456789abcdef.json.x1y2z3"
    left.write_text('{"kind": "accuracy", "key": "01234')  # as a kill amid a write would leave

    status, out, err = place.run(*place.study("run"))
    assert status == 0
    assert f"{total - len(done)} new records" in out
    assert timeless(place.records()) == timeless(finished.records())
    assert table(place) == table(finished)
    assert {path: everything(place.cache)[path] for path in done} == done


def test_mastery_resumes_from_its_last_finished_block_after_a_kill(place):
    # The smoke profile fits into one block, so blocks are made small here.
    script = f"""
from pathlib import Path
from repro.data import facts
from repro.measures import mastery
from repro.models import loading
network, tokenizer = loading.load_model({str(place.model)!r}, device="cpu")
calls = []
network.register_forward_hook(lambda *_: calls.append(1))
chosen = facts.load(Path({str(place.data)!r})).groupby("split").head(12)
given = network, tokenizer, chosen, mastery.Protocol(21, 1, 4)
mastery.measure(network, tokenizer, chosen.head(1), given[3])  # a network is tried once
tables, works = [], []
for partial in (Path({str(place.folder / "partial")!r}), None):
    before = len(calls)
    tables.append(mastery.measure(*given, partial_folder=partial, block=6,
                                  progress=lambda facts: print(facts, flush=True)))
    works.append(len(calls) - before)
print(tables[0].equals(tables[1]), works[0] < 0.8 * works[1])
"""
    command = [sys.executable, "-c", script]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, env=place.environment, **pipe) as killed:
        assert [killed.stdout.readline() for _ in range(3)] == ["6\n"] * 3
        killed.kill()
    assert 3 <= len(everything(place.folder / "partial")) < 8
    again = subprocess.run(command, env=place.environment, **pipe).stdout
    assert again == "6\n" * 8 * 2 + "True True\n"
    assert not (place.folder / "partial").exists()


def test_ctrl_c_is_one_line_and_status_130(place):
    status, out, err = stop(place, signal.SIGINT, lambda said: len(place.record_files()) >= 1)
    assert status == 130
    assert out == ""
    assert "Traceback" not in err
    last = re.split(r"[\r\n]+", err.strip())[-1]
    assert last == "repro: interrupted; the same command goes on where it stopped"
    assert not list(place.cache.rglob(".*"))


def test_ctrl_c_amid_a_restoration_leaves_nothing_and_says_so(place, here, capfd, monkeypatch):
    def interrupted(*argumentss_and_out):
        raise KeyboardInterrupt

    monkeypatch.setattr(restore_folder, "_copy", interrupted)  # when a part is written
    out = place.folder / "out" / "restored"
    models_and_out = [str(path) for path in (place.model, place.model, out)]
    assert here("restore", *models_and_out, "--percent", "20") == 130
    assert capfd.readouterr() == ("", "repro: interrupted; nothing was written\n")
    assert not list(out.parent.iterdir())


# --- wrong input ------------------------------------------------------------------------------


def arguments(place, model=None, profile="smoke", data=None, command="run") -> list[str]:
    chosen = [str(model or place.model), "--profile", profile, "--data", str(data or place.data)]
    return [command, *chosen]


def broken_data(place: Place, change) -> Path:
    folder = shutil.copytree(place.data, place.folder / "broken-data")
    path = folder / "train" / "P17.train.json"
    path.write_text(change(path.read_text()))
    return folder


def truncated_json(place: Place) -> list[str]:
    return arguments(place, data=broken_data(place, lambda text: text[: len(text) // 2]))


def odd_question(place: Place) -> list[str]:
    change = "Which country is", "Where is", 1
    return arguments(place, data=broken_data(place, lambda text: text.replace(*change)))


def broken_model(place: Place) -> Path:
    return shutil.copytree(place.model, place.folder / "broken-model") / "model.safetensors"


def pickled(place: Place) -> list[str]:
    weights = broken_model(place)
    weights.unlink()
    torch.save({}, weights.with_name("pytorch_model.bin"))
    return arguments(place, weights.parent)


def corrupt_weights(place: Place) -> list[str]:
    weights = broken_model(place)
    weights.write_bytes(weights.read_bytes()[:-1000])
    return arguments(place, weights.parent)


def blocked_cache(place: Place) -> list[str]:
    place.cache.write_text("in the way")
    return arguments(place)


# What is wrong -> (the arguments, made in a place; what the one line must contain).
WRONG = {
    "unknown model": (lambda p: arguments(p, "nonsense"), "ConfigError: unknown model 'nonsense'"),
    "unknown profile": (
        lambda p: arguments(p, profile="huge"),
        "ConfigError: unknown profile 'huge': use one of smoke, quick, medium, full, real",
    ),
    "impossible rate": (
        lambda p: [*arguments(p), "--learning-rate", "-1"],
        "ConfigError: learning rate -1.0 is not a positive number",
    ),
    "no workers": (
        lambda p: [*arguments(p), "--workers", "0"],
        "ConfigError: 0 workers: give 1 or more",
    ),
    "too few facts": (lambda p: arguments(p, profile="quick"), "but there are 36"),
    "missing data": (lambda p: arguments(p, data=p.folder / "no"), "DataError: the data folder"),
    "truncated JSON": (truncated_json, "P17.train.json is truncated or not JSON"),
    "odd question": (odd_question, "does not fit the template of P17"),
    "data for atlas": (lambda p: arguments(p, "micro-m"), "would not be used: atlas is made"),
    "pickle": (pickled, "ModelError: "),
    "corrupt weights": (corrupt_weights, "model.safetensors is truncated or damaged: get it again"),
    "unreachable Hub": (
        lambda p: arguments(p, "meta-llama/Llama-3.2-1B"),
        "and log in with `hf auth login`",
    ),
    "nothing to export": (lambda p: arguments(p, command="export"), "nothing to export"),
}
OWN_PROCESS = ("corrupt weights", "unreachable Hub")


def check_one_line(place: Place, status: int, out: str, err: str, words: str) -> None:
    assert (status, out) == (1, "")
    assert re.fullmatch(r"repro: \w+Error: [^\n]+\n", err), err
    assert words in err
    assert not place.cache.exists()
    assert not place.results.exists()


@pytest.mark.parametrize("name", [name for name in WRONG if name != "unreachable Hub"])
def test_wrong_input_is_one_line_and_status_1(place, here, capfd, name):
    make, words = WRONG[name]
    arguments = make(place)
    capfd.readouterr()
    status = here(*arguments)
    check_one_line(place, status, *capfd.readouterr(), words)


@pytest.mark.parametrize("name", OWN_PROCESS)
def test_wrong_input_in_a_process_of_its_own(place, name):
    make, words = WRONG[name]
    check_one_line(place, *place.run(*make(place)), words)


def test_workers_are_for_small_models(place, here, capfd, monkeypatch):
    monkeypatch.setattr(devices, "SMALL_MODEL", 0)
    status = here(*arguments(place), "--workers", "2", "--dtype", "float32")
    check_one_line(place, status, *capfd.readouterr(), "ConfigError: workers share the study of a")


def test_a_blocked_cache_is_one_clear_line_at_the_end(place):
    status, out, err = place.run(*blocked_cache(place))
    assert (status, out) == (1, "")
    assert "Traceback" not in err
    last = re.split(r"[\r\n]+", err.strip())[-1]
    assert re.match(r"repro: StoreError: cannot write .*set REPRO_CACHE to another folder", last)
    assert place.cache.read_text() == "in the way"


@pytest.mark.parametrize("name", ["missing data", "truncated JSON", "odd question"])
def test_wrong_data_in_a_process_of_its_own(place, name):
    make, words = WRONG[name]
    folder = make(place)[-1]
    check_one_line(place, *place.run("data", "--data", folder), words)


def test_a_wrong_command_shows_its_usage(place):
    for arguments in ((), ("fly",), ("run",), ("run", "tiny", "--learning-rate", "high")):
        status, out, err = place.run(*arguments)
        assert (status, out) == (2, "")
        assert err.startswith("usage: repro")
        assert "Traceback" not in err


# --- words in any order, outputs that end, signals ---------------------------------------------


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("--percent 20 base tuned out", "--percent 20 base tuned out"),
        ("base tuned out --percent 5 20", "base tuned out --percent 5 --percent 20"),
        ("base --percent 5 1e1 tuned", "base --percent 5 --percent 1e1 tuned"),
        ("--percent 5 ./20 out --percent 7", "--percent 5 ./20 out --percent 7"),
        ("--percent 5 --seed 3 20", "--percent 5 --seed 3 20"),
        ("--percent -1", "--percent -1"),
        ("--percent", "--percent"),
        ("--percent base", "--percent base"),
        ("--percent=5 base", "--percent=5 base"),
        ("--percent 5 -- --percent 6", "--percent 5 -- --percent 6"),
    ],
)
def test_every_number_after_percent_is_one_more_share(words, meant):
    assert application.repeat_percent(words.split()) == meant.split()


def test_options_may_stand_anywhere(place, here, capsys):
    spoken = []
    pair = [str(place.model)] * 2
    for words in (["--percent", "20", "3", *pair], [*pair, "--percent", "20", "3"]):
        assert here("restore", *words, "--dry-run", "--json") == 0
        spoken.append(json.loads(capsys.readouterr().out))
    assert spoken[0] == spoken[1]
    assert [report["settings"]["percent"] for report in spoken[0]] == [20.0, 3.0]


LISTS = (("models",), ("--help",), ("data", "atlas"), ("rank", "{model}", "{model}"))


def spoken(place, words: tuple[str, ...], **streams) -> subprocess.CompletedProcess:
    command = [COMMAND, *(word.format(model=place.model) for word in words)]
    return subprocess.run(
        command, env=place.environment, stderr=subprocess.PIPE, text=True, timeout=300, **streams
    )


@pytest.mark.parametrize("words", LISTS, ids=" ".join)
def test_a_closed_pipe_is_silent(place, words):
    ours, theirs = os.pipe()
    os.close(ours)
    done = spoken(place, words, stdout=theirs)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("words", LISTS, ids=" ".join)
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_output_is_one_line(place, words):
    with Path("/dev/full").open("w") as full:
        done = spoken(place, words, stdout=full)
    assert done.returncode == 1
    assert re.fullmatch(r"repro: .*No space left on device\n", done.stderr)


@pytest.mark.parametrize(
    "locale",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "ascii:strict"},
    ],
    ids=["C", "ascii"],
)
def test_any_output_encoding_will_do(place, locale):
    environment = place.environment | locale
    for words in (["models"], ["restore", "--help"], ["data", "--data", "/näh"]):
        done = subprocess.run([COMMAND, *words], env=environment, capture_output=True, timeout=300)
        assert done.returncode == (1 if words[0] == "data" else 0)
        assert b"Traceback" not in done.stderr
        if words[0] == "data":  # a byte that the locale cannot read is shown as it came
            assert b"/n\\xe4h" in done.stderr or b"/n\\udcc3\\udca4h" in done.stderr


def test_sigterm_is_as_ctrl_c(place):
    status, out, err = stop(place, signal.SIGTERM, lambda said: len(place.record_files()) >= 1)
    assert (status, out) == (143, "")
    last = re.split(r"[\r\n]+", err.strip())[-1]
    assert last == "repro: interrupted; the same command goes on where it stopped"
    assert "Traceback" not in err and not list(place.cache.rglob(".*"))


def test_the_tab_key_completes_commands_and_models(place):
    def offered(*words: str) -> list[str]:
        completion = {"_REPRO_COMPLETE": "complete_bash", "COMP_CWORD": str(len(words))}
        environment = place.environment | completion | {"COMP_WORDS": " ".join(["repro", *words])}
        done = subprocess.run([COMMAND], env=environment, capture_output=True, text=True)
        return done.stdout.split()

    assert offered("re") == ["restore"]
    assert offered("run", "micro") == ["micro-s", "micro-m", "micro-l"]
    assert offered("restore", "--strategy", "i") == ["interpolate"]


# --- what the commands say --------------------------------------------------------------------


def test_help_needs_no_library(place):
    code = """
import sys
from repro import cli
for given in (["--help"], ["run", "--help"]):
    try:
        cli.main(given)
    except SystemExit as end:
        assert end.code == 0
print(sorted({"torch", "transformers", "pandas", "numpy"} & set(sys.modules)))
"""
    out = subprocess.run(
        [sys.executable, "-c", code], env=place.environment, capture_output=True, text=True
    ).stdout
    assert out.endswith("\n[]\n")
    assert all(f"\n    {name} " in out for name in ("models", "data", "plan", "run", "export"))


def test_to_look_at_records_needs_no_pytorch(place):
    code = """
import sys
from repro import cli
from repro.report import restoration
from repro.study import open_study
for model in ("micro-m", "micro-s"):
    print(open_study(model, "full").requests.mastery().record())
print(sorted({"torch", "transformers", "accelerate", "numba"} & set(sys.modules)))
"""
    out = subprocess.run(
        [sys.executable, "-c", code], env=place.environment, capture_output=True, text=True
    ).stdout
    assert out == "None\nNone\n[]\n"


def test_models_lists_every_model_and_marks_one_default(here, capsys):
    assert here("models") == 0
    out = capsys.readouterr().out
    for name, entry in registry.entries().items():
        line = next(line for line in out.splitlines() if line[2:].startswith(f"{name} "))
        assert line.startswith("*") == (name == registry.DEFAULT_MODEL)
        assert entry.title in line
        assert line.endswith("here") or (not entry.bundled and entry.get in line)
    assert len(re.findall(r"^\* \S+ +[\d,.]+ M ", out, re.MULTILINE)) == 1


def test_data_counts_the_facts(place):
    status, out, err = place.run("data", "--data", str(place.data))
    assert (status, err) == (0, "")
    assert re.findall(r"^(\w+) +(\d+) facts$", out, re.MULTILINE) == [
        *(("train", "36"), ("dev", "36"), ("test", "36"), ("testood", "24"))
    ]


def test_data_counts_the_facts_of_atlas(here, capsys):
    assert here("data", "atlas") == 0
    counts = dict(re.findall(r"^(\w+) +([\d,]+) facts$", capsys.readouterr().out, re.MULTILINE))
    expected = facts.load(world="atlas")["split"].value_counts()
    assert counts == {split: f"{expected[split]:,}" for split in paper.SPLITS}


def planned(out: str) -> tuple[int, int, dict[str, int]]:
    """Return (missing, records, missing by kind) as `repro plan` prints them."""
    rows = re.findall(r"^ *(\w+) +(\d+) +(\d+) ", out, re.MULTILINE)
    total = re.search(r"missing: (\d+) of (\d+) records", out)
    assert sum(int(missing) for _, _, missing in rows) == int(total[1])
    assert sum(int(records) for _, records, _ in rows) == int(total[2])
    return int(total[1]), int(total[2]), {kind: int(missing) for kind, _, missing in rows}


def test_plan_counts_what_run_then_computes(place, finished, here, capsys):
    shutil.copytree(finished.cache, place.cache)
    gone = place.record_files()[::3]
    gone = [path for path in gone if path.parent.name != "mastery"]
    for path in gone:
        path.unlink()
    before = everything(place.cache)

    assert here(*place.study("plan")) == 0
    missing, records, by_kind = planned(capsys.readouterr().out)
    assert (missing, records) == (len(gone), len(finished.record_files()))
    names = [path.parent.name for path in gone]
    assert by_kind == {kind: names.count(kind) for kind in by_kind}
    assert everything(place.cache) == before  # a plan computes no record

    assert here(*place.study("run")) == 0
    assert f": {missing} new records" in capsys.readouterr().out
    assert here(*place.study("plan")) == 0
    assert planned(capsys.readouterr().out)[0] == 0


def test_a_plan_counts_the_memory_of_every_worker(monkeypatch):
    def needed(model: str, number: int) -> int:
        monkeypatch.setattr(plan.workers, "how_many", lambda jobs: number)
        return plan.memory(open_study(model, "smoke"))

    one, two, three = (needed("micro-m", number) for number in (1, 2, 3))
    assert three - two == one
    assert two > 2 * one  # the process that writes
    assert needed("smollm2-135m", 1) == needed("smollm2-135m", 3)  # it has no workers


def test_a_plan_before_mastery_guesses_at_the_levels_from_a_sample(place, finished, here, capsys):
    assert here(*place.study("plan")) == 0
    missing, records, by_kind = planned(capsys.readouterr().out)
    # 36 facts of 21 sentences are few enough for all to be in the sample.
    assert missing == records == len(finished.record_files())
    assert by_kind["mastery"] == 1
    assert everything(place.cache) == {}


def test_export_then_a_run_from_results_alone(place, finished, here, capsys):
    shutil.copytree(finished.cache, place.cache)
    status, out, err = place.run(*place.study("export"))
    assert (status, err) == (0, "")
    written = sorted(Path(line) for line in out.splitlines())
    assert written == sorted(path for path in place.results.rglob("*") if path.is_file())
    assert {path.parent for path in written} == {place.results / "tiny-llama" / "smoke"}

    shutil.rmtree(place.cache)
    before = everything(place.results)
    assert here(*place.study("run")) == 0
    assert capsys.readouterr().out == "tiny-llama smoke: 0 new records, all are there\n"
    assert not place.cache.exists()
    assert everything(place.results) == before
