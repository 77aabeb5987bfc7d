"""Kernels of the book: forks of one process, each alone, and several notebooks at a time."""

import sys
import time

import nbformat
import pytest
from small_notebook import CELLS

from repro.book import execution, kernels
from repro.errors import ReproError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux alone")


@pytest.fixture
def book(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_RESULTS", str(tmp_path / "results"))
    (tmp_path / "notebooks").mkdir()
    return execution.Book(tmp_path, "micro-m", "smoke")


def write(book, **code):
    for name, text in code.items():
        path = book.root / "notebooks" / f"{name}.py"
        path.write_text(CELLS.format(code=text))


def output(book, source):
    return nbformat.read(book.executed(source), as_version=4).cells[-1].outputs[0].text


def test_kernels_are_forks_of_one_process_and_see_nothing_of_each_other(book):
    alone = 'print(os.getpid(), os.getppid(), os.getcwd(), "left" in globals()); left = 1'
    write(book, **{f"0{n}_x": f"import os\n{alone}" for n in (1, 2, 3)})
    execution.refresh(book, lambda text: None)
    told = [output(book, source).split() for source in book.sources()]
    pids, parents, folders, seen = zip(*told, strict=True)
    assert len(set(pids)) == 3 and len(set(parents)) == 1
    assert set(folders) == {str(book.root / "notebooks")} and set(seen) == {"False"}


def test_what_the_notebooks_import_is_there_before_they_run(book):
    # Loaded with what the other notebook imports: this one does not import it.
    seen = 'import sys\nprint("repro.paper.quotes" in sys.modules)'
    write(book, **{"01_x": "from repro.paper import quotes", "02_x": seen})
    execution.refresh(book, lambda text: None)
    assert output(book, book.sources()[1]) == "True\n"


def test_a_kernel_that_is_killed_is_named(book):
    write(book, **{"01_x": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"})
    with pytest.raises(ReproError, match=r"01_x\.py: the kernel died"):
        execution.refresh(book, lambda text: None)


def test_no_process_is_left(book):
    write(book, **{"01_x": "import os\nprint(os.getpid(), os.getppid())"})
    execution.refresh(book, lambda text: None)
    for number in output(book, book.sources()[0]).split():
        process = kernels.ForkedProcess(int(number))
        deadline = time.monotonic() + 10
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert process.poll() == 0
