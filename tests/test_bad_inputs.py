"""Bad input at every door: one line that names it, the right exit status, nothing half-written.

Each row runs a command in this process, in a folder of its own. What must be seen from outside
(closed outputs, signals, encodings, papermill) is in `test_cli.py` and `test_papermill_handler.py`,
and a few rows are repeated at the end in processes of their own.
"""

import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

import repro
from repro import cli
from repro.errors import ReproError
from repro.models.hub import INDEX
from repro.restoration.checkpoint_pair import Models
from repro.study import committed

NESTED = "[" * 100_000
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
CONFLICT = "<<<<<<< HEAD\n{}\n=======\n{}\n>>>>>>> other\n"
MASTERY = "cache/records/mastery"


@dataclass
class Place:
    """A folder with a model, facts, a cache and results, which a row may damage."""

    folder: Path
    model: Path  # shared by all tests: take `copy`
    data: Path
    environment: dict[str, str] = field(default_factory=dict)

    def copy(self, name: str = "model") -> Path:
        """Return a copy of the model that may be damaged."""
        return shutil.copytree(self.model, self.folder / name)

    def write(self, path: str, content: str | bytes) -> Path:
        """Write a file below the folder and return its path."""
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(
            content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
        )
        return target

    def study(self, command: str = "run", model: Path | str | None = None, **options) -> list[str]:
        """Return the words of a command on a study of the tiny facts."""
        given = {"profile": "smoke", "data": self.data, **options}
        words = [w for name, value in given.items() for w in (f"--{name}", str(value)) if value]
        return [command, str(model or self.model), *words]

    def tool(self, command: str = "restore", base: Path | None = None, tuned=None) -> list[str]:
        """Return the words of the restoration tool."""
        words = [command, str(base or self.model), str(tuned or self.model)]
        return (
            [*words, str(self.folder / "out"), "--percent", "20"] if command == "restore" else words
        )


Row = tuple[Callable[[Place], list[str]], str, int]
ROWS: dict[str, Row] = {}


def row(name: str, words: str, status: int = 1) -> Callable:
    """Return a decorator that adds a row: what the line must say, and the exit status."""

    def add(make: Callable[[Place], list[str]]) -> Callable[[Place], list[str]]:
        assert name not in ROWS
        ROWS[name] = make, words, status
        return make

    return add


def damaged(place: Place, file: str, content: str | bytes | None) -> Path:
    """Return a model with one file replaced (None: by a folder)."""
    folder = place.copy()
    (folder / file).unlink(missing_ok=True)
    if content is None:
        (folder / file).mkdir()
    else:
        place.write(f"model/{file}", content)
    return folder


# --- a model's configuration ----------------------------------------------------------------------

CONFIGS = {
    "a list": "[]",
    "a string": '"llama"',
    "a number": "7",
    "null": "null",
    "a folder": None,
    "nested": NESTED,
    "empty": "",
    "binary": b"\xff\xfe\x00\x80",
    "truncated": '{"model_type": "lla',
    "a list of families": '{"model_type": ["llama"]}',
    "an unknown family": '{"model_type": "nonesuch"}',
    "a merge conflict": CONFLICT,
    "a pointer of Git LFS": LFS,
    "impossible sizes": '{"model_type": "llama", "hidden_size": "wide"}',
    "weights elsewhere": '{"model_type": "llama", "transformers_weights": "../model.safetensors"}',
    "weights that are a number": '{"model_type": "llama", "transformers_weights": 7}',
}
for _name, _content in CONFIGS.items():

    @row(f"run: config.json is {_name}", "ModelError: ")
    def _(place, content=_content, file="config.json"):
        return place.study("run", damaged(place, file, content))

    if _name not in ("impossible sizes", "an unknown family"):  # which the tool need not know

        @row(f"restore: config.json is {_name}", "ModelError: ")
        def _(place, content=_content, file="config.json"):
            return place.tool(tuned=damaged(place, file, content))


# --- its weights and their index ------------------------------------------------------------------

HEADER = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
WEIGHTS = {
    "empty": b"",
    "seven bytes": b"1234567",
    "a header longer than the file": (1 << 60).to_bytes(8, "little") + b"{}",
    "a header that is a list": (2).to_bytes(8, "little") + b"[]",
    "a nested header": len(NESTED).to_bytes(8, "little") + NESTED.encode(),
    "data cut off": len(HEADER).to_bytes(8, "little") + HEADER + b"1234",
    "a pointer of Git LFS": LFS.encode(),
    "a folder": None,
}
for _name, _content in WEIGHTS.items():

    @row(f"run: weights are {_name}", "model.safetensors")
    def _(place, content=_content, file="model.safetensors"):
        return place.study("run", damaged(place, file, content))

    @row(f"rank: weights are {_name}", "model.safetensors")
    def _(place, content=_content, file="model.safetensors"):
        return place.tool("rank", tuned=damaged(place, file, content))


