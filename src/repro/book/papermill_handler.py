"""Lets papermill read notebooks that are `.py` files, through its entry points.

papermill chooses a handler by the first characters of a path. So the entry points in
`pyproject.toml` are beginnings of local paths: `notebooks/`, `./`, `../`, `/` and, for use inside
`notebooks/`, the digits with which its files begin.
"""

import os
import sys
from base64 import b64decode
from pathlib import Path
from typing import Any
from warnings import filterwarnings

from repro.book.parameter_checks import check_names, check_parameters
from repro.errors import ConfigError, ReproError, one_line

#: Where an executed notebook goes when none is named, beside its source; ignored by git.
EXECUTED = "_executed"
#: The terminal's error output as a file.
STDERR = "/dev/stderr"
#: Options of papermill that choose what is shown while a notebook runs.
SHOWING = {"--progress-bar", "--no-progress-bar", "--log-output", "--stderr-file"}
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

    # An editor on another system may put a mark at the beginning, which is no Python.
    notebook = jupytext.reads(text.removeprefix("\ufeff"), fmt="py:percent")
    notebook.metadata.pop("jupytext", None)
    python = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata["kernelspec"] = python
    return nbformat.writes(notebook)


def parameter_names(text: str) -> list[str]:
    """Return the names that the parameters cell of a notebook's source assigns."""
    import ast

    import jupytext

    cells = jupytext.reads(text.removeprefix("\ufeff"), fmt="py:percent").cells
    tagged = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    assigned = [s for cell in tagged for s in ast.parse(cell.source).body if hasattr(s, "targets")]
    return [target.id for s in assigned for target in s.targets if hasattr(target, "id")]


def _refuse_source(path: str) -> None:
    if path.endswith(".py"):
        raise ConfigError(
            f"{path} would be overwritten: name an output that ends in .ipynb, or none."
        )


def _check_command(path: str) -> None:
    """Check the parameters on papermill's command line, before the kernel starts.

    Raises:
        ClickException: papermill prints it as one line.
    """
    import click

    context = click.get_current_context(silent=True)
    if context is None or "notebook_path" not in context.params:
        return  # called from Python, not from papermill's command line
    values = context.params
    if not Path(path).is_file():
        raise click.ClickException(f"there is no notebook {path}.")
    output = Path(values["output_path"])
    if output.parent.name == EXECUTED:
        output.parent.mkdir(exist_ok=True)
    try:
        _refuse_source(values["output_path"])
        _check_folder(output)
        names = parameter_names(Path(path).read_text(encoding="utf-8"))
        check_names(path, _given(values), names)
        check_parameters(_given(values), names)
    except ReproError as error:
        raise click.ClickException(str(error)) from error
    if output.suffix == ".ipynb":
        said = "Prepared" if values["prepare_only"] else "Executed"
        context.call_on_close(lambda: _say_where(said, output))


def _given(values: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of a command line by name; of equal names the last one counts."""
    import yaml

    parameters: dict[str, Any] = {}
    for text in values["parameters_base64"] or []:
        parameters |= yaml.safe_load(b64decode(text)) or {}
    for file in values["parameters_file"] or []:
        parameters |= _read_parameters(file)
    for text in values["parameters_yaml"] or []:
        parameters |= _parse_parameters(text, "-y")
    return parameters | dict(values["parameters"] or []) | dict(values["parameters_raw"] or [])


def _read_parameters(file: str) -> dict[str, Any]:
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError(f"the parameters file {file} cannot be read: {reason}.") from error
    return _parse_parameters(text, file)


def _parse_parameters(text: str, place: str) -> dict[str, Any]:
    """Return parameters written as YAML. Raises ConfigError if they are not a mapping."""
    import yaml

    try:
        parameters = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"the parameters of {place} are no YAML: {one_line(error)}") from error
    if parameters is not None and not isinstance(parameters, dict):
        raise ConfigError(f"the parameters of {place} must be names with values: {{frac: 0.4}}")
    return parameters or {}


def _check_folder(output: Path) -> None:
    if str(output) == "-":
        return
    if not output.parent.is_dir():
        raise ConfigError(f"the folder {output.parent} does not exist: make it first.")
    if not os.access(output.parent, os.W_OK):
        raise ConfigError(f"the folder {output.parent} cannot be written: name another output.")


def _say_where(said: str, output: Path) -> None:
    if output.is_file():
        print(f"{said} notebook: {output}", file=sys.stderr)


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
    positions, skip = [], 0
    for position, word in enumerate(words):
        if skip:
            skip -= 1
        elif word.startswith("-") and word != "-":
            skip = values_taken(word)
        else:
            positions.append(position)
    return positions


def option_values(words: list[str], short: str, long: str) -> list[str]:
    """Return the values that papermill's command-line words give to an option of one value."""
    values, place = [], 0
    while place < len(words) and words[place] != "--":
        word = words[place]
        taken = values_taken(word) if word.startswith("-") and word != "-" else 0
        if word in (short, long):
            values += words[place + 1 : place + 2]
        elif word.startswith(f"{long}="):
            values.append(word.partition("=")[2])
        elif word.startswith(short) and not word.startswith("--"):
            values.append(word[len(short) :])
        place += 1 + taken
    return values


def complete(words: list[str], terminal: bool, progress: bool = False) -> list[str]:
    """Return papermill's command-line words, with an output added if a `.py` has none.

    On a terminal papermill needs an output, and with a pipe as standard input it takes a single
    path as the output. A `.py` is never an output: on a `terminal` the notebook is written to
    `_executed/` beside its source, otherwise to standard output. With `progress`, the progress bars
    of the notebook replace papermill's count of cells.
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
    if progress and not SHOWING.intersection(word.partition("=")[0] for word in words):
        words = ["--no-progress-bar", "--stderr-file", STDERR, *words]
    return words


def _default_output(source: str) -> str:
    path = Path(source)
    return str(path.parent / EXECUTED / f"{path.stem}.ipynb")


def _is_papermill() -> bool:
    # orig_argv still names the module where `python -m` has not yet filled in argv[0].
    return len(sys.argv) > 1 and Path(sys.orig_argv[-len(sys.argv)]).stem == "papermill"


def _prepare_command_line() -> None:
    """Complete papermill's command line, and refuse parameters that cannot be read."""
    # This module is loaded before papermill reads its arguments. Only now can an output be added,
    # and -y and -f be checked, for which papermill would print a stack trace.
    words = sys.argv[1:] = complete(
        sys.argv[1:],
        terminal=sys.stdout.isatty(),
        progress=sys.stderr.isatty() and Path(STDERR).exists(),
    )
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # of reading weights from the disk
    at = paths_at(words)
    if at and words[at[0]].endswith(".py"):
        try:
            for text in option_values(words, "-y", "--parameters_yaml"):
                _parse_parameters(text, "-y")
            for file in option_values(words, "-f", "--parameters_file"):
                _read_parameters(file)
        except ConfigError as error:
            sys.exit(f"Error: {error}")


handler = NotebookHandler()
# papermill warns of names that do not end in .ipynb: `.py`, and `-` for standard output.
filterwarnings("ignore", r"The specified file \(.*\.py\) does not end", UserWarning)
filterwarnings("ignore", "the file is not specified with any extension : -$", UserWarning)
if _is_papermill():
    _prepare_command_line()
