"""Content that could run: code, pickles, scripts in texts, links and paths in archives."""

import ast
import json
import os
import pickle
import re
import shutil
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from repro.book import pages
from repro.data import entityquestions
from repro.errors import DataError, ModelError
from repro.models import loading, registry
from repro.models.checkpoint_files import content_id, weight_files
from repro.report import html, layout
from repro.restoration.checkpoints import Checkpoint

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = "<script>alert('x')</script><img src=x onerror=alert(1)>"
SOURCES = [
    p
    for folder in ("src", "benchmarks", "notebooks", "workflow")
    for p in (ROOT / folder).rglob("*.py")
]
# Calls that run or load what a file says.
UNSAFE = {
    "pickle.load", "pickle.loads", "joblib.load", "torch.load", "torch.hub.load", "marshal.loads",
    "yaml.load", "yaml.full_load", "yaml.unsafe_load", "yaml.load_all", "eval", "exec",
    "os.system", "os.popen", "shelve.open", "pd.read_pickle", "tarfile.open",
    "shutil.unpack_archive",
}  # fmt: skip


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    """Return the calls in a source file, each with the dotted name that is called."""
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"^\s*[%!].*$", "", text, flags=re.MULTILINE)  # commands of IPython
    nodes = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call))
    return [(ast.unparse(node.func), node) for node in nodes]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_runs_or_unpickles_what_a_file_says(path):
    for name, call in calls(path):
        assert name not in UNSAFE, f"{path}:{call.lineno}"
        for keyword in call.keywords:
            if keyword.arg == "trust_remote_code":
                assert keyword.value.value is False, f"{path}:{call.lineno}"
            assert keyword.arg != "allow_pickle" and keyword.arg != "shell", f"{path}:{call.lineno}"


def test_there_are_sources_to_look_at():
    assert len(SOURCES) > 100 and any(
        name == "yaml.safe_load" for p in SOURCES for name, _ in calls(p)
    )


def test_a_script_in_a_text_is_shown_as_text():
    frame = pd.DataFrame({"subject": [SCRIPT], "model": [f"m{SCRIPT}"], SCRIPT: [1]})
    shown = [
        html.table(frame, SCRIPT).html,
        pages.html_table(frame.drop(columns=SCRIPT), code=["model"]),
        layout.statement(SCRIPT, SCRIPT).html,
        layout.statements({SCRIPT: SCRIPT}).html,
        layout.tabs({SCRIPT: html.table(frame, "t")}, SCRIPT).html,
    ]
    for page in shown:
        assert "<script" not in page and "<img" not in page
        assert "&lt;script&gt;" in page


def test_a_folder_whose_name_is_markup_has_a_plain_title(tmp_path):
    for name in ("<script>alert(1)<", "a`**b**`[c](d)", "a\nb", "{{ c }}", "$x$", "|a|b"):
        folder = tmp_path / name
        folder.mkdir()
        entry = registry.entry(folder)
        assert entry.folder == folder
        assert not set(entry.title) & set("<>`*[]{}|$&\"'\n\\")
    plain = tmp_path / "Llama-3.1 (tuned), lr=1e-5 é"
    plain.mkdir()
    assert registry.entry(plain).title == plain.name


def test_code_beside_a_model_is_not_run(tmp_path, tiny_model):
    folder = shutil.copytree(tiny_model, tmp_path / "own")
    config = json.loads((folder / "config.json").read_text())
    ours = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    config |= {"auto_map": ours, "model_type": "own"}
    (folder / "config.json").write_text(json.dumps(config))
    proof = tmp_path / "ran"
    (folder / "own.py").write_text(f"open({str(proof)!r}, 'w').close()\n")
    tokens = json.loads((folder / "tokenizer_config.json").read_text())
    tokens |= {"auto_map": {"AutoTokenizer": ["own.Tokens", None]}, "tokenizer_class": "Tokens"}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokens))
    with pytest.raises(ModelError):
        loading.load_model(folder, device="cpu")
    assert not proof.exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_a_pickle_is_refused_at_every_door(tmp_path, tiny_model, name):
    folder = shutil.copytree(tiny_model, tmp_path / "pickled")
    (folder / "model.safetensors").unlink()
    proof = tmp_path / "ran"
    (folder / name).write_bytes(pickle.dumps(_Runs(str(proof))))
    doors = (loading.load_model, Checkpoint, weight_files, content_id)
    for door in doors:
        with pytest.raises(ModelError, match="can run code when read"):
            door(folder)
    pickle.loads(pickle.dumps(_Runs(str(proof))))
    assert proof.exists()  # so it would have run
    proof.rmdir()


class _Runs:
    """An object whose pickle makes a folder when it is read."""

    def __init__(self, path: str):
        """Take the folder to make."""
        self.path = path

    def __reduce__(self):
        """Return what reading the pickle calls."""
        return (os.mkdir, (self.path,))


def archive(path: Path, members: list[tuple[zipfile.ZipInfo | str, bytes]]) -> Path:
    """Write a zip."""
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in members:
            packed.writestr(name, content)
    return path


def link_to(target: str) -> tuple[zipfile.ZipInfo, bytes]:
    """Return a member that is a symbolic link."""
    link = zipfile.ZipInfo("dataset/train/P17.train.json")
    link.external_attr = 0o120777 << 16
    return link, target.encode()


@pytest.mark.parametrize(
    "member",
    [
        ("../evil", b"x"),
        ("dataset/../../evil", b"x"),
        ("/evil", b"x"),
        ("..\\evil", b"x"),
        ("C:\\evil", b"x"),
        link_to("/etc/hostname"),
        link_to("../../../evil"),
    ],
    ids=str,
)
def test_an_archive_writes_nothing_outside_its_folder(tmp_path, member):
    packed = archive(tmp_path / "a.zip", [member])
    folder = tmp_path / "out" / "ready"
    folder.mkdir(parents=True)
    with pytest.raises(DataError, match=r"unsafe path|has the link"):
        entityquestions._extract(packed, folder, "https://here")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.zip", "out", "ready"]