INDEXES = {
    "a list": "[]",
    "without a map": "{}",
    "a map that is a list": '{"weight_map": []}',
    "an empty map": '{"weight_map": {}}',
    "numbers": '{"weight_map": {"w": 1}}',
    "null": '{"weight_map": {"w": null}}',
    "a path": '{"weight_map": {"w": "../other.safetensors"}}',
    "a parent": '{"weight_map": {"w": ".."}}',
    "the empty name": '{"weight_map": {"w": ""}}',
    "a null byte": '{"weight_map": {"w": "a\\u0000b"}}',
    "a lone surrogate": '{"weight_map": {"w": "\\ud800.safetensors"}}',
    "a missing shard": '{"weight_map": {"w": "model-00001-of-00002.safetensors"}}',
    "nested": NESTED,
}
for _name, _content in INDEXES.items():

    @row(f"rank: the index holds {_name}", "ModelError: ")
    def _(place, content=_content):
        folder = place.copy()
        (folder / "model.safetensors").rename(folder / "weights.safetensors")
        place.write(f"model/{INDEX}", content)
        return place.tool("rank", tuned=folder)


@row("run: a pickle in place of weights", "can run code when read")
def _(place):
    folder = place.copy()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    return place.study("run", folder)


@row("run: a LoRA adapter", "holds a LoRA adapter")
def _(place):
    place.copy()
    return place.study("run", place.write("model/adapter_config.json", "{}").parent)


