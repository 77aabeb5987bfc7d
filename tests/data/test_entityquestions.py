"""The download of EntityQuestions from a real HTTP server that serves the real files, zipped."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from repro.data import entityquestions, facts
from repro.errors import DataError, StoreError


@contextlib.contextmanager
def serving(respond):
    """Serve every GET by `respond(handler)`; yield the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            respond(self)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/dataset.zip"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def bytes_of(content, promised=None):
    def respond(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(promised or len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return respond


def zipped(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
        for name, content in members:
            packed.writestr(name, content)
    return path.read_bytes()


@pytest.fixture(scope="module")
def members(real_data):
    names = ["relation_query_templates.json", "train/P26.train.json", *entityquestions.pinned()]
    present = [(n, real_data / n) for n in names if (real_data / n).is_file()]
    return {f"dataset/{name}": path.read_bytes() for name, path in present}


@pytest.fixture(scope="module")
def archive(members, tmp_path_factory):
    return zipped(tmp_path_factory.mktemp("zip") / "dataset.zip", members.items())


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("REPRO_DATA", raising=False)
    return tmp_path / "cache"


def fails(respond, cache, match, error=DataError):
    with serving(respond) as url, pytest.raises(error, match=match) as raised:
        entityquestions.fetch(cache, url)
    assert "\n" not in str(raised.value)
    assert list(cache.iterdir()) == []
    return str(raised.value)


@pytest.mark.real
def test_download_gives_the_dataset_once(archive, real_data, cache, capsys):
    with serving(bytes_of(archive)) as url:
        folder = entityquestions.fetch(cache, url)
    assert "EntityQuestions" in capsys.readouterr().err
    assert list(cache.iterdir()) == [folder]
    assert folder == cache / "entityquestions"
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    assert files == sorted(entityquestions.pinned())
    # The server is gone: what follows reads the cache.
    assert entityquestions.fetch(cache, url) == folder
    assert facts.load(cache=cache).equals(facts.load(real_data))
    assert facts.data_hash() == facts.data_hash(folder)


@pytest.mark.real
def test_zip_without_a_leading_folder(members, tmp_path, cache):
    bare = zipped(tmp_path / "a.zip", [(n.partition("/")[2], c) for n, c in members.items()])
    with serving(bytes_of(bare)) as url:
        assert len(list(entityquestions.fetch(cache, url).rglob("P*.json"))) == 44


@pytest.mark.real
def test_changed_file_in_the_cache_is_noticed(archive, cache):
    with serving(bytes_of(archive)) as url:
        folder = entityquestions.fetch(cache, url)
    path = folder / "dev" / "P17.dev.json"
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    with pytest.raises(
        DataError, match=r"dev/P17\.dev\.json of .* does not match.*delete that folder"
    ):
        facts.load(cache=cache)
    path.unlink()
    with pytest.raises(DataError, match=r"lacks dev/P17\.dev\.json; delete that folder"):
        facts.load(cache=cache)


@pytest.mark.real
def test_wrong_checksum(members, tmp_path, cache):
    members = members | {"dataset/test/P36.test.json": b"[]"}
    content = zipped(tmp_path / "a.zip", members.items())
    message = fails(bytes_of(content), cache, r"^test/P36\.test\.json of http.*checksum; try again")
    assert "REPRO_DATA" in message


@pytest.mark.real
def test_incomplete_archive(members, tmp_path, cache):
    short = [(n, c) for n, c in members.items() if "P36.test" not in n]
    fails(bytes_of(zipped(tmp_path / "a.zip", short)), cache, r"lacks test/P36\.test\.json")


@pytest.mark.real
@pytest.mark.parametrize(
    "name",
    [
        "../train/P17.train.json",
        "dataset/../../train/P17.train.json",
        "/train/P17.train.json",
        "..\\evil.txt",
        "C:\\evil.txt",
    ],
)
def test_unsafe_path_is_refused(members, tmp_path, cache, name):
    content = zipped(tmp_path / "a.zip", [*members.items(), (name, b"[]")])
    fails(bytes_of(content), cache, "unsafe path")
    assert not list(tmp_path.rglob("evil*"))
    assert not list(tmp_path.rglob("P17*"))


@pytest.mark.real
def test_link_is_refused(members, tmp_path, cache):
    link = zipfile.ZipInfo("dataset/train/P17.train.json")
    link.external_attr = 0o120777 << 16
    rest = [(n, c) for n, c in members.items() if "P17.train" not in n]
    content = zipped(tmp_path / "a.zip", [(link, "/etc/hostname"), *rest])
    fails(bytes_of(content), cache, "has the link")


def test_huge_member_is_refused(tmp_path, cache):
    content = zipped(tmp_path / "a.zip", [("train/P17.train.json", bytes(50_000_001))])
    fails(bytes_of(content), cache, "huge file")


def test_page_instead_of_a_zip(cache):
    fails(bytes_of(b"<html>moved</html>"), cache, "not a readable zip")


@pytest.mark.real
def test_damaged_zip(archive, cache):
    middle = len(archive) // 2
    damaged = archive[:middle] + bytes(64) + archive[middle + 64 :]
    fails(bytes_of(damaged), cache, "not a readable zip")


@pytest.mark.real
def test_connection_that_breaks_off(archive, cache):
    half = bytes_of(archive[: len(archive) // 2], promised=len(archive))
    fails(half, cache, "cannot download.*broke off.*REPRO_DATA")


def test_status_404(cache):
    fails(lambda handler: handler.send_error(404), cache, "answered 404; .*REPRO_DATA")


def test_no_server(cache):
    with serving(None) as url:
        pass
    with pytest.raises(DataError, match=r"cannot download .*REPRO_DATA"):
        entityquestions.fetch(cache, url)
    assert list(cache.iterdir()) == []


def test_cache_that_cannot_be_written(tmp_path, cache):
    file = tmp_path / "file"
    file.write_text("in the way")
    with pytest.raises(StoreError, match=r"cannot keep the dataset.*REPRO_CACHE"):
        entityquestions.fetch(file / "cache", "http://127.0.0.1:1/dataset.zip")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser can write to a read-only folder")
def test_read_only_cache(cache):
    cache.mkdir()
    cache.chmod(0o555)
    with pytest.raises(StoreError, match=r"cannot keep the dataset.*REPRO_CACHE"):
        entityquestions.fetch(cache, "http://127.0.0.1:1/dataset.zip")


@pytest.mark.real
def test_interrupted_download_leaves_nothing(archive, cache):
    stop = threading.Event()

    def stall(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(archive)))
        handler.end_headers()
        handler.wfile.write(archive[:200_000])
        stop.wait(30)

    # A shell may start the tests with the interrupt ignored: the child takes it back.
    code = (
        "import pathlib, signal, sys, repro.data.entityquestions\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "repro.data.entityquestions.fetch(pathlib.Path(sys.argv[1]), sys.argv[2])"
    )
    with serving(stall) as url:
        child = subprocess.Popen(
            [sys.executable, "-c", code, cache, url], stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 30
        while not list(cache.glob(".*/dataset.zip")) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert list(cache.glob(".*/dataset.zip"))
        child.send_signal(signal.SIGINT)
        assert child.wait(30) != 0
        stop.set()
    assert list(cache.iterdir()) == []
