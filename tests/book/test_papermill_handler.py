"""papermill with `.py` notebooks: every way to call it that the README names.

Real commands show that papermill finds the handler, and what must be seen from outside: terminals,
pipes, exit status. The tables of values run the same command in this process (`here`).
"""

import os
import pty
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import papermill
import papermill.cli
import pexpect
import pytest

from repro.book import fraction, papermill_handler, parameter_checks
from repro.errors import ConfigError

ROOT = Path(__file__).parents[2]
COMMAND = str(Path(sys.executable).with_name("papermill"))
SOURCE = """\
# %% [markdown]
# # A notebook

# %% tags=["parameters"]
frac = 0.2

# %%
open("ran", "w").close()
print("frac is", frac)
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "notebooks").mkdir()
    for name in ("05_demo.py", "other.py"):
        (tmp_path / "notebooks" / name).write_text(SOURCE)
    return tmp_path


def run(folder, *words, stdin=subprocess.DEVNULL):
    done = subprocess.run(
        [COMMAND, *words], cwd=folder, stdin=stdin, capture_output=True, text=True, timeout=60
    )
    assert "UserWarning" not in done.stderr
    return done


@pytest.fixture
def here(folder, monkeypatch, capfd):
    """Return a function that runs papermill's command in this process, as in a pipe or terminal."""

    def run(*words, where=".", terminal=False):
        monkeypatch.chdir(folder / where)
        monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
        monkeypatch.setattr(sys, "argv", ["papermill", *words])
        capfd.readouterr()
        try:
            papermill_handler._prepare_command_line()
            papermill.cli.papermill()
        except SystemExit as end:  # its text is what Python prints at the end of a process
            status, last = (1, f"{end.code}\n") if isinstance(end.code, str) else (end.code, "")
        out, err = capfd.readouterr()
        return subprocess.CompletedProcess(words, status, out, err + last)

    return run


def printed(notebook):
    return "".join(o.text for c in notebook.cells for o in c.get("outputs", []) if "text" in o)


def from_terminal(folder, command):
    text, status = pexpect.run(
        command, cwd=str(folder), timeout=60, encoding="utf-8", withexitstatus=True
    )
    assert status == 0, text
    return text


def test_python_call(folder, monkeypatch):
    monkeypatch.chdir(folder)
    papermill.execute_notebook(
        "notebooks/05_demo.py", "out.ipynb", parameters={"frac": 0.3}, progress_bar=False
    )
    notebook = nbformat.read(folder / "out.ipynb", as_version=4)
    assert printed(notebook) == "frac is 0.3\n"
    assert notebook.metadata.papermill.parameters == {"frac": 0.3}


BESIDE = [
    (".", "notebooks/05_demo.py", "notebooks/_executed/05_demo.ipynb"),
    (".", "{here}/notebooks/05_demo.py", "{here}/notebooks/_executed/05_demo.ipynb"),
    ("notebooks", "other.py", "_executed/other.ipynb"),
    (".", "./notebooks/05_demo.py", "notebooks/_executed/05_demo.ipynb"),
    (".", "notebooks/other.py", "notebooks/_executed/other.ipynb"),
    ("notebooks", "05_demo.py", "_executed/05_demo.ipynb"),
    ("notebooks", "../notebooks/05_demo.py", "../notebooks/_executed/05_demo.ipynb"),
]


@pytest.mark.parametrize(("where", "path", "output"), BESIDE[:3])
def test_terminal_writes_beside_the_source_and_says_where(folder, where, path, output):
    path, output = path.format(here=folder), output.format(here=folder)
    text = from_terminal(folder / where, f"{COMMAND} {path} -p frac 0.4")
    assert f"Executed notebook: {output}" in text
    notebook = nbformat.read(folder / where / output, as_version=4)
    assert printed(notebook) == "frac is 0.4\n"
    assert (folder / "notebooks" / Path(path).name).read_text() == SOURCE


