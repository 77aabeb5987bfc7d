"""One record per finished run, written atomically, with its provenance.

A record's key is a hash of the complete parameters that produced it, so a setting can
never be forgotten and two settings never share a file. Records are looked up first in the
repository's `results/` (committed, one folder per model and profile), then in the cache. What is
damaged is refused: see `repro.study.record_files`.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from repro.errors import StoreError
from repro.files import cache_dir, listed, results_dir, text_sha256, write_atomic
from repro.provenance import digest, key
from repro.study import committed, record_checks
from repro.study.record_files import Record, Stored, damaged, parse, read, read_table, table_text

__all__ = ["Record", "check_asked", "export", "load", "load_table", "matching", "origins", "save"]


def save(record: Record, table: pd.DataFrame | None = None) -> None:
    """Write a record to the cache, its table first: a record on disk is always complete.

    Raises:
        StoreError: the cache cannot be written, or the result holds NaN or infinity.
    """
    path = _cached(record.kind, record.key)
    content = asdict(record)
    try:
        content["digest"] = digest(record.kind, record.params, record.result, record.provenance)
    except ValueError as error:
        raise StoreError(f"the result of {record.kind} is not finite, so it is not kept") from error
    if table is not None:
        text = table.to_csv(index=False, lineterminator="\n").encode()
        content["table_digest"] = text_sha256(text)
        write_atomic(path.with_suffix(".csv"), text)
    write_atomic(path, json.dumps(content, indent=1) + "\n")


def load(kind: str, params: dict) -> Record | None:
    """Return the record of these parameters from `results/`, else from the cache, else None.

    Raises:
        StoreError: the file cannot be read, is damaged, or holds a record of other parameters.
    """
    stored = find(kind, key(kind, params))
    return parse(stored)[0] if stored else None


def find(kind: str, key_of_record: str) -> Stored | None:
    """Return the record of a key as it is stored, or None; it is not parsed.

    Raises:
        StoreError: its file cannot be read, or it may have been in a file that is damaged.
    """
    results = results_dir()
    if stored := committed.by_key(results).get(key_of_record):
        return stored
    for folder in committed.folders(results):
        if error := folder.error_about(kind, key_of_record):
            raise error
    return _read_cached(kind, key_of_record)


def matching(kind: str, params: dict) -> list[Record]:
    """Return the records that have these parameters among theirs, in the order of their dates.

    Raises StoreError as `load` does.
    """
    records = [parse(stored)[0] for stored in find_all(kind).values()]
    same = [r for r in records if params.items() <= r.params.items()]
    return sorted(same, key=lambda record: (record.provenance["date"], record.key))


def find_all(kind: str) -> dict[str, Stored]:
    """Return all records of a kind by key, from `results/` and the cache; they are not parsed.

    Raises:
        StoreError: a file cannot be read.
    """
    stored = committed.by_key(results_dir()).items()
    records_by_key = {k: each for k, each in stored if each.path.stem == kind}
    for path in listed(cache_dir() / "records" / kind):
        if (
            path.suffix == ".json"
            and not path.name.startswith(".")
            and path.stem not in records_by_key
        ):
            each = _read_cached(kind, path.stem)
            records_by_key |= {path.stem: each} if each else {}
    return records_by_key


def load_table(record: Record) -> pd.DataFrame:
    """Return the table saved beside a record.

    Raises:
        StoreError: the table is missing or damaged.
    """
    return read_table(_stored(record))


def check_asked(record: Record, number: int) -> None:
    """Check that a record holds answers to as many questions as were asked.

    Raises:
        StoreError: it holds another number of them.
    """
    try:
        record_checks.check_asked(record.result, number)
    except ValueError as error:
        cause = f"does not fit its study ({record.name}: {error})"
        raise damaged(_stored(record).path, cause) from error


def origins(records: Iterable[Record], shared: dict | None = None) -> pd.DataFrame:
    """Return where each record comes from: kind, key, wall_seconds, date, commit, versions …

    `shared` are further columns, such as the parameters that all records share.
    """
    # A fine-tuning times itself, because its record is written after other work.
    return pd.DataFrame(
        {"kind": r.kind, "key": r.key, **(shared or {}), **r.provenance}
        | ({"wall_seconds": r.result["seconds"]} if "seconds" in r.result else {})
        for r in records
    )


def export(records: list[Record], folder: Path) -> list[Path]:
    """Copy records to a folder of `results/` and return the files written.

    Tables are CSV files, records one JSON-lines file per kind, and the digests of all are in
    `digests.json`. Of the kinds that are written, other records in the folder are removed.

    Raises:
        StoreError: a record or a table is damaged, or a file cannot be written.
    """
    pairs = []
    for record in records:
        table = None
        if record.has_table:
            stored = _stored(record)
            read_table(stored)
            table = table_text(stored, parse(stored)[1])
        pairs.append((record, table))
    return committed.write(pairs, folder)


def delete(kind: str, key_of_record: str) -> None:
    """Delete a record from the cache, and its table."""
    for path in (_cached(kind, key_of_record), _cached(kind, key_of_record).with_suffix(".csv")):
        path.unlink(missing_ok=True)


def _stored(record: Record) -> Stored:
    stored = find(record.kind, record.key)
    if stored is None:
        raise damaged(_cached(record.kind, record.key).with_suffix(".csv"), "is missing")
    return stored


def _cached(kind: str, key_of_record: str) -> Path:
    return cache_dir() / "records" / kind / f"{key_of_record}.json"


def _read_cached(kind: str, key_of_record: str) -> Stored | None:
    path = _cached(kind, key_of_record)
    text = read(path)
    return None if text is None else Stored(text, path, path.with_suffix(".csv"))
