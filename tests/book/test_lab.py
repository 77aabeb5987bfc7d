"""A notebook in a real JupyterLab, driven by a browser; skipped without the extra `jupyter`."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import jupytext
import nbformat
import pytest
from jupytext.config import load_jupytext_configuration_file

ROOT = Path(__file__).parents[2]
NOTEBOOK = """\
# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A table and a bar

# %% tags=["parameters"]
model = "micro-s"

# %%
import pandas as pd

from repro.models import registry
from repro.report import html
from repro.study.session import Session

with Session(registry.entry(model), "float32").bar(3, "scores", "fact", True) as bar:
    bar.update(3)

# %%
html.table(pd.DataFrame({"level": [0, 1], "share": [12.5, 1234.5]}), "Shares by level")
"""


@pytest.mark.parametrize("source", sorted((ROOT / "notebooks").glob("*.py")), ids=lambda p: p.stem)
def test_saving_in_jupyter_writes_the_same_text(source):
    """Jupyter has run every cell, and written down when and how each was shown."""
    config = load_jupytext_configuration_file(str(ROOT / "pyproject.toml"))
    notebook = jupytext.read(source, config=config)
    notebook.metadata["language_info"] = {"name": "python", "version": "3.11.7"}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.metadata |= {"scrolled": True, "execution": {"iopub.execute_input": "now"}}
            cell.outputs = [nbformat.v4.new_output("stream", text="shown")]
    assert jupytext.writes(notebook, "py:percent", config=config) == source.read_text()


@pytest.fixture
def folder(tmp_path):
    """Return a repository with one notebook and this project's settings."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copy(ROOT / ".gitignore", tmp_path)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks/01_demo.py").write_text(NOTEBOOK)
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "A notebook"]):
        names = ["-c", "user.name=A", "-c", "user.email=a@b.c"]
        subprocess.run(["git", *names, *words], cwd=tmp_path, check=True)
    return tmp_path


@pytest.fixture
def lab(folder, tmp_path_factory):
    """Start JupyterLab on a free port with settings of its own, and return its address."""
    if not find_spec("jupyterlab") or not find_spec("ipywidgets"):
        pytest.skip("there is no JupyterLab: pip install -e '.[jupyter]' to test it")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = tmp_path_factory.mktemp("home")
    words = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}"]
    words += ["--ip=127.0.0.1", "--IdentityProvider.token=", "--ServerApp.password="]
    env = {**os.environ, "HOME": str(home), "JUPYTER_PREFER_ENV_PATH": "1"}
    log = (home / "log").open("w", encoding="utf-8")
    server = subprocess.Popen(words, cwd=folder, env=env, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}/lab"
    for _ in range(240):
        try:
            urllib.request.urlopen(address, timeout=5).close()
            break
        except (urllib.error.URLError, TimeoutError):
            assert server.poll() is None, (home / "log").read_text()
            time.sleep(0.5)
    yield address
    server.terminate()
    server.wait(timeout=30)
    log.close()


@pytest.mark.browser
def test_a_double_click_opens_runs_and_saves_a_notebook(folder, lab, browser):
    page = browser.new_context(accept_downloads=True).new_page()
    page.set_default_timeout(300_000)  # a kernel loads PyTorch first
    page.goto(f"{lab}/tree/notebooks?reset")
    page.get_by_role("listitem", name="01_demo.py").dblclick()
    page.locator(".jp-NotebookPanel .jp-Cell").first.wait_for()
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()

    table = page.locator(".repro-table table")
    table.wait_for()
    assert table.locator("td").all_inner_texts() == ["0", "12.50", "1", "1,234.50"]
    with page.expect_download() as download:
        page.locator(".repro-table a[download]").click()
    assert download.value.suggested_filename == "shares-by-level.csv"
    assert Path(download.value.path()).read_text().splitlines() == [
        "level,share",
        "0,12.5",
        "1,1234.5",
    ]

    page.locator(".jupyter-widgets.widget-hprogress, .jupyter-widgets .progress").first.wait_for()
    assert "IProgress" not in page.locator(".jp-NotebookPanel").inner_text()

    page.keyboard.press("Control+s")
    page.wait_for_timeout(3000)
    status = subprocess.run(
        ["git", "status", "--porcelain"], cwd=folder, capture_output=True, text=True, check=True
    )
    assert status.stdout == ""
    assert (folder / "notebooks/01_demo.py").read_text() == NOTEBOOK
