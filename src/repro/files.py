"""Files: safe reads, atomic writes, checksums, the cache and results folders, safetensors."""

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import BufferedReader
from pathlib import Path

import platformdirs

from repro.errors import ConfigError, ModelError, StoreError

MERGE_MARKERS = (b"<<<<<<< ", b">>>>>>> ")
MERGE_CONFLICT = "holds the conflict markers of a Git merge: resolve the merge first"
LFS_POINTER = "is a Git LFS pointer, not the file itself: fetch the file with `git lfs pull`"


def safetensors(folder: Path) -> list[Path]:
    """Return the safetensors of a folder.

    Raises:
        ModelError: there are none (the message names a pickle, if there is one); or one of them is
            a named pipe, a folder or a device, which could block the reader.
    """
    paths = listed(folder)
    if files := [path for path in paths if path.suffix == ".safetensors"]:
        for path in files:
            if not path.is_file():
                raise ModelError(f"{path} is not a regular file: only regular files are opened")
        return files
    if pickles := [path.name for path in paths if path.suffix in (".bin", ".pt", ".pth")]:
        raise ModelError(
            f"{folder} holds a pickle checkpoint ({pickles[0]}), which can run code when"
            " read: convert it to safetensors where you trust it"
        )
    raise ModelError(f"{folder} holds no *.safetensors: point to a Hugging Face model folder")


def user_path(given: str | Path) -> Path:
    """Return a path that a user has given, with `~` replaced by the home folder.

    Raises:
        ConfigError: there is no such user, or the path holds a null byte.
    """
    if "\0" in str(given):
        raise ConfigError(f"the path {str(given)!r} holds a null byte: give another")
    try:
        return Path(given).expanduser()
    except RuntimeError:
        raise ConfigError(f"the path {given} begins with a user who has no home here") from None


def listed(folder: Path) -> list[Path]:
    """Return the sorted paths in a folder; none if the folder does not exist.

    Raises:
        StoreError: it may not be read.
    """
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise unreadable(folder, error) from error


def unreadable(path: Path, error: OSError) -> StoreError:
    """Return the error for a file or folder that cannot be read."""
    return StoreError(f"cannot read {path} ({error.strerror or error}): check its permissions")


def sha256(path: Path, text: bool = False) -> str:
    """Return the SHA-256 of a file. It is computed again only if the file has changed.

    Args:
        path: a regular file.
        text: treat the line ends `\\r\\n` as `\\n`, as `text_sha256` does.
    """
    status = path.stat()
    return _sha256_cached(str(path.resolve()), status.st_mtime_ns, status.st_size, text)


@cache
def _sha256_cached(path: str, mtime: int, size: int, text: bool) -> str:
    if text:
        return text_sha256(read_regular(Path(path)))
    with open_regular(Path(path)) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def text_sha256(content: bytes) -> str:
    """Return the SHA-256 of a text file's content, the same for line ends `\\n` and `\\r\\n`.

    Git may change the line ends of a text file when it checks it out on another system.
    """
    return hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest()


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file, or a link to one, for reading.

    Other files are refused: opening a named pipe would wait for a writer that may never come.

    Raises:
        StoreError: it is a folder, a named pipe or a device.
        OSError: it cannot be opened.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise StoreError(f"cannot read {path}: it is not a regular file, and only such are opened")
    return os.fdopen(handle, "rb")


def read_regular(path: Path) -> bytes:
    """Return the content of a regular file. Raises as `open_regular` does."""
    with open_regular(path) as file:
        return file.read()


def cause_of_damage(content: bytes) -> str | None:
    """Return what made a text file unreadable and what to do, or None if the cause is unknown."""
    if not content.strip():
        return "is empty"
    if cause := cause_in_git(content):
        return cause
    try:
        content.decode()
    except UnicodeDecodeError:
        return "is not text in UTF-8"
    return None


def cause_in_git(content: bytes) -> str | None:
    """Return what Git has written instead of a file's content and what to do, or None."""
    if content.startswith(b"version https://git-lfs.github.com/spec/"):
        return LFS_POINTER
    if any(line.startswith(MERGE_MARKERS) for line in content.splitlines()):
        return MERGE_CONFLICT
    return None


def is_whole(text: str) -> bool:
    """Tell whether a text can be encoded: JSON can hold half of a character (a lone surrogate)."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


REPOSITORY = Path(__file__).resolve().parents[2]


def cache_dir() -> Path:
    """Return the folder for large or regenerable files (`REPRO_CACHE` overrides it)."""
    return Path(os.environ.get("REPRO_CACHE") or platformdirs.user_cache_dir("repro"))


def results_dir() -> Path:
    """Return the repository's folder of committed records (`REPRO_RESULTS` overrides it)."""
    return Path(os.environ.get("REPRO_RESULTS") or REPOSITORY / "results")


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, renamed to it only if the block succeeds.

    Raises:
        StoreError: the folder cannot be written or the disk is full.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        hint = "check its permissions and free space, or set REPRO_CACHE to another folder"
        raise StoreError(f"cannot write {path} ({error.strerror or error}): {hint}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a whole file or none of it."""
    with atomic(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