@row("run: code of its own", "ModelError: ")
def _(place):
    config = json.loads((place.model / "config.json").read_text())
    config |= {
        "model_type": "own",
        "auto_map": {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"},
    }
    folder = damaged(place, "config.json", json.dumps(config))
    place.write("model/own.py", f"open({str(place.folder / 'code-ran')!r}, 'w').close()\n")
    return place.study("run", folder)


@row("run: a tokenizer that is nested", "Error: ")
def _(place):
    return place.study("run", damaged(place, "tokenizer.json", NESTED))


@row("run: a tokenizer that is empty", "Error: ")
def _(place):
    return place.study("run", damaged(place, "tokenizer.json", ""))


@row("run: no tokenizer", "Error: ")
def _(place):
    folder = place.copy()
    for path in folder.glob("tokenizer*"):
        path.unlink()
    return place.study("run", folder)


# --- folders and names ----------------------------------------------------------------------------


@row("run: a model that is nowhere", "unknown model 'nö/such/ting'")
def _(place):
    return place.study("run", "nö/such/ting")


@row("run: a name too long", "Error: ")
def _(place):
    return place.study("run", "x" * 5000)


@row("run: a null byte in a name", "Error: ")
def _(place):
    return place.study("run", "a\0b")


@row("run: an empty name", "Error: ")
def _(place):
    return ["run", "", "--profile", "smoke"]


@row("run: a user that does not exist", "Error: ")
def _(place):
    return place.study("run", "~nosuchuser/model")


@row("run: a data folder of a user that does not exist", "Error: ")
def _(place):
    return place.study("run", data="~nosuchuser/data")


@row("restore: a user that does not exist", "Error: ")
def _(place):
    return [
        "restore",
        "~nosuchuser/a",
        str(place.model),
        str(place.folder / "out"),
        "--percent",
        "5",
    ]


@row("restore: a target too long", "Error: ")
def _(place):
    return ["restore", *[str(place.model)] * 2, str(place.folder / ("y" * 300)), "--percent", "5"]


@row("restore: a target with a null byte", "Error: ")
def _(place):
    return ["restore", *[str(place.model)] * 2, f"{place.folder}/a\0b", "--percent", "5"]


@row("restore: a target below a file", "Error: ")
def _(place):
    file = place.write("file", "in the way")
    return ["restore", *[str(place.model)] * 2, str(file / "out"), "--percent", "5"]


@row("restore: a target that is a device", "Error: ")
def _(place):
    return ["restore", *[str(place.model)] * 2, "/dev/null", "--percent", "5"]


@row("restore: a share that is no number", "nan", 1)
def _(place):
    return ["restore", *[str(place.model)] * 2, str(place.folder / "out"), "--percent", "nan"]


@row("restore: an infinite share", "inf", 1)
def _(place):
    return ["restore", *[str(place.model)] * 2, str(place.folder / "out"), "--percent", "inf"]


@row("rank: a region that is no expression", "is not a regular expression")
def _(place):
    return [*place.tool("rank"), "--region", "(["]


@row("rank: layers backwards", "give numbers and ranges")
def _(place):
    return [*place.tool("rank"), "--layers", "3-1"]


@row("rank: no threads", "Error: ")
def _(place):
    return [*place.tool("rank"), "--threads", "0"]


@row("run: a rate that is no number", "is not a positive number")
def _(place):
    return [*place.study(), "--learning-rate", "nan"]


@row("run: a part beyond the number of parts", "Error: ")
def _(place):
    return [*place.study(), "--part", "3/2"]


@row("run: a part that is a word", "Error: ")
def _(place):
    return [*place.study(), "--part", "first"]


@row("run: workers that are none", "0 workers")
def _(place):
    return [*place.study(), "--workers", "0"]


@row("check: neither a model nor results", "give a model")
def _(place):
    return ["check"]


# --- facts and examples ---------------------------------------------------------------------------

FACTS = {
    "null": "null",
    "an object": "{}",
    "nested": NESTED,
    "binary": b"\xff\xfe",
    "a merge conflict": CONFLICT,
    "rows that are text": '["where?"]',
    "answers that are numbers": '[{"question": "Which country is A located in?", "answers": [1]}]',
    "a lone surrogate": '[{"question": "Which country is A located in?", "answers": ["\\ud800"]}]',
}
for _name, _content in FACTS.items():

    @row(f"data: a file holds {_name}", "DataError: ")
    def _(place, content=_content):
        place.write("facts/train/P17.train.json", content)
        return ["data", "--data", str(place.folder / "facts")]


@row("data: a folder without facts", "has no P*.json")
def _(place):
    (place.folder / "empty").mkdir()
    return ["data", "--data", str(place.folder / "empty")]


EXAMPLES = {
    "null": "null\n",
    "nested": NESTED + "\n",
    "binary": b"\xff\xfe\n",
    "a lone surrogate": '{"question": "\\ud800", "answer": "#### 1"}\n',
    "numbers": '{"question": 1, "answer": 2}\n',
    "nothing": "",
    "a pointer of Git LFS": LFS,
}
for _name, _content in EXAMPLES.items():

    @row(f"tasks: an example is {_name}", "DataError: ")
    def _(place, content=_content):
        for split in ("train", "test"):
            place.write(f"tasks/gsm8k/{split}.jsonl", content)
        place.write("tasks/xsum/a.jsonl", content)
        return place.study("tasks", data=place.folder / "tasks")


# --- records --------------------------------------------------------------------------------------

RECORDS = {
    "null": "null",
    "a list": "[]",
    "nested": NESTED,
    "empty": "",
    "binary": b"\x80\x81",
    "truncated": '{"kind": "mastery", "key": "01',
    "a merge conflict": CONFLICT,
    "a pointer of Git LFS": LFS,
    "of other parameters": json.dumps(
        {"kind": "mastery", "key": "0" * 16, "params": {}, "result": {}, "provenance": {"date": ""}}
    ),
    "a number too large": '{"kind": 1e999}',
    "a lone surrogate": '{"kind": "\\ud800"}',
}


def key_of_mastery(place: Place) -> str:
    return repro.open_study(place.model, "smoke", place.data).requests.mastery().key


for _name, _content in RECORDS.items():
    for _command in ("run", "plan", "export", "check"):
        if _command == "run" or _name in ("null", "nested"):

            @row(f"{_command}: the record is {_name}", "Error: " if _command != "check" else "")
            def _(place, command=_command, content=_content):
                place.write(f"{MASTERY}/{key_of_mastery(place)}.json", content)
                return place.study(command)


@row("run: results hold a merge conflict", "conflict markers")
def _(place):
    place.write("results/tiny-llama/smoke/mastery.jsonl", CONFLICT)
    return place.study()


@row("run: results hold a nested line", "StoreError: ")
def _(place):
    place.write("results/tiny-llama/smoke/mastery.jsonl", NESTED + "\n")
    return place.study()


@row("run: digests that are a list", "StoreError: ")
def _(place):
    place.write("results/tiny-llama/smoke/mastery.jsonl", "{}\n")
    place.write("results/tiny-llama/smoke/digests.json", "[]")
    return place.study()


# --- settings -------------------------------------------------------------------------------------

SETTINGS = {
    "REPRO_PROFILE": ("huge", "unknown profile 'huge'"),
    "REPRO_DATA": ("/nö/such", "DataError: the data folder"),
    "REPRO_CACHE": ("/dev/null/cache", "cannot write /dev/null/cache"),
    "REPRO_RESULTS": ("/dev/null", "Error: "),
}
for _name, (_value, _words) in SETTINGS.items():

    @row(f"run: {_name} is {_value}", _words)
    def _(place, name=_name, value=_value):
        place.environment[name] = value
        if name in ("REPRO_PROFILE", "REPRO_DATA"):
            return ["run", str(place.model)]
        return place.study("export" if name == "REPRO_RESULTS" else "run")


@row("run: a cache whose path is too long", "Error: ")
def _(place):
    place.environment["REPRO_CACHE"] = str(place.folder / "/".join(["z" * 200] * 30))
    return place.study()


@row("tasks: REPRO_TASKS names nothing", "DataError: the folder")
def _(place):
    place.environment["REPRO_TASKS"] = str(place.folder / "nö")
    return ["tasks", str(place.model), "--profile", "smoke"]


# --- the table ------------------------------------------------------------------------------------


def everything(folder: Path) -> dict[str, int]:
    """Return the size of every file below a folder, and −1 for every folder."""
    paths = sorted(folder.rglob("*"))
    return {str(p.relative_to(folder)): p.stat().st_size if p.is_file() else -1 for p in paths}


@contextmanager
def settings(place: Place, monkeypatch):
    """Run commands with the place's own cache and results, and nothing of the environment."""
    with monkeypatch.context() as patch:
        for name in [n for n in os.environ if n.startswith("REPRO_")]:
            patch.delenv(name)
        usual = {"REPRO_CACHE": place.folder / "cache", "REPRO_RESULTS": place.folder / "results"}
        hub = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1"}
        for name, value in {**usual, **hub, **place.environment}.items():
            patch.setenv(name, str(value))
        committed.forget()
        yield
    committed.forget()


@pytest.fixture
def place(tmp_path, tiny_model, tiny_facts_folder):
    return Place(tmp_path, tiny_model, tiny_facts_folder)


def check(place: Place, before: dict, status: int, streams: tuple, row: tuple) -> str:
    """Check the line that says what is wrong (returned), the status, and that nothing is new."""
    _, words, expected = row
    out, err = streams
    last = re.split(r"[\r\n]+", err.strip())[-1]  # after the bars of what had begun
    if err:
        assert re.match(r"repro: \w+Error: ", last) and words in last, err
    else:  # `repro check` reports what it finds
        assert out.count("\n") == 1 and words in out
    assert "Traceback" not in out + err and status == expected
    assert everything(place.folder) == before
    return last


@pytest.mark.parametrize("name", ROWS)
def test_bad_input_is_one_line(place, capfd, monkeypatch, name):
    make = ROWS[name][0]
    with settings(place, monkeypatch):
        words = make(place)
    before = everything(place.folder)
    with settings(place, monkeypatch):
        capfd.readouterr()
        status = cli.main(words)
    check(place, before, status, capfd.readouterr(), ROWS[name])


def test_there_are_enough_rows():
    assert len(ROWS) >= 60


# --- other users and other clocks -----------------------------------------------------------------


@contextmanager
def bound_by_permissions():
    """Take from root, within the block, what lets it read and write what a mode forbids.

    To become another user would not do: Python itself may lie where only root can read.
    """
    if os.geteuid() != 0:
        yield
        return
    libc, header = ctypes.CDLL(None, use_errno=True), (ctypes.c_uint32 * 2)(0x20080522, 0)
    held = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable capabilities, twice
    assert libc.capget(header, held) == 0
    bound = (ctypes.c_uint32 * 6)(*held)
    bound[0] &= ~0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
    assert libc.capset(header, bound) == 0
    try:
        yield
    finally:
        assert libc.capset(header, held) == 0


FORBIDDEN = {
    "weights": ("model/model.safetensors", 0o000, "run", "rank"),
    "a configuration": ("model/config.json", 0o000, "run", "rank"),
    "a folder of a model": ("model", 0o000, "run", "rank"),
    "facts": ("facts/train/P17.train.json", 0o000, "data"),
    "examples": ("tasks/gsm8k/train.jsonl", 0o000, "tasks"),
    "a cache": ("cache", 0o500, "run"),
    "results": ("results", 0o500, "export"),
    "a target": ("locked", 0o500, "restore"),
}


@pytest.mark.parametrize("name", FORBIDDEN)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="capabilities are Linux's")
def test_what_a_user_may_not_read_or_write_is_one_line(place, capfd, monkeypatch, name):
    path, mode, *commands = FORBIDDEN[name]
    model, data = place.copy(), shutil.copytree(place.data, place.folder / "facts")
    for split in ("train", "test"):
        place.write(f"tasks/gsm8k/{split}.jsonl", '{"question": "q", "answer": "#### 1"}\n')
    for folder in ("cache", "results", "locked"):
        (place.folder / folder).mkdir()
    if name == "results":  # what is to be exported
        with settings(place, monkeypatch):
            assert cli.main(place.study("run", model)) == 0
    (place.folder / path).chmod(mode)
    out = str(place.folder / "locked/out")
    words = {
        "run": place.study("run", model, data=data),
        "export": place.study("export", model),
        "rank": place.tool("rank", model, model),
        "data": ["data", "--data", str(data)],
        "tasks": place.study("tasks", model, data=place.folder / "tasks"),
        "restore": ["restore", str(model), str(model), out, "--percent", "5"],
    }
    for command in commands:
        before = everything(place.folder)
        capfd.readouterr()
        with settings(place, monkeypatch), bound_by_permissions():
            status = cli.main(words[command])
        said = check(place, before, status, capfd.readouterr(), (None, "", 1))
        assert "ermission" in said
    (place.folder / path).chmod(0o755)


