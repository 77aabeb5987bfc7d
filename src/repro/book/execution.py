"""Executes the notebooks of a book with papermill, if something has changed since the last time.

`book/_executed/<model>/<notebook>.ipynb` is the output of papermill, with a digest of everything
that it depends on. `book/notebooks/` holds a copy for the model of the book, with a note on how to
run it. These copies are the pages of the book, so its table of contents names no model. Pages of
other models with committed records are in the same folder, named with their model. A switch on each
page leads from one model to another.
"""

import hashlib
import html
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbclient.exceptions import DeadKernelError

from repro import files, provenance
from repro.book import dependencies
from repro.errors import ReproError
from repro.models import registry
from repro.study import workers

STAMP, COMMIT = "repro_digest", "repro_commit"
LINK = re.compile(r"\]\((\d\w+)\)")  # from one notebook to another
RESULT_FILES = {".json", ".jsonl", ".csv"}


class NotebookError(ReproError):
    """A notebook of the book failed; the message names it and the cell."""


@dataclass(frozen=True)
class Book:
    """A book: the folder of the repository, a model and a profile.

    `model` is a registry name or a folder of safetensors; `name` is that of its files.
    """

    root: Path
    model: str
    profile: str

    @property
    def name(self) -> str:
        """Return the name of the model, also if `model` is a folder."""
        return registry.entry(self.model).name

    @property
    def title(self) -> str:
        """Return the title of the model in the model switch."""
        return registry.entry(self.model).title

    def sources(self) -> list[Path]:
        """Return the notebooks in their order of reading."""
        return sorted((self.root / "notebooks").glob("[0-9]*.py"))

    def executed(self, source: Path) -> Path:
        """Return the file of an executed notebook."""
        return self.root / "book" / "_executed" / self.name / f"{source.stem}.ipynb"

    def page(self, source: Path) -> Path:
        """Return the page of the book that shows a notebook."""
        return self.root / "book" / "notebooks" / f"{source.stem}.ipynb"

    def parameters(self) -> dict[str, str]:
        """Return the parameters of every notebook."""
        return {"model": self.model, "profile": self.profile}

    def command(self, source: Path) -> str:
        """Return the command that runs a notebook in the same way as the book."""
        options = " ".join(f"-p {name} {value}" for name, value in self.parameters().items())
        return f"papermill notebooks/{source.name} {options}"


@dataclass(frozen=True)
class OtherModel(Book):
    """Another model, whose pages are shown beside those of the book's model.

    `stems` names the notebooks that have results of it, such as `05_restore`.
    """

    stems: tuple[str, ...] = ()

    def sources(self) -> list[Path]:
        """Return the notebooks that have results of this model."""
        return [source for source in super().sources() if source.stem in self.stems]

    def page(self, source: Path) -> Path:
        """Return the page that shows a notebook for this model."""
        return super().page(source).with_stem(f"{source.stem}-{self.name}")


def digest(book: Book, source: Path) -> str:
    """Return a hash of a notebook, the modules it imports, the results and the parameters.

    The results are the committed records of the model. They are those of all models if the page may
    show others, or if records of this model may be stored under another name.
    """
    entry = registry.entry(book.model)
    alone = entry.name in registry.entries() and not dependencies.shows_other_models(source)
    results = result_files(files.results_dir() / entry.name) if alone else result_files()
    paths = [source, *dependencies.files_of(source), *results]
    parameters = repr(sorted(book.parameters().items()))
    return hashlib.sha256((parameters + dependencies.content_hash(paths)).encode()).hexdigest()


def result_files(folder: Path | None = None) -> list[Path]:
    """Return the files of committed records in a folder, by default all of `results/`, sorted."""
    folder = folder or files.results_dir()
    return sorted(path for path in folder.rglob("*") if path.suffix in RESULT_FILES)


def is_fresh(executed: Path, stamp: str) -> bool:
    """Return whether `executed` exists and has the digest `stamp`."""
    if not executed.is_file():
        return False
    return nbformat.read(executed, as_version=4).metadata.get(STAMP) == stamp


