"""Killed at random moments: `repro restore`, `repro export` and a build of the book.

`test_cli.py` kills `repro run`. Here each command runs once undisturbed. Then it is killed and
started again; what a kill leaves is never taken for data, and the end is bit for bit the same.
`REPRO_KILLS=20 pytest tests/test_kills.py` kills twenty times each, where the default is two.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
import torch
from safetensors.torch import save_file

from repro.study import committed, integrity

ROOT = Path(__file__).resolve().parents[1]
KILLS = int(os.environ.get("REPRO_KILLS", "2"))
REPRO = [sys.executable, "-m", "repro.cli"]
LAYERS, WIDTH = 12, 512


def environment(**settings: object) -> dict[str, str]:
    """Return the environment of a command with its own settings."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("REPRO_")}
    given = {name: str(value) for name, value in settings.items()}
    return {**clean, "OMP_NUM_THREADS": "1", **given}


def content(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder."""
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def start(command: list[str], settings: dict[str, str], folder: Path) -> subprocess.Popen:
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=settings, cwd=folder, start_new_session=True, **quiet)


def send(command, settings, folder, number: int, begun: Callable[[], bool], delay: float) -> int:
    """Start a command, send its processes a signal `delay` seconds after it has begun; wait."""
    process = start(command, settings, folder)
    limit = time.monotonic() + 300
    while process.poll() is None and not begun():
        assert time.monotonic() < limit
        time.sleep(0.002)
    time.sleep(delay)
    if process.poll() is None:
        os.killpg(process.pid, number)
    process.communicate(timeout=120)
    return process.returncode


def seconds_of(command, settings, folder, begun: Callable[[], bool]) -> float:
    """Run a command to its end, and return the seconds from where it has begun."""
    process, first = start(command, settings, folder), None
    while process.poll() is None:
        first = first or (time.monotonic() if begun() else None)
        time.sleep(0.002)
    out, err = process.communicate()
    assert process.returncode == 0, out + err
    return time.monotonic() - (first or time.monotonic())


# --- restore --------------------------------------------------------------------------------------


def weights(seed: int) -> dict[str, torch.Tensor]:
    """Return random weights that are large enough for a kill to meet them half-written."""
    generator = torch.Generator().manual_seed(seed)
    names = [
        f"model.layers.{i}.mlp.{p}.weight" for i in range(LAYERS) for p in ("up_proj", "down_proj")
    ]
    return {name: torch.randn(WIDTH, WIDTH, generator=generator) for name in names}


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Path:
    """Return a folder with two models, `base` and `tuned`."""
    folder = tmp_path_factory.mktemp("pair")
    for seed, name in enumerate(("base", "tuned")):
        (folder / name).mkdir()
        save_file(weights(seed), folder / name / "model.safetensors", {"format": "pt"})
        (folder / name / "config.json").write_text('{"model_type": "llama"}')
    return folder


def without_dates(written: dict[str, bytes]) -> dict[str, bytes]:
    """Return files without the report and the card, which say when and how long."""
    return {n: c for n, c in written.items() if Path(n).name not in ("restore.json", "README.md")}


def test_a_restoration_that_is_killed_leaves_no_model(pair, tmp_path):
    moments = random.Random(0)
    settings = environment(REPRO_CACHE=tmp_path / "cache")
    command = [*REPRO, "restore", str(pair / "base"), str(pair / "tuned")]
    whole, out = tmp_path / "whole", tmp_path / "there" / "out"

    def begun() -> bool:
        return any(out.parent.glob(".out.*")) or any(tmp_path.glob(".whole.*"))

    length = seconds_of([*command, str(whole), "--percent", "20"], settings, tmp_path, begun)
    expected = without_dates(content(whole))
    for _ in range(KILLS):
        status = send([*command, str(out), "--percent", "20"], settings, tmp_path, signal.SIGKILL,
                      begun, moments.uniform(0, length))  # fmt: skip
        if out.exists():  # it was complete before the kill
            assert without_dates(content(out)) == expected
            shutil.rmtree(out)
        else:
            assert status == -signal.SIGKILL
        assert all(path.name.startswith(".out.") for path in out.parent.iterdir())
    seconds_of([*command, str(out), "--percent", "20"], settings, tmp_path, begun)
    assert without_dates(content(out)) == expected


def test_sigterm_ends_a_restoration_as_ctrl_c_does(pair, tmp_path):
    settings = environment(REPRO_CACHE=tmp_path / "cache")
    out = tmp_path / "there" / "out"
    words = ["restore", str(pair / "base"), str(pair / "tuned"), str(out), "--percent", "20"]
    process = start([*REPRO, *words], settings, tmp_path)
    while process.poll() is None and not any(out.parent.glob(".out.*")):
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    said, err = process.communicate(timeout=120)
    assert (process.returncode, said) == (143, ""), err
    assert err == "repro: interrupted; nothing was written\n"
    assert not any(out.parent.iterdir())


# --- export ---------------------------------------------------------------------------------------


def test_an_export_that_is_killed_damages_no_record(tmp_path, monkeypatch):
    moments = random.Random(1)
    committed_folder = ROOT / "results" / "smollm2-135m" / "quick"
    results = tmp_path / "results" / "smollm2-135m" / "quick"
    shutil.copytree(committed_folder, results)
    settings = environment(REPRO_CACHE=tmp_path / "cache", REPRO_RESULTS=tmp_path / "results")
    command = [*REPRO, "export", "smollm2-135m", "--profile", "quick"]
    times = {path: path.stat().st_mtime_ns for path in results.iterdir()}

    def begun() -> bool:
        return any(p.stat().st_mtime_ns != times.get(p) for p in results.iterdir() if p.exists())

    length = seconds_of(command, settings, tmp_path, begun)
    expected = content(results)
    assert expected == content(committed_folder)
    monkeypatch.setenv("REPRO_RESULTS", str(tmp_path / "results"))
    for _ in range(KILLS):
        times = {path: path.stat().st_mtime_ns for path in results.iterdir()}
        send(command, settings, tmp_path, signal.SIGKILL, begun, moments.uniform(0, length))
        now = {
            name: text
            for name, text in content(results).items()
            if not Path(name).name.startswith(".")
        }
        assert now.keys() == expected.keys()
        assert {n: t for n, t in now.items() if n != committed.DIGESTS} == {
            n: t for n, t in expected.items() if n != committed.DIGESTS
        }
        committed.forget()
        assert integrity.check_folder(results) == []
    times = {}
    seconds_of(command, settings, tmp_path, begun)
    assert {n: t for n, t in content(results).items() if not n.startswith(".")} == expected
    committed.forget()


# --- the book -------------------------------------------------------------------------------------

NOTEBOOK = """\
# %% [markdown]
# # Notebook {number}

# %% tags=["parameters"]
model = "default"
profile = "default"

# %%
print("number", {number})
"""


BUILD = """\
import sys
from pathlib import Path
from repro.book import execution
execution.refresh(execution.Book(Path(sys.argv[1]), "micro-m", "smoke"), print)
"""


def pages_of(root: Path) -> dict[str, list]:
    """Return the outputs of every page, which the day and the seconds of its run do not change."""
    pages = {}
    for path in sorted((root / "book/notebooks").glob("[0-9]*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        pages[path.name] = [(cell.source, cell.get("outputs")) for cell in cells[2:]]
    return pages


def test_a_build_of_the_book_that_is_killed_is_built_again(tmp_path):
    """What a build writes itself: executed notebooks and pages. Sphinx then reads whole files."""
    moments = random.Random(2)
    root = tmp_path / "book-of-two"
    (root / "notebooks").mkdir(parents=True)
    for number in (1, 2):
        (root / f"notebooks/0{number}_page.py").write_text(NOTEBOOK.format(number=number))
    settings = environment(REPRO_CACHE=tmp_path / "cache", REPRO_RESULTS=tmp_path / "results")
    command = [sys.executable, "-c", BUILD, str(root)]

    def begun() -> bool:
        return (root / "book").exists() and any((root / "book").rglob("*.ipynb*"))

    length = seconds_of(command, settings, tmp_path, begun)
    expected = pages_of(root)
    assert (
        len(expected) == 2
        and str(expected).count("number 1") == str(expected).count("number 2") == 1
    )
    for _ in range(KILLS):
        shutil.rmtree(root / "book")
        send(command, settings, tmp_path, signal.SIGKILL, begun, moments.uniform(0, length))
        for path in (root / "book").rglob("*.ipynb"):
            if not path.name.startswith("."):
                nbformat.read(path, as_version=4)  # whole, or not there
        seconds_of(command, settings, tmp_path, begun)
        assert pages_of(root) == expected
