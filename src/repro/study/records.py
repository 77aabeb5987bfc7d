"""One record per finished run, written atomically, with its provenance.

A record's key is a hash of the complete parameters that produced it, so a setting can
never be forgotten and two settings never share a file. Records are looked up first in the
repository's `results/` (committed, one folder per model and profile), then in the cache.
"""

import json
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path

import pandas as pd

from repro.errors import StoreError
from repro.files import cache_dir, results_dir, write_atomic
from repro.provenance import key


@dataclass(frozen=True)
class Record:
    """What one run was asked to do (`params`), what came out, and where and when."""

    kind: str
    key: str
    params: dict
    result: dict
    provenance: dict = field(default_factory=dict)


def save(record: Record, table: pd.DataFrame | None = None) -> None:
    """Write a record to the cache, its table first: a record on disk is always complete.

    Raises:
        StoreError: the cache cannot be written, or the result holds NaN or infinity.
    """
    path = cache_dir() / "records" / record.kind / f"{record.key}.json"
    try:
        text = json.dumps(asdict(record), indent=1, allow_nan=False) + "\n"
    except ValueError as error:
        raise StoreError(f"the result of {record.kind} is not finite, so it is not kept") from error
    if table is not None:
        write_atomic(path.with_suffix(".csv"), table.to_csv(index=False))
    write_atomic(path, text)


def load(kind: str, params: dict) -> Record | None:
    """Return the record of these parameters from `results/`, else from the cache, else None.

    Raises:
        StoreError: the file cannot be read, is not a record, or is one of other parameters.
    """
    wanted = key(kind, params)
    if wanted in (committed := _committed(results_dir())):
        return committed[wanted][0]
    path = cache_dir() / "records" / kind / f"{wanted}.json"
    try:
        return _parse(path.read_bytes(), path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StoreError(f"cannot read {path} ({error.strerror}): check its permissions") from error


def matching(kind: str, params: dict) -> list[Record]:
    """Return the records that have these parameters among theirs, in the order of their dates.

    Raises StoreError as `load` does.
    """
    found = {record.key: record for record, _ in _committed(results_dir()).values()}
    for path in (cache_dir() / "records" / kind).glob("[!.]*.json"):
        found.setdefault(path.stem, _parse(path.read_bytes(), path))
    same = [r for r in found.values() if r.kind == kind and params.items() <= r.params.items()]
    return sorted(same, key=lambda record: (record.provenance.get("date", ""), record.key))


def load_table(record: Record) -> pd.DataFrame:
    """Return the table saved beside a record.

    Raises:
        StoreError: the table is missing or damaged.
    """
    committed = _committed(results_dir()).get(record.key)
    folder = committed[1] if committed else cache_dir() / "records" / record.kind
    name = f"{record.kind}-{record.key}.csv" if committed else f"{record.key}.csv"
    remedy = "delete it and the record beside it, and run again"
    if not (folder / name).exists():
        raise StoreError(f"{folder / name} is missing: {remedy}")
    try:
        return pd.read_csv(folder / name)
    except ValueError as error:
        raise StoreError(f"{folder / name} is not a table: {remedy}") from error


def export(records: list[Record], folder: Path) -> list[Path]:
    """Copy records to a folder of `results/`: tables as CSV, then one JSON-lines file per kind."""
    written = []
    for kind in sorted({record.kind for record in records}):
        chosen = sorted((r for r in records if r.kind == kind), key=lambda r: r.key)
        for record in (r for r in chosen if r.result.get("table") is True):
            path = folder / f"{kind}-{record.key}.csv"
            write_atomic(path, load_table(record).to_csv(index=False))
            written.append(path)
        lines = [json.dumps(asdict(record)) for record in chosen]
        write_atomic(folder / f"{kind}.jsonl", "\n".join(lines) + "\n")
        written.append(folder / f"{kind}.jsonl")
    _committed.cache_clear()
    return written


@lru_cache(maxsize=4)
def _committed(folder: Path) -> dict[str, tuple[Record, Path]]:
    try:
        texts = {path: path.read_bytes() for path in sorted(folder.glob("*/*/*.jsonl"))}
    except OSError as error:
        raise StoreError(
            f"cannot read {folder} ({error.strerror}): check its permissions"
        ) from error
    found = {}
    for path, text in texts.items():
        for line in text.splitlines():
            record = _parse(line, path)
            found[record.key] = (record, path.parent)
    return found


def _parse(text: bytes, path: Path) -> Record:
    try:
        record = Record(**json.loads(text))
        wanted = key(record.kind, record.params)
    except (ValueError, TypeError) as error:
        raise StoreError(f"{path} is not a record ({error}): delete it and run again") from error
    if record.key != wanted:
        raise StoreError(f"{path} does not match its own parameters: delete it and run again")
    return record
