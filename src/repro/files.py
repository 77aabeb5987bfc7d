"""Files: atomic writes, checksums, the cache and results folders, safetensors of a model."""

import hashlib
import os
import tempfile
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import platformdirs

from repro.errors import ModelError, StoreError


def safetensors(folder: Path) -> list[Path]:
    """Return the safetensors of a folder.

    Raises:
        ModelError: there are none; the message tells of a pickle if that is what there is.
    """
    if files := sorted(folder.glob("*.safetensors")):
        return files
    if pickles := sorted([*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")]):
        raise ModelError(
            f"{folder} holds a pickle checkpoint ({pickles[0].name}), which can run code when"
            " read: convert it to safetensors where you trust it"
        )
    raise ModelError(f"{folder} holds no *.safetensors: point to a Hugging Face model folder")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, computed once while the file stays as it is."""
    stat = path.stat()
    return _sha256_cached(str(path.resolve()), stat.st_mtime_ns, stat.st_size)


@cache
def _sha256_cached(path: str, mtime: int, size: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


REPOSITORY = Path(__file__).resolve().parents[2]


def cache_dir() -> Path:
    """Return the folder for large or regenerable files (`REPRO_CACHE` overrides it)."""
    return Path(os.environ.get("REPRO_CACHE") or platformdirs.user_cache_dir("repro"))


def results_dir() -> Path:
    """Return the repository's folder of committed records (`REPRO_RESULTS` overrides it)."""
    return Path(os.environ.get("REPRO_RESULTS") or REPOSITORY / "results")


@contextmanager
def atomic(path: Path):
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
