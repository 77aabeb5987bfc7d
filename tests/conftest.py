"""What the tests share: the real dataset where present, a tiny made-up one, and the built site."""

import functools
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from repro import paper

# As the command line does, and before anything loads the library that reads it.
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
REPOSITORY = Path(__file__).resolve().parents[1]
TINY_TOPICS = ("P17", "P19", "P36", "P26", "P50")
FIRST = ("Ova", "Brenn", "Cali", "Dor", "Esk", "Fimm", "Gal", "Hest", "Ilm", "Jorr", "Kesh", "Lunn")
LAST = {"train": "vale", "dev": "mere", "test": "wick"}
OBJECTS = ("Arvenia", "Bolstan", "Cordral", "Dunmark")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync", "--no-first-run"]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of EntityQuestions, or skip where there is none."""
    default = REPOSITORY.parent / "shared" / "data" / "entityquestions"
    folder = Path(os.environ.get("REPRO_DATA") or default)
    if not (folder / "train").is_dir():
        pytest.skip(f"EntityQuestions is not at {folder} (set REPRO_DATA to its folder)")
    return folder


def tiny_rows(topic: str, raw: str) -> list[dict]:
    """Return 14 raw rows: 12 facts, then one with two answers and one repeated question."""
    template = paper.TOPICS[topic].question
    rows = [
        {
            "question": template.format(subject=f"{name}{LAST[raw]} {topic}"),
            "answers": [OBJECTS[place % len(OBJECTS)]],
        }
        for place, name in enumerate(FIRST)
    ]
    two = {"question": template.format(subject=f"Twin{LAST[raw]}"), "answers": list(OBJECTS[:2])}
    return [*rows, two, dict(rows[0])]


def write_tiny(folder: Path) -> Path:
    """Write the made-up dataset: 3 topics in and 2 out of domain, 12 facts per file."""
    for raw in LAST:
        (folder / raw).mkdir(parents=True)
        for topic in TINY_TOPICS:
            path = folder / raw / f"{topic}.{raw}.json"
            path.write_text(json.dumps(tiny_rows(topic, raw)), encoding="utf-8")
    return folder


@pytest.fixture
def tiny_data(tmp_path) -> Path:
    """Return a made-up dataset folder of the test's own, to change at will."""
    return write_tiny(tmp_path / "tiny")


@pytest.fixture(scope="session")
def tiny_facts_folder(tmp_path_factory) -> Path:
    """Return the made-up dataset folder that the tests share; leave it as it is."""
    return write_tiny(tmp_path_factory.mktemp("facts") / "tiny")


@pytest.fixture(scope="session")
def tiny_facts(tiny_facts_folder):
    """Return the facts of the shared folder; take a copy before a change."""
    from repro.data import facts

    return facts.load(tiny_facts_folder)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory, tiny_facts) -> Path:
    """Return the folder of a tiny LLaMA that knows some of the tiny facts and not others."""
    import tiny  # here, so that tests without a model need not wait for torch

    return tiny.build(tmp_path_factory.mktemp("model") / "tiny-llama", tiny_facts)


@pytest.fixture(scope="session")
def tiny_loaded(tiny_model):
    """Return (network, tokenizer) of `tiny_model`, shared: a test that trains takes a copy."""
    from repro.models import loading

    return loading.load_model(tiny_model, device="cpu")


@pytest.fixture(scope="session")
def browser():
    """Return the Chromium that the tests share: its driver allows one at a time."""
    if not CHROMIUM:
        pytest.skip("there is no chromium: install it to test the site in a browser")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def site():
    """Build the real book where it lies, warnings as errors, and return its folder."""
    command = str(Path(sys.executable).with_name("jupyter-book"))
    words = [command, "build", "book/", "-W", "--keep-going"]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return REPOSITORY / "book" / "_build" / "html"


@pytest.fixture(scope="session")
def address(site):
    """Serve the site on this machine's own address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