@pytest.mark.parametrize(("where", "path", "output"), BESIDE)
def test_from_every_folder_it_is_written_beside_the_source(here, folder, where, path, output):
    path, output = path.format(here=folder), output.format(here=folder)
    done = here(path, "-p", "frac", "0.4", where=where, terminal=True)
    assert done.returncode == 0 and f"Executed notebook: {output}" in done.stderr
    notebook = nbformat.read(folder / where / output, as_version=4)
    assert printed(notebook) == "frac is 0.4\n"
    assert (folder / "notebooks" / Path(path).name).read_text() == SOURCE


def test_a_terminal_shows_what_the_notebook_computes(folder):
    """Its bars go to standard error; the kernel's and papermill's own talk is left out."""
    source = SOURCE + "\n# %%\nimport sys\nprint('scores: 50 %', file=sys.stderr)\n"
    (folder / "notebooks/05_demo.py").write_text(source)
    text = from_terminal(folder, f"{COMMAND} notebooks/05_demo.py")
    assert "scores: 50 %" in text and "Executing:" not in text and "cell/s" not in text


@pytest.mark.parametrize("option", ["--progress-bar", "--log-output", "--stderr-file=log"])
def test_what_is_shown_can_be_chosen(option):
    words = ["notebooks/05_demo.py", "out.ipynb", option]
    assert papermill_handler.complete(words, terminal=True, progress=True) == words
    chosen = papermill_handler.complete(words[:2], terminal=True, progress=True)
    assert chosen == ["--no-progress-bar", "--stderr-file", "/dev/stderr", *words[:2]]
    assert papermill_handler.complete(words[:2], terminal=True) == words[:2]


def test_terminal_as_a_module(folder):
    text = from_terminal(folder, f"{sys.executable} -m papermill notebooks/05_demo.py")
    assert "Executed notebook: notebooks/_executed/05_demo.ipynb" in text


@pytest.mark.parametrize("stdin", ["nothing", "an open pipe", "a terminal"])
def test_piped_gives_the_notebook_once(folder, stdin):
    ends = {"nothing": None, "an open pipe": os.pipe, "a terminal": pty.openpty}[stdin]
    opened = ends() if ends else ()
    # A pipe is read at its first end, a pseudo-terminal at its second; neither is ever written.
    source = opened[0 if stdin == "an open pipe" else 1] if opened else subprocess.DEVNULL
    done = run(folder, "notebooks/05_demo.py", "-p", "frac", "0.4", stdin=source)
    for end in opened:
        os.close(end)
    assert done.returncode == 0, done.stderr
    assert printed(nbformat.reads(done.stdout, as_version=4)) == "frac is 0.4\n"
    assert (folder / "notebooks/05_demo.py").read_text() == SOURCE
    assert not (folder / "notebooks/_executed").exists()


def test_the_command_of_the_readme():
    """The real notebook on the committed measurements; nothing is computed, nothing is written."""
    done = run(ROOT, "notebooks/05_restore.py", "-p", "frac", "0.4")
    assert done.returncode == 0, done.stderr[-2000:]
    notebook = nbformat.reads(done.stdout, as_version=4)
    shown = [
        o.get("data", {}).get("text/markdown", "")
        for c in notebook.cells
        for o in c.get("outputs", [])
    ]
    assert any("`frac` is 40 %" in text for text in shown)


@pytest.mark.parametrize("output", ["out.ipynb", "./out.ipynb", "{here}/out.ipynb"])
def test_named_output(here, folder, output):
    words = ["-p", "frac", "0.4", "notebooks/05_demo.py", output.format(here=folder)]
    assert here(*words).returncode == 0
    assert printed(nbformat.read(folder / "out.ipynb", as_version=4)) == "frac is 0.4\n"


