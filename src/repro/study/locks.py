"""Locks on pieces of work, so that processes that share a cache never do the same work twice.

The locks are those of the operating system. A lock ends with the process that holds it, however the
process ends. So no process waits for one that was killed, and no old lock must be removed.
"""

from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from repro import files
from repro.errors import StoreError


def acquire(name: str) -> FileLock | None:
    """Return the lock of this name in the cache folder, or None while another process holds it.

    Raises:
        StoreError: the cache folder cannot be written.
    """
    path = files.cache_dir() / "locks" / f"{name}.lock"
    lock = FileLock(path, thread_local=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        return None
    except OSError as error:
        hint = "check its permissions and free space, or set REPRO_CACHE to another folder"
        raise StoreError(f"cannot write {path} ({error.strerror or error}): {hint}") from error
    return lock


def release(lock: FileLock) -> None:
    """Release a lock and remove its file.

    The file is removed while the lock is still held. A process that opened the file before gets a
    lock on a file without a name, which `FileLock` notices and releases.
    """
    with suppress(OSError):  # on Windows an open file cannot be removed, and stays
        Path(lock.lock_file).unlink()
    lock.release()
