"""GSM8K and XSum through `datasets`, from a server that answers as the Hub does."""

import ast
import io
import os
import subprocess
import sys

import pytest

pytest.importorskip("datasets")  # an extra, as the README says
import local_hub
import pyarrow as pa
import pyarrow.parquet as pq

CARD = """---
configs:
- config_name: socratic
  data_files: [{split: train, path: socratic/train-*}, {split: test, path: socratic/test-*}]
- config_name: main
  data_files: [{split: train, path: main/train-*}, {split: test, path: main/test-*}]
---
"""
READ = """
import sys
from repro.data import task_examples
frame, skipped = task_examples.read(sys.argv[1], "hub")
print((frame[["split", "question", "object"]].to_numpy().tolist(), skipped))
"""


def parquet(rows: list[dict]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue()


def sums(split: str) -> bytes:
    return parquet([{"question": f"{split} {i}?", "answer": f"<<1>>1\n#### {i}"} for i in (1, 2)])


def articles(split: str) -> bytes:
    texts = ("", f"{split} news")
    return parquet([{"document": text, "summary": "in short", "id": "1"} for text in texts])


GSM8K = {
    f"{name}/{split}-00000-of-00001.parquet": sums(split if name == "main" else name)
    for name in ("main", "socratic")
    for split in ("train", "test")
}
XSUM = {f"default/{s}/0000.parquet": articles(s) for s in ("train", "validation", "test")}
REPOSITORIES = {
    "openai/gsm8k": ("main", {"README.md": CARD.encode(), **GSM8K}),
    "EdinburghNLP/xsum": ("refs/convert/parquet", XSUM),
}


@pytest.fixture
def hub():
    with local_hub.started("datasets", REPOSITORIES) as server:
        yield server


def read(task: str, hub, home) -> subprocess.CompletedProcess:
    # In a process of its own, since the address of the Hub is read when `datasets` is imported.
    environment = {k: v for k, v in os.environ.items() if "OFFLINE" not in k}
    settings = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(home)}
    command, piped = [sys.executable, "-c", READ, task], {"capture_output": True, "text": True}
    return subprocess.run(command, env=environment | settings, cwd=home, timeout=200, **piped)


def rows_and_skipped(done: subprocess.CompletedProcess) -> tuple[list, dict]:
    assert done.returncode == 0, done.stderr
    return ast.literal_eval(done.stdout.splitlines()[-1])


def test_gsm8k_of_the_main_configuration(hub, tmp_path):
    rows, skipped = rows_and_skipped(read("gsm8k", hub, tmp_path))
    assert rows == [[s, f"{s} {i}?", f"1\n#### {i}"] for s in ("train", "test") for i in (1, 2)]
    assert skipped == {}


def test_xsum_from_the_converted_branch_without_its_validation_split(hub, tmp_path):
    rows, skipped = rows_and_skipped(read("xsum", hub, tmp_path))
    assert rows == [[split, f"{split} news", "in short"] for split in ("train", "test")]
    assert skipped == {"with an empty document": 2}


def test_a_connection_that_breaks_off_is_one_line(hub, tmp_path):
    hub.most = 300  # bytes of each file
    done = read("xsum", hub, tmp_path)
    assert done.returncode == 1
    assert "DataError: cannot get EdinburghNLP/xsum from the Hub" in done.stderr.splitlines()[-1]
