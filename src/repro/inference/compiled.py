"""Where numba keeps what it has compiled, so that the next process need not compile it again."""

import os
import tempfile
from pathlib import Path

from numba.core import config

from repro.files import cache_dir


def keeps(source: str) -> bool:
    """Tell whether the compiled functions of a source file can be kept; choose a folder for them.

    numba keeps them beside the source, or in the user's home. In an installation that may not be
    written they are kept under the cache folder of `repro`. Where that cannot be written either,
    they are compiled anew in each process: numba would refuse to compile at all.

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
