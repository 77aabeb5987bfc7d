"""Which notebooks run again after a change: those that import what was changed."""

import textwrap
from pathlib import Path

import pytest

from repro.book import dependencies

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Return a made-up package in place of this one, and a function that writes a script."""
    modules = {
        "__init__": "",
        "cli": "def main():\n    from repro.report import scale",
        "paper/__init__": "from . import quotes",
        "paper/quotes": "",
        "report/__init__": "",
        "report/html": "from repro import paper",
        "report/scale": "import repro.report.html",
        "report/levels": "if TYPE_CHECKING:\n    from repro.report import scale",
    }
    for name, text in modules.items():
        path = tmp_path / "repro" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "repro/paper/topics.json").write_text("{}")
    monkeypatch.setattr(dependencies, "PACKAGE", tmp_path / "repro")
    for cached in (dependencies._source, dependencies._imports_of):
        cached.cache_clear()
    yield tmp_path
    for cached in (dependencies._source, dependencies._imports_of):
        cached.cache_clear()


def files_named_from(folder: Path, code: str) -> set[str]:
    script = folder / "script.py"
    script.write_text(textwrap.dedent(code))
    package = folder / "repro"
    return {path.relative_to(package).as_posix() for path in dependencies.files_of(script)}


PAPER = {"__init__.py", "paper/__init__.py", "paper/quotes.py", "paper/topics.json"}


@pytest.mark.parametrize(
    ("code", "files"),
    [
        ("import os, numpy", set()),
        ("from repro import paper", PAPER),
        ("import repro.paper.quotes", PAPER),
        (
            "from repro.report import scale as s",
            PAPER | {"report/__init__.py", "report/html.py", "report/scale.py"},
        ),
        (
            "from repro.report.levels import x",
            {"__init__.py", "report/__init__.py", "report/levels.py"},
        ),
        (
            "def later():\n    import repro.cli",
            PAPER | {"cli.py", "report/__init__.py", "report/html.py", "report/scale.py"},
        ),
    ],
)
def test_files_are_those_imported_in_the_end(package, code, files):
    assert files_named_from(package, code) == files


@pytest.mark.parametrize(
    ("code", "others"),
    [
        ("from repro import open_study\ns = open_study(model, profile)", False),
        ("from repro import open_study\ns = open_study('micro-s', profile)", True),
        ("from repro.report import scale", False),
        ("from repro.report import levels", True),
        ("open('../results/micro-s/full/accuracy.jsonl')", True),
    ],
)
def test_only_a_script_that_opens_other_studies_shows_other_models(package, code, others):
    (package / "repro/report/levels.py").write_text("def all():\n    return files.results_dir()\n")
    script = package / "script.py"
    script.write_text(code)
    assert dependencies.shows_other_models(script) is others


def test_a_public_name_counts_with_the_module_it_is_loaded_from(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("from repro import load_facts\n")
    files = dependencies.files_of(script)
    assert dependencies.PACKAGE / "data" / "facts.py" in files
    assert dependencies.PACKAGE / "data" / "atlas.yaml" in files


def test_a_hash_changes_with_the_content_and_not_with_line_ends(tmp_path):
    file = tmp_path / "a.py"
    file.write_bytes(b"a\nb\n")
    before = dependencies.content_hash([file])
    file.write_bytes(b"a\r\nb\r\n")
    assert dependencies.content_hash([file]) == before
    file.write_bytes(b"a\nc\n")
    assert dependencies.content_hash([file]) != before


def using(module: str) -> set[str]:
    """Return the notebooks that depend on a module of this package."""
    path = dependencies.PACKAGE / module
    assert path.is_file()
    return {n.stem for n in NOTEBOOKS.glob("*.py") if path in dependencies.files_of(n)}


def test_each_notebook_depends_on_its_own_result_and_few_on_those_of_others():
    everything = {path.stem for path in NOTEBOOKS.glob("*.py")}
    assert using("report/exposure.py") == {"12_exposure"}
    assert "03_levels" not in using("report/restoration.py")
    assert "05_restore" in using("report/restoration.py")
    assert using("study/records.py") == everything
    alone = {p.stem for p in NOTEBOOKS.glob("*.py") if not dependencies.shows_other_models(p)}
    assert "02_scale" in alone and not alone & {"06_tasks", "10_claims", "12_exposure"}
    assert using("book/overview.py") == using("book/pages.py") == using("cli/__init__.py") == set()


def test_a_module_of_the_package_is_among_its_own_files():
    for name in ("cli/__main__.py", "book/pages.py", "book/model_pages.py"):
        assert dependencies.PACKAGE / name in dependencies.files_of(dependencies.PACKAGE / name)
