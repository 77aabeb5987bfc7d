"""Writes a folder completely or not at all: it gets its name when it is complete."""

import shutil
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

from repro.errors import StoreError
from repro.restoration import checkpoints


@contextmanager
def atomic_folder(out: Path, size: int):
    """Yield a path beside `out`, and rename it to `out` when the `with` statement ends.

    `size` is the number of bytes to be written. After an error `out` is as it was before.

    Raises:
        StoreError: the disk has too little room, or cannot be written.
    """
    temporary = None
    try:
        with checkpoints.writing(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            _check_space(out, size)
            temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        yield (new := temporary / "new")
        with checkpoints.writing(out):
            _replace(new, out, temporary / "old")
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _check_space(out: Path, size: int) -> None:
    free = shutil.disk_usage(out.parent).free
    if free < size:
        raise StoreError(
            f"{out} needs {size / 1e9:,.2f} GB and its disk has {free / 1e9:,.2f} GB left: make"
            " room, or give another folder"
        )


def _replace(new: Path, out: Path, old: Path) -> None:
    """Rename `new` to `out`. A folder that was there becomes `old`, and is restored on failure."""
    with suppress(FileNotFoundError):
        out.rename(old)
    try:
        new.rename(out)
    except BaseException:  # Ctrl-C too
        if old.exists() and not out.exists():
            old.rename(out)
        raise
