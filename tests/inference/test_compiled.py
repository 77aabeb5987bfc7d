"""Compiled functions where the installation, the home or the cache cannot be written."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import repro

PACKAGE = Path(repro.__file__).parent
CODE = "import numpy as np; from repro.inference.cpu.prefix_tree import merge_prefixes as merge; \
from repro.restoration import score_kernels; from repro.inference import sampling; \
import torch; sampling.greedy(torch.zeros(2, 3), torch.tensor([0]), np.arange(1), 0); \
print(merge([[1, 2], [1, 3]])[0].tolist())"


@pytest.fixture
def locked(tmp_path) -> Path:
    """Return a copy of the package in which nothing can be written: `__pycache__` is a file.

    A mode without write permission would not keep root from it.
    """
    ignored = shutil.ignore_patterns("__pycache__", "weights")
    copy = shutil.copytree(PACKAGE, tmp_path / "site" / "repro", ignore=ignored)
    for folder in [copy, *(path for path in copy.rglob("*") if path.is_dir())]:
        (folder / "__pycache__").write_text("in the way")
    return copy.parent


def run(site: Path, cache: Path) -> subprocess.CompletedProcess:
    clean = {n: v for n, v in os.environ.items() if not n.startswith(("REPRO_", "NUMBA_", "XDG_"))}
    environment = {"HOME": "/dev/null", "PYTHONPATH": str(site), "REPRO_CACHE": str(cache)}
    return subprocess.run(
        [sys.executable, "-c", CODE],
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_they_are_kept_in_the_cache(locked, tmp_path):
    done = run(locked, tmp_path / "cache")
    assert (done.returncode, done.stdout, done.stderr) == (0, "[1, 2, 3]\n", "")
    assert list((tmp_path / "cache" / "numba").rglob("*.nbc"))


def test_they_are_compiled_anew_where_nothing_can_be_written(locked):
    done = run(locked, Path("/dev/null/cache"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "[1, 2, 3]\n", "")
