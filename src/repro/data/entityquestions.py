"""Downloads EntityQuestions once and verifies its SHA-256 sums.

`data/entityquestions.sha256` lists the sums of the 44 files that a study reads, in the format of
`sha256sum -c`.
"""

import functools
import hashlib
import shutil
import stat
import tempfile
import zipfile
import zlib
from importlib import resources
from pathlib import Path, PurePosixPath, PureWindowsPath

import requests
from tqdm import tqdm

from repro.errors import DataError, StoreError

URL = "https://nlp.cs.princeton.edu/projects/entity-questions/dataset.zip"
REMEDY = "or set REPRO_DATA to a folder of EntityQuestions that holds train/, dev/ and test/"
# No file of the dataset is much over 1 MB, so an archive with a much larger one is not the dataset.
MAX_MEMBER_BYTES = 50_000_000


@functools.cache
def _pinned() -> tuple[tuple[str, str], ...]:
    text = (resources.files("repro") / "data" / "entityquestions.sha256").read_text("utf-8")
    return tuple((name, digest) for digest, name in map(str.split, text.splitlines()))


def pinned() -> dict[str, str]:
    """Return the SHA-256 of each of the 44 files by name, such as "train/P17.train.json"."""
    return dict(_pinned())


@functools.lru_cache(maxsize=1024)
def _digest(path: Path, mtime_ns: int, size: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def file_sum(path: Path) -> str:
    """Return the SHA-256 of a file; an unchanged file (path, time, size) is not read again."""
    try:
        status = path.stat()
        return _digest(path.resolve(), status.st_mtime_ns, status.st_size)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None


def verify(folder: Path, source: str, remedy: str) -> None:
    """Raise DataError unless a folder holds every file of the dataset, with its checksum.

    `source` and `remedy` are parts of the message: where the files come from, and what to do.
    """
    for name, digest in pinned().items():
        if not (folder / name).is_file():
            raise DataError(f"{source} lacks {name}; {remedy}")
        if file_sum(folder / name) != digest:
            raise DataError(f"{name} of {source} does not match its SHA-256 checksum; {remedy}")


def _save(url: str, path: Path) -> None:
    """Download a file, with a progress bar."""
    with requests.get(url, stream=True, timeout=(10, 60)) as answer, path.open("wb") as file:
        answer.raise_for_status()
        total = int(answer.headers.get("Content-Length", 0)) or None
        with tqdm(total=total, unit="B", unit_scale=True, desc="EntityQuestions") as bar:
            for block in answer.iter_content(1 << 16):
                file.write(block)
                bar.update(len(block))


def _refuse_unsafe(member: zipfile.ZipInfo, url: str) -> None:
    """Raise DataError if a member of the archive is a link, or would be written outside."""
    path = PurePosixPath(member.filename.replace("\\", "/"))
    absolute = path.is_absolute() or PureWindowsPath(member.filename).drive
    if absolute or ".." in path.parts:
        raise DataError(f"the archive of {url} has the unsafe path {member.filename!r}; {REMEDY}")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise DataError(f"the archive of {url} has the link {member.filename!r}; {REMEDY}")


def _extract(archive: Path, folder: Path, url: str) -> None:
    """Extract the files that a study reads from the archive to a folder."""
    with zipfile.ZipFile(archive) as packed:
        for member in packed.infolist():
            _refuse_unsafe(member, url)
        # Members are found by the last two parts of their path, such as train/P17.train.json,
        # because the archive holds the splits in a folder "dataset".
        members = {"/".join(PurePosixPath(m.filename).parts[-2:]): m for m in packed.infolist()}
        for name in pinned().keys() & members.keys():
            if members[name].file_size > MAX_MEMBER_BYTES:
                raise DataError(f"the archive of {url} has the huge file {name!r}; {REMEDY}")
            (folder / name).parent.mkdir(exist_ok=True)
            with packed.open(members[name]) as source, (folder / name).open("wb") as target:
                shutil.copyfileobj(source, target)


def _reason(error: requests.RequestException) -> str:
    if error.response is not None:
        return f"the server answered {error.response.status_code}"
    if isinstance(error, requests.Timeout):
        return "the server did not answer in time"
    return "the connection failed or broke off"


def _fetch_into(work: Path, target: Path, url: str) -> None:
    """Download and extract the dataset in the folder `work`, and rename it to `target`."""
    ready = work / "ready"
    ready.mkdir()
    try:
        _save(url, work / "dataset.zip")
        _extract(work / "dataset.zip", ready, url)
    except requests.RequestException as error:
        raise DataError(f"cannot download {url}: {_reason(error)}; try again, {REMEDY}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise DataError(f"{url} is not a readable zip ({error}); try again, {REMEDY}") from None
    verify(ready, url, f"try again, {REMEDY}")
    try:
        ready.rename(target)
    except OSError:
        # Another process may have finished first; its folder is verified when it is read.
        if not target.is_dir():
            raise


def fetch(cache: Path, url: str = URL) -> Path:
    """Return `cache`/entityquestions, downloaded from `url` if it is not there yet.

    Every file is verified. The folder gets its name only when it is complete, so an interrupted
    download leaves nothing that could be taken for the dataset.

    Raises:
        DataError: the download fails, or what was downloaded is unsafe or not the dataset.
        StoreError: the cache cannot be written.
    """
    target = cache / "entityquestions"
    try:
        if not target.exists():
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache, prefix=".entityquestions-") as work:
                _fetch_into(Path(work), target, url)
        verify(target, str(target), "delete that folder and load again")
    except OSError as error:
        raise StoreError(
            f"cannot keep the dataset in {cache} ({error.strerror}); "
            "set REPRO_CACHE to a folder you can write to"
        ) from None
    return target