def test_a_clock_in_the_past_changes_nothing(place, monkeypatch):
    """Records are told apart by their parameters, not by their age; files from the future count."""
    with settings(place, monkeypatch):
        words = place.study("run")
        assert cli.main(words) == 0
        written = sorted((place.folder / "cache").rglob("*.json"))
        before = {path: path.read_bytes() for path in written}
        for path in written[::2]:
            os.utime(path, (0, 0))
        for path in written[1::2]:
            os.utime(path, (2**32, 2**32))
        committed.forget()
        assert cli.main(words) == 0
    assert {path: path.read_bytes() for path in written} == before


# --- the same from Python, and in processes of their own ------------------------------------------

CALLS: dict[str, Callable[[Place], object]] = {
    "open_study: model": lambda p: repro.open_study("nonsense"),
    "open_study: profile": lambda p: repro.open_study("micro-m", "huge"),
    "open_study: data": lambda p: repro.open_study(p.model, "smoke", p.folder / "no").requests,
    "open_study: rate": lambda p: repro.open_study("micro-m", "smoke", None, float("nan")),
    "open_study: format": lambda p: repro.open_study("micro-m", "smoke", None, None, "int8"),
    "load_model: nothing": lambda p: repro.load_model(p.folder),
    "load_model: null byte": lambda p: repro.load_model("a\0b"),
    "load_facts: nothing": lambda p: repro.load_facts(p.folder / "no"),
    "load_facts: world": lambda p: repro.load_facts(world="mars"),
    "paper.table": lambda p: repro.paper.table("none"),
    "restore_folder: nothing": lambda p: repro.restore_folder(
        Models(p.folder / "a", p.folder / "b"), p.folder / "out", [5.0]
    ),
    "restore_folder: share": lambda p: repro.restore_folder(
        Models(p.model, p.model), p.folder / "out", [101.0]
    ),
    "restore_folder: no share": lambda p: repro.restore_folder(
        Models(p.model, p.model), p.folder / "out", []
    ),
    "rank: other models": lambda p: repro.rank({"layers.a": torch.ones(2)}, {"layers.b": ONE}),
    "rank: other shapes": lambda p: repro.rank({"layers.a": torch.ones(2)}, {"layers.a": ONE}),
    "rank: not a number": lambda p: repro.rank({"layers.a": ONE}, {"layers.a": ONE / 0 - ONE / 0}),
    "rank: whole numbers": lambda p: repro.rank({"layers.a": ONE.int()}, {"layers.a": ONE.int()}),
    "rank: nothing": lambda p: repro.rank({}, {}),
}
ONE = torch.ones(1)


@pytest.mark.parametrize("name", CALLS)
def test_bad_input_from_python_is_a_named_error(place, monkeypatch, name):
    before = everything(place.folder)
    with settings(place, monkeypatch), pytest.raises(ReproError) as error:
        CALLS[name](place)
    assert "\n" not in str(error.value) and len(str(error.value)) > 20
    assert everything(place.folder) == before


OWN_PROCESS = (
    "run: config.json is nested",
    "rank: weights are data cut off",
    "run: the record is null",
)


@pytest.mark.parametrize("name", OWN_PROCESS)
def test_bad_input_in_a_process_of_its_own(place, monkeypatch, name):
    with settings(place, monkeypatch):
        words = ROWS[name][0](place)
        before = everything(place.folder)
        command = [sys.executable, "-m", "repro.cli", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    check(place, before, done.returncode, (done.stdout, done.stderr), ROWS[name])
