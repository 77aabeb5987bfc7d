"""GSM8K and XSum through `datasets`, from a server that answers as the Hub does."""

import ast
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

import pytest

pytest.importorskip("datasets")  # an extra, as the README says
import pyarrow as pa
import pyarrow.parquet as pq

COMMIT = "a" * 40
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
from repro import task_data
frame, skipped = task_data.read(sys.argv[1], "hub")
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


class Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        path = unquote(urlparse(self.path).path)
        for name, (branch, files) in REPOSITORIES.items():
            commit = f"(?:{COMMIT}|{branch})"
            if re.fullmatch(f"/api/datasets/{name}(?:/revision/{commit})?", path):
                return self.tell({"id": name, "sha": COMMIT, "siblings": []})
            if found := re.fullmatch(f"/api/datasets/{name}/tree/{commit}(?:/(.*))?", path):
                return self.tell(listing(files, found[1], "recursive=true" in self.path))
            if found := re.fullmatch(f"/datasets/{name}/resolve/{commit}/(.*)", path):
                return self.send(files.get(found[1]))
        self.send(None)

    do_HEAD = do_GET

    def tell(self, what) -> None:
        self.send(json.dumps(what).encode() if what else None)

    def send(self, body: bytes | None) -> None:
        self.send_response(404 if body is None else 200)
        body = body or b""
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("X-Error-Code", "EntryNotFound")  # read where the status is an error
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[: self.server.most])
        self.close_connection = self.server.most is not None


def listing(files: dict, folder: str | None, deep: bool) -> list[dict]:
    start = f"{folder}/" if folder else ""
    inside = [path for path in files if path.startswith(start)]
    here = [path for path in inside if deep or "/" not in path.removeprefix(start)]
    folders = {start + p.removeprefix(start).split("/")[0] for p in set(inside) - set(here)}
    return [
        {"type": "file", "path": path, "size": len(files[path]), "oid": COMMIT} for path in here
    ] + [{"type": "directory", "path": path, "size": 0, "oid": COMMIT} for path in sorted(folders)]


@pytest.fixture
def hub():
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.most = None
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def read(task: str, hub, home) -> subprocess.CompletedProcess:
    # In a process of its own, since the address of the Hub is read when `datasets` is imported.
    known = {k: v for k, v in os.environ.items() if "OFFLINE" not in k}
    settings = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(home)}
    command, piped = [sys.executable, "-c", READ, task], {"capture_output": True, "text": True}
    return subprocess.run(command, env=known | settings, cwd=home, timeout=200, **piped)


def told(done: subprocess.CompletedProcess) -> tuple[list, dict]:
    assert done.returncode == 0, done.stderr
    return ast.literal_eval(done.stdout.splitlines()[-1])


def test_gsm8k_of_the_main_configuration(hub, tmp_path):
    rows, skipped = told(read("gsm8k", hub, tmp_path))
    assert rows == [[s, f"{s} {i}?", f"1\n#### {i}"] for s in ("train", "test") for i in (1, 2)]
    assert skipped == {}


def test_xsum_from_the_converted_branch_without_its_validation_split(hub, tmp_path):
    rows, skipped = told(read("xsum", hub, tmp_path))
    assert rows == [[split, f"{split} news", "in short"] for split in ("train", "test")]
    assert skipped == {"with an empty document": 2}


def test_a_connection_that_breaks_off_is_one_line(hub, tmp_path):
    hub.most = 300  # bytes of each file
    done = read("xsum", hub, tmp_path)
    assert done.returncode == 1
    assert "DataError: cannot get EdinburghNLP/xsum from the Hub" in done.stderr.splitlines()[-1]