def execute(book: Book, source: Path, stamp: str) -> None:
    """Run one notebook and write its output, completely or not at all.

    Raises:
        NotebookError: a cell fails or the kernel dies.
    """
    import papermill

    from repro.book import kernels  # here, with papermill: a book without a change needs neither

    try:
        notebook = papermill.execute_notebook(
            str(source.resolve()),
            None,
            parameters=book.parameters(),
            # Not `cwd`, which would change the folder of this process, where other threads run too.
            resources={"metadata": {"path": str(source.parent.resolve())}},
            progress_bar=False,
            # What the kernel says of itself; the notebook's own output is kept.
            extra_arguments=["--log-level=CRITICAL"],
            **kernels.options(),
        )
    except papermill.PapermillExecutionError as error:
        cell = f"notebooks/{source.name}, cell {error.exec_count or error.cell_index}"
        raise NotebookError(
            f"{cell} failed with {error.ename}: {error.evalue}. To see more: {book.command(source)}"
        ) from error
    except DeadKernelError as error:
        raise NotebookError(f"notebooks/{source.name}: the kernel died ({error})") from error
    notebook.metadata[STAMP], notebook.metadata[COMMIT] = stamp, provenance.git_commit()
    files.write_atomic(book.executed(source), nbformat.writes(notebook) + "\n")


def run_date(book: Book, source: Path) -> str:
    """Return the day on which a notebook was run, such as 2026-01-31."""
    return nbformat.read(book.executed(source), as_version=4).metadata.papermill.end_time[:10]


