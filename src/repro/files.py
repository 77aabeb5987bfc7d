"""The files of a model folder: safetensors and nothing that can run code, and their checksums."""

import hashlib
from functools import cache
from pathlib import Path

from repro.errors import ModelError


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
