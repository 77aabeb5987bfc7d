"""Models of the Hub by their id, from a server on this machine that answers as the Hub does."""

import os
import subprocess
import sys

import local_hub
import pytest

from repro.models import registry, weights

UNREACHABLE = "http://127.0.0.1:9"  # no one listens there
LOAD = """
import sys
from repro.errors import ReproError
from repro.models import architecture, loading, registry, weights
try:
    model = registry.entry(sys.argv[1])
    network, tokenizer = loading.load_model(model, device="cpu")
    found = [model.name, model.title, weights.weights_id(model), architecture.layer_count(model)]
    print(found + [network.num_parameters(), len(tokenizer), weights.available(model)])
except ReproError as error:
    print(f"{type(error).__name__}: {error}")
"""


@pytest.fixture(scope="module")
def server(tiny_model):
    files = {path.name: path.read_bytes() for path in tiny_model.iterdir()}
    files["own.py"] = b"raise SystemExit"  # never downloaded, never run
    files["pytorch_model.bin"] = b"a pickle"
    with local_hub.started("models", {"someone/tiny": ("main", files)}) as server:
        yield server


def load(name: str, home, endpoint: str) -> str:
    # In a process of its own, since the address of the Hub is read when its client is imported.
    environment = {k: v for k, v in os.environ.items() if "OFFLINE" not in k}
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}
    piped = {"capture_output": True, "text": True, "timeout": 120}
    command = [sys.executable, "-c", LOAD, name]
    done = subprocess.run(command, env=environment | settings, cwd=home, **piped)
    assert done.returncode == 0, done.stderr
    [line] = done.stdout.splitlines()
    return line


def test_a_model_by_its_id_is_pinned_to_the_commit_and_stays_within_reach(
    server, tmp_path, tiny_loaded
):
    address = f"http://127.0.0.1:{server.server_port}"
    count = tiny_loaded[0].num_parameters(), len(tiny_loaded[1])
    commit = local_hub.COMMIT
    expected = ["someone--tiny", "someone/tiny", f"someone/tiny@{commit}", 2, *count, True]
    for name in ("someone/tiny", "someone/tiny@main", f"someone/tiny@{commit}"):
        assert load(name, tmp_path, address) == str(expected)
    assert not [p for p in tmp_path.rglob("*") if p.suffix in (".py", ".bin")]
    assert load("someone/tiny", tmp_path, UNREACHABLE) == str(expected)  # from the cache


@pytest.mark.parametrize(
    ("name", "reachable", "words"),
    [
        ("someone/tiny", False, "Connection"),
        (f"someone/tiny@{local_hub.COMMIT}", False, "Connection"),
        ("someone/nothing", True, "404"),
        ("someone/tiny@v9", True, "404"),
    ],
)
def test_what_the_hub_does_not_give_is_one_line(server, tmp_path, name, reachable, words):
    endpoint = f"http://127.0.0.1:{server.server_port}" if reachable else UNREACHABLE
    line = load(name, tmp_path, endpoint)
    repository = name.partition("@")[0]
    assert line.startswith(f"ModelError: there is no folder {repository}, and the Hub does not")
    assert words in line and "check the name and the network" in line


def test_a_folder_comes_before_the_hub(tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "someone").mkdir()
    (tmp_path / "someone" / "tiny").symlink_to(tiny_model)
    assert registry.entry("someone/tiny").folder == tiny_model.resolve()


def test_a_commit_needs_no_hub():
    model = registry.entry(f"someone/tiny@{local_hub.COMMIT}")
    assert model.hub == {"id": "someone/tiny", "revision": local_hub.COMMIT}
    assert not weights.available(model)
