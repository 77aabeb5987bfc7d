"""Teach papermill to read notebooks written as `.py` files, through its entry points.

papermill picks a handler by the first characters of a path, so the entry points in
`pyproject.toml` name beginnings that are always local: `notebooks/`, `./`, `../`, `/` and, for
use inside `notebooks/`, the digits its files begin with.
"""

import sys
from pathlib import Path
from typing import Any
from warnings import filterwarnings

from repro.book.parameter_checks import check_parameters
from repro.errors import ConfigError

#: Where an executed notebook goes when none is named, beside its source; ignored by git.
EXECUTED = "_executed"
#: The beginnings registered in pyproject.toml (a test compares them).
PREFIXES = ("notebooks/", "./", "../", "/", "0", "1")

# How many values each option of papermill's command line takes; every other option takes one
# (a test compares this with papermill itself).
PAIRS = {"-p", "--parameters", "-r", "--parameters_raw"}
FLAGS = {
    "--", "-h", "--help", "--version", "--help-notebook", "--inject-input-path",
    "--inject-output-path", "--inject-paths", "--request-save-on-cell-execute",
    "--no-request-save-on-cell-execute", "--prepare-only", "--prepare-execute", "--progress-bar",
    "--no-progress-bar", "--log-output", "--no-log-output", "--report-mode", "--no-report-mode",
}  # fmt: skip


class NotebookHandler:
    """papermill's handler for local paths; `.py` files are read as py:percent notebooks."""

    def read(self, path: str) -> str:
        """Return the notebook at `path` as JSON text, after checking the command line, if any."""
        if not path.endswith(".py"):
            return _local().read(path)
        _check_command(path)
        return _as_json(_local().read(path))

    def write(self, text: str, path: str) -> None:
        """Write an executed notebook. Raises ConfigError rather than overwrite a source."""
        _refuse_source(path)
        _local().write(text, path)

    def listdir(self, path: str) -> list[str]:
        """Return the paths in a folder, as papermill's own handler does."""
        return _local().listdir(path)

    def pretty_path(self, path: str) -> str:
        """Return how papermill shows `path` in its log."""
        return path


def _local() -> Any:
    from papermill.iorw import papermill_io

    # The handler papermill itself uses: it knows the folder the command was started in.
    return papermill_io.get_handler("local")


def _as_json(text: str) -> str:
    import jupytext
    import nbformat

    notebook = jupytext.reads(text, fmt="py:percent")
    notebook.metadata.pop("jupytext", None)
    python = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata["kernelspec"] = python
    return nbformat.writes(notebook)


def _refuse_source(path: str) -> None:
    if path.endswith(".py"):
        raise ConfigError(
            f"{path} would be overwritten: name an output that ends in .ipynb, or none."
        )


def _check_command(path: str) -> None:
    import click

    context = click.get_current_context(silent=True)
    if context is None or "notebook_path" not in context.params:
        return  # called from Python, not from papermill's command line
    values = context.params
    try:
        _refuse_source(values["output_path"])
        check_parameters(dict(values["parameters"]) | dict(values["parameters_raw"]))
    except ConfigError as error:
        raise click.ClickException(str(error)) from error
    if not Path(path).is_file():
        raise click.ClickException(f"there is no notebook {path}.")
    output = Path(values["output_path"])
    if output.parent.name == EXECUTED:
        output.parent.mkdir(exist_ok=True)
    if output.suffix == ".ipynb":
        context.call_on_close(lambda: _say_where(output))


def _say_where(output: Path) -> None:
    if output.is_file():
        print(f"Executed notebook: {output}", file=sys.stderr)


def values_taken(option: str) -> int:
    """Return how many of the words after `option` belong to it, on papermill's command line."""
    long = option.startswith("--")
    name = option.partition("=")[0] if long else option[:2]
    if name in FLAGS:
        return 0
    attached = "=" in option if long else len(option) > 2
    return (2 if name in PAIRS else 1) - attached


def paths_at(words: list[str]) -> list[int]:
    """Return the positions of the notebook paths among papermill's command-line words."""
    found, skip = [], 0
    for position, word in enumerate(words):
        if skip:
            skip -= 1
        elif word.startswith("-") and word != "-":
            skip = values_taken(word)
        else:
            found.append(position)
    return found


def complete(words: list[str], terminal: bool) -> list[str]:
    """Return papermill's command-line words with the output named, where a `.py` has none.

    papermill needs an output on a terminal, and with a pipe as standard input it takes a lone
    path for the output. A `.py` is never an output: the notebook goes to `_executed/` beside its
    source on a `terminal`, to standard output otherwise.
    """
    at = paths_at(words)
    if not at or not words[at[0]].endswith(".py") or "--help-notebook" in words:
        return words
    words = list(words)
    source = words[at[0]]
    if not source.startswith(PREFIXES):
        source = words[at[0]] = f"./{source}"
    if len(at) == 1:
        words.append(_default_output(source) if terminal else "-")
    return words


def _default_output(source: str) -> str:
    path = Path(source)
    return str(path.parent / EXECUTED / f"{path.stem}.ipynb")


def _is_papermill() -> bool:
    # orig_argv still names the module where `python -m` has not yet filled in argv[0].
    return len(sys.argv) > 1 and Path(sys.orig_argv[-len(sys.argv)]).stem == "papermill"


def _prepare_command_line() -> None:
    # Loaded before papermill reads its arguments: the only moment at which an output can be named.
    sys.argv[1:] = complete(sys.argv[1:], terminal=sys.stdout.isatty())


handler = NotebookHandler()
# papermill warns of names that do not end in .ipynb: `.py`, and `-` for standard output.
filterwarnings("ignore", r"The specified file \(.*\.py\) does not end", UserWarning)
filterwarnings("ignore", "the file is not specified with any extension : -$", UserWarning)
if _is_papermill():
    _prepare_command_line()