def _note(book: Book, source: Path, executed: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return a folded cell on how the page was run: command, model, date, commit."""
    run, commit = executed.metadata.papermill, executed.metadata.get(COMMIT)
    text = (
        f":::{{dropdown}} Run this page\n"
        f"Source: `notebooks/{source.name}`, on {book.name}, profile {book.profile}. To run it as"
        f" this page does, or on another model:\n\n```bash\n{book.command(source)}\n```\n\n"
        f"Run on {run.end_time[:10]} in {run.duration:.0f} s from stored measurements"
        f"{f', at commit `{commit[:10]}`' if commit else ''}.\n:::"
    )
    return nbformat.v4.new_markdown_cell(text, id="how-it-was-run")


def _fold(executed: nbformat.NotebookNode) -> None:
    """Fold the code of every cell on the page, and remove the cells of papermill.

    Code without output is folded with the cell below it. The first cell, the command for a reader
    of the notebook alone, is folded too, because the page has a command of its own.
    """
    cells, silent = [], ""
    for cell in executed.cells:
        if cell.cell_type == "code":
            tags = cell.metadata.setdefault("tags", [])
            if "injected-parameters" in tags:
                continue
            cell.source, silent = silent + cell.source, ""
            if not cell.outputs and cell is not executed.cells[-1]:
                silent = cell.source + "\n\n"
                continue
            tags += ["hide-input"] if "hide-input" not in tags else []
        elif silent:  # a text ends what can be folded together
            cells.append(
                nbformat.v4.new_code_cell(silent.strip(), metadata={"tags": ["hide-input"]})
            )
            silent = ""
        cells.append(cell)
    executed.cells = cells
    first = executed.cells[0]
    first.source = re.sub(r"<details>.*?</details>", "", first.source, flags=re.DOTALL).strip()


def publish(book: Book, source: Path, books: Sequence[Book] = ()) -> None:
    """Copy an executed notebook to its page in the book, with a note on how it was run.

    `books` are the models in the switch of the page; with fewer than two there is no switch.
    """
    executed = nbformat.read(book.executed(source), as_version=4)
    _fold(executed)
    executed.cells.insert(1, _note(book, source, executed))
    if len(books) > 1:
        executed.cells.insert(1, _switch(book, source, books))
    if isinstance(book, OtherModel):
        _mark_as_other(book, executed)
    text, page = nbformat.writes(executed) + "\n", book.page(source)
    # An unchanged page keeps its time stamp, so that Sphinx need not read it again.
    if not page.is_file() or page.read_text(encoding="utf-8") != text:
        files.write_atomic(page, text)


def _switch(book: Book, source: Path, books: Sequence[Book]) -> nbformat.NotebookNode:
    """Return a cell that links to the same page of every model, without a script."""
    links = []
    for offered in books:
        here = ' aria-current="page"' if offered is book else ""
        name, about = html.escape(offered.title), f"profile {offered.profile}"
        href = f"{offered.page(source).stem}.html"
        links.append(f'<li><a href="{href}" title="{about}"{here}>{name}</a></li>')
    text = f'<nav class="model-switch no-print" aria-label="Model"><ul>{"".join(links)}</ul></nav>'
    return nbformat.v4.new_markdown_cell(text, id="model-switch")


def _mark_as_other(book: OtherModel, executed: nbformat.NotebookNode) -> None:
    """Mark a page as one of another model: in its title, in its links, and for the search.

    Links lead to pages of the same model. The page is not in the search or in the table of
    contents; otherwise the search would find every page once for each model.
    """
    executed.metadata |= {"orphan": True, "nosearch": True}
    title, _, rest = executed.cells[0].source.partition("\n")
    executed.cells[0].source = f"{title} ({book.name})\n{rest}"
    for cell in executed.cells:
        if cell.cell_type == "markdown":
            cell.source = LINK.sub(lambda link: _link(book, link), cell.source)


def _link(book: OtherModel, link: re.Match) -> str:
    return f"]({link[1]}-{book.name})" if link[1] in book.stems else link[0]


def refresh(book: Book, say: Callable[[str], None], others: Sequence[OtherModel] = ()) -> None:
    """Execute the notebooks that are missing or stale, and publish all.

    `say` is called with a line about each. `others` are the models with pages beside those of the
    book. As many notebooks run at a time as there are cores.
    """
    books = [book, *others]
    stamps = {(b, source): digest(b, source) for b in books for source in b.sources()}
    stale = [job for job, stamp in stamps.items() if not is_fresh(job[0].executed(job[1]), stamp)]
    if stale:
        _execute_all({job: stamps[job] for job in stale}, say)
    for one, source in stamps:
        publish(one, source, [member for member in books if (member, source) in stamps])
    _remove_others(book, {one.page(source) for one, source in stamps})


def _execute_all(stale: dict[tuple[Book, Path], str], say: Callable[[str], None]) -> None:
    """Execute notebooks, several at a time; if one fails, stop and raise its error.

    Threads suffice, because they only wait for kernels, which are processes.
    """
    from repro.book import kernels

    pool = ThreadPoolExecutor(max_workers=workers.cores())
    try:
        jobs = [
            pool.submit(_execute_one, *job, stamp, f"[{number}/{len(stale)}]", say)
            for number, (job, stamp) in enumerate(stale.items(), start=1)
        ]
        finished, _ = wait(jobs, return_when=FIRST_EXCEPTION)
        for job in finished:
            job.result()
    except KeyboardInterrupt:
        kernels.end()  # or the threads would wait for them
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        kernels.end()


def _execute_one(
    book: Book, source: Path, stamp: str, place: str, say: Callable[[str], None]
) -> None:
    """Execute one notebook for one book, and say so before and after."""
    from jupyter_core.utils import ensure_event_loop

    place = f"{place} notebooks/{source.name}"
    say(f"{place}: running on {book.name}, profile {book.profile} ...")
    started = time.monotonic()
    try:
        execute(book, source, stamp)
    finally:
        ensure_event_loop().close()  # the one that papermill made for this thread
    say(f"{place}: done on {book.name} in {time.monotonic() - started:.0f} s")


def _remove_others(book: Book, pages: set[Path]) -> None:
    for path in (book.root / "book" / "notebooks").glob("*.ipynb"):
        if path not in pages:
            path.unlink()