def test_executed_notebook_runs_again(folder):
    assert run(folder, "notebooks/05_demo.py", "./first.ipynb").returncode == 0
    assert run(folder, "./first.ipynb", "./second.ipynb", "-p", "frac", "0").returncode == 0
    assert printed(nbformat.read(folder / "second.ipynb", as_version=4)) == "frac is 0\n"


@pytest.mark.parametrize("output", ["notebooks/05_demo.py", "./elsewhere.py", "elsewhere.py"])
def test_a_py_is_never_an_output(here, folder, output):
    done = here("notebooks/05_demo.py", output)
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1].startswith(f"Error: {output} would be overwritten")
    assert (folder / "notebooks/05_demo.py").read_text() == SOURCE
    assert not (folder / "elsewhere.py").exists() and not (folder / "ran").exists()


def test_a_py_is_never_an_output_from_python(folder, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(ConfigError, match="would be overwritten"):
        papermill.execute_notebook(
            "notebooks/05_demo.py", "notebooks/05_demo.py", progress_bar=False
        )
    assert (folder / "notebooks/05_demo.py").read_text() == SOURCE
    assert not (folder / "ran").exists()


@pytest.mark.parametrize(
    ("option", "value"),
    [("-p", "-0.1"), ("-p", "1.5"), ("-p", "abc"), ("-p", "nan"), ("-p", "True"), ("-r", "1.5")],
)
def test_impossible_fraction_is_one_line(here, folder, option, value):
    done = here("notebooks/05_demo.py", option, "frac", value)
    assert done.returncode != 0
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "from 0 to 1" in line and value in line
    assert not (folder / "ran").exists()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("-y", "{frac: 1.5}"),
        ("-f", "high.yaml"),
        ("--parameters_yaml", "{frac: 1.5}"),
        ("-b", "e2ZyYWM6IDEuNX0="),
    ],
)
def test_every_way_to_give_a_value_is_checked(here, folder, option, value):
    (folder / "high.yaml").write_text("frac: 1.5\n")
    done = here("notebooks/05_demo.py", option, value)
    assert done.returncode != 0 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "from 0 to 1, such as 0.4, not 1.5" in line
    assert not (folder / "ran").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["-y", "{frac: "], "Error: the parameters of -y are no YAML: "),
        (["-y", "0.4"], "Error: the parameters of -y must be names with values"),
        (["-f", "none.yaml"], "Error: the parameters file none.yaml cannot be read: No such file"),
        (["-f", "."], "Error: the parameters file . cannot be read: Is a directory"),
        (["-fodd.yaml"], "Error: the parameters of odd.yaml are no YAML: "),
        (["no/where.ipynb"], "Error: the folder no does not exist: make it first."),
        (["-p", "fraq", "0.4"], "Error: notebooks/05_demo.py has no parameter fraq; did you mean"),
        (["-y", "{x: 1}"], "Error: notebooks/05_demo.py has no parameter x. Its parameters: frac."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_run_is_one_line(here, folder, words, line):
    (folder / "odd.yaml").write_text("frac: [\n")
    done = here("notebooks/05_demo.py", *words)
    assert done.returncode != 0 and done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith(line) and "Traceback" not in done.stderr
    assert not (folder / "ran").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["-p", "frac", "1.5"], "Error: frac must be a number from 0 to 1, such as 0.4, not '1.5'"),
        (["-y", "{frac: "], "Error: the parameters of -y are no YAML: "),
        (["elsewhere.py"], "Error: elsewhere.py would be overwritten"),
    ],
    ids=["a value", "no YAML", "an output"],
)
def test_a_refusal_by_the_real_command(folder, words, line):
    """As papermill itself refuses, as the handler does before, and at the end of a long command."""
    done = run(folder, "notebooks/05_demo.py", *words)
    assert done.returncode != 0 and done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith(line) and "Traceback" not in done.stderr
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("setting", ["REPRO_MODEL", "REPRO_PROFILE", "REPRO_TASKS"])
def test_a_setting_is_checked_before_the_kernel_starts(here, folder, monkeypatch, setting):
    monkeypatch.setenv(setting, "no-such-thing")
    source = SOURCE.replace("frac = 0.2", 'model = "default"\nprofile = "default"')
    (folder / "notebooks/05_demo.py").write_text(source.replace("frac", "model"))
    done = here("notebooks/05_demo.py")
    assert done.returncode != 0
    (line,) = done.stderr.splitlines()
    assert "no-such-thing" in line and line.startswith("Error: ")
    assert not (folder / "ran").exists()


