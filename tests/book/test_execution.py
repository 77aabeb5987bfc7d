"""The book's notebooks: what is run and when, on a small book of its own."""

import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from small_notebook import CELLS

from repro.book import execution
from repro.errors import ReproError

ROOT = Path(__file__).parents[2]
COMMAND = str(Path(sys.executable).with_name("jupyter-book"))


@pytest.fixture
def book(tmp_path, monkeypatch):
    """Return a book of one small notebook in a folder of its own."""
    monkeypatch.setenv("REPRO_RESULTS", str(tmp_path / "results"))
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks/01_one.py").write_text(CELLS.format(code="print(model, profile)"))
    return execution.Book(tmp_path, "micro-m", "smoke")


def refresh(book):
    said = []
    execution.refresh(book, said.append)
    return [line for line in said if "running" in line]


def test_a_notebook_runs_once_and_is_published(book):
    (line,) = refresh(book)
    assert line == "[1/1] notebooks/01_one.py: running on micro-m, profile smoke ..."
    executed = nbformat.read(book.executed(book.sources()[0]), as_version=4)
    assert executed.cells[-1].outputs[0].text == "micro-m smoke\n"
    page = book.root / "book/notebooks/01_one.ipynb"
    note = nbformat.read(page, as_version=4).cells[1].source
    assert "papermill notebooks/01_one.py -p model micro-m -p profile smoke" in note
    before = page.stat().st_mtime_ns
    assert refresh(book) == []
    assert page.stat().st_mtime_ns == before


def test_what_makes_a_notebook_stale(book):
    (source,) = book.sources()
    stamps = {execution.digest(book, source)}
    source.write_text(CELLS.format(code="from repro.report import tasks"))
    stamps.add(execution.digest(book, source))
    results = book.root / "results/micro-m/smoke"
    results.mkdir(parents=True)
    (results / "accuracy.jsonl").write_text("{}\n")
    stamps.add(execution.digest(book, source))
    (results / "accuracy.jsonl").write_text('{"a": 1}\n')
    stamps.add(execution.digest(book, source))
    stamps.add(execution.digest(execution.Book(book.root, book.model, "quick"), source))
    other = book.root / "results/smollm2-135m/quick"  # shown beside the book's own
    other.mkdir(parents=True)
    (other / "task_score.jsonl").write_text("{}\n")
    stamps.add(execution.digest(book, source))
    assert len(stamps) == 6
    assert execution.digest(book, source) in stamps


def test_records_of_other_models_leave_a_page_of_one_model_alone(book, tmp_path):
    (source,) = book.sources()
    source.write_text(CELLS.format(code="s = open_study(model, profile)"))
    copy = tmp_path / "copy-of-micro-m"  # its records may be kept under the name of the original
    copy.mkdir()
    books = [book, execution.Book(book.root, "smollm2-135m", "smoke")]
    books += [execution.Book(book.root, str(copy), "smoke")]
    before = [execution.digest(each, source) for each in books]
    (book.root / "results/micro-m/smoke").mkdir(parents=True)
    (book.root / "results/micro-m/smoke/accuracy.jsonl").write_text("{}\n")
    after = [execution.digest(each, source) for each in books]
    assert [a != b for a, b in zip(before, after, strict=True)] == [True, False, True]


def test_a_failing_notebook_names_itself_and_leaves_nothing(book):
    (source,) = book.sources()
    source.write_text(CELLS.format(code="1 / 0"))
    with pytest.raises(ReproError, match=r"01_one\.py, cell 3 failed with ZeroDivisionError"):
        refresh(book)
    assert list(book.root.rglob("*.ipynb")) == []


def test_a_failing_notebook_fails_the_build_in_one_line(book):
    (book.root / "notebooks/01_one.py").write_text(CELLS.format(code="1 / 0"))
    shutil.copytree(ROOT / "book", book.root / "book", ignore=shutil.ignore_patterns("_*", "*.md"))
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(ROOT / name, book.root / "book")
    (book.root / "book/_toc.yml").write_text("format: jb-book\nroot: index\n")
    (book.root / "book/index.md").write_text("# A book\n")
    done = subprocess.run([COMMAND, "build", "book"], cwd=book.root, capture_output=True, text=True)
    assert done.returncode != 0
    last = done.stderr.splitlines()[-1]
    assert last.startswith("The book cannot be built: notebooks/01_one.py, cell 3 failed")
    assert "division by zero" in last and "Traceback" not in done.stderr


def test_a_removed_notebook_loses_its_page(book):
    refresh(book)
    (book.root / "notebooks/01_one.py").unlink()
    refresh(book)
    assert list((book.root / "book/notebooks").iterdir()) == []
