"""The folder in which numba stores compiled functions, so that they are compiled only once."""

import os
import tempfile
from pathlib import Path

from numba.core import config

from repro.files import cache_dir


def keeps(source: str) -> bool:
    """Tell whether the compiled functions of a source file can be stored, and choose a folder.

    numba stores them beside the source, or in the user's home. If the installation cannot be
    written, they are stored in the cache folder of `repro`. If that cannot be written either, each
    process compiles them again; with a cache, numba would refuse to compile at all.

    Args:
        source: the `__file__` of a module with compiled functions.
    """
    if "NUMBA_CACHE_DIR" in os.environ:
        return _writable(Path(os.environ["NUMBA_CACHE_DIR"]))
    if _writable(Path(source).parent / "__pycache__"):
        return True
    folder = cache_dir() / "numba"
    if not _writable(folder):
        return False
    config.CACHE_DIR = str(folder)
    return True


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