def test_prepared_is_not_executed(folder):
    text = from_terminal(folder, f"{COMMAND} notebooks/05_demo.py -p frac 0.4 --prepare-only")
    assert "Prepared notebook: notebooks/_executed/05_demo.ipynb" in text
    assert "Executed" not in text and not (folder / "ran").exists()


def test_a_byte_order_mark_is_no_python(folder):
    (folder / "notebooks/05_demo.py").write_bytes(b"\xef\xbb\xbf" + SOURCE.encode())
    done = run(folder, "notebooks/05_demo.py", "-p", "frac", "0.4")
    assert done.returncode == 0, done.stderr
    assert printed(nbformat.reads(done.stdout, as_version=4)) == "frac is 0.4\n"


@pytest.mark.parametrize("name", ["model", "profile"])
def test_unknown_name_is_one_line(here, folder, name):
    source = SOURCE.replace("frac = 0.2", f'frac = 0.2\n{name} = "default"')
    (folder / "notebooks/05_demo.py").write_text(source)
    done = here("notebooks/05_demo.py", "-p", name, "no-such-thing")
    assert done.returncode != 0
    (line,) = done.stderr.splitlines()
    assert f"unknown {name}" in line and "no-such-thing" in line
    assert not (folder / "ran").exists()


def test_missing_notebook_is_one_line(folder):
    done = run(folder, "notebooks/99_none.py")
    assert done.returncode != 0
    assert done.stderr == "Error: there is no notebook notebooks/99_none.py.\n"


@pytest.mark.parametrize("value", [0, 1, 0.4, "0.4", "1e-3"])
def test_fraction_accepts(value):
    assert fraction(value) == float(value)


@pytest.mark.parametrize("value", [-0.1, 1.0001, "abc", "", None, True, float("inf"), [0.4]])
def test_fraction_refuses(value):
    with pytest.raises(ConfigError, match="from 0 to 1"):
        fraction(value)


def test_notebook_and_command_line_check_alike():
    parameter_checks.check_parameters({"frac": 0.4, "other": "anything"})
    with pytest.raises(ConfigError):
        parameter_checks.check_parameters({"frac": 4})


def test_option_table_is_papermills():
    """Whoever updates papermill learns here of options that take more or fewer words."""
    for option in (p for p in papermill.cli.papermill.params if p.param_type_name == "option"):
        for name in [*option.opts, *option.secondary_opts]:
            words = 0 if option.is_flag else option.nargs
            assert papermill_handler.values_taken(name) == words, name


@pytest.mark.parametrize(
    ("words", "paths"),
    [
        ("a.py -p frac 0.4 b.ipynb", ["a.py", "b.ipynb"]),
        ("-p x 1 --kernel k --log-output a.py", ["a.py"]),
        ("--parameters=x 1 --kernel=k -kpython3 a.py -", ["a.py", "-"]),
        ("-p x -0.1 -- a.py", ["a.py"]),
    ],
)
def test_paths_are_told_from_values(words, paths):
    words = words.split()
    assert [words[at] for at in papermill_handler.paths_at(words)] == paths


def test_entry_points_are_the_prefixes():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(project["entry-points"]["papermill.io"]) == set(papermill_handler.PREFIXES)


def test_every_notebook_of_the_book_can_be_named_alone():
    names = [path.name for path in (ROOT / "notebooks").glob("*.py")]
    assert names and all(re.match("[01]", name) for name in names)
