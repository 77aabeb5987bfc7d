"""A server on this machine that answers as the Hugging Face Hub does."""

import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

COMMIT = "a" * 40


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of the Hub's client for `server.repositories`, at one commit each."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        kind, path = self.server.kind, unquote(urlparse(self.path).path)
        files_at = "" if kind == "models" else f"/{kind}"
        for name, (branch, files) in self.server.repositories.items():
            commit = f"(?:{COMMIT}|{branch})"
            if re.fullmatch(f"/api/{kind}/{name}(?:/revision/{commit}|/auth-check)?", path):
                return self.tell({"id": name, "sha": COMMIT, "siblings": []})
            if match := re.fullmatch(f"/api/{kind}/{name}/tree/{commit}(?:/(.*))?", path):
                return self.tell(listing(files, match[1], "recursive=true" in self.path.lower()))
            if match := re.fullmatch(f"{files_at}/{name}/resolve/{commit}/(.*)", path):
                return self.send(files.get(match[1]))
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


@contextmanager
def started(kind: str, repositories: dict[str, tuple[str, dict[str, bytes]]]):
    """Yield a server of repositories of a kind, `models` or `datasets`: (branch, files) by name.

    Its attribute `most` limits the bytes that it sends of each file.
    """
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.most, server.kind, server.repositories = None, kind, repositories
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
