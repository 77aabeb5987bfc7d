"""The store of records: one for each finished measurement, with its provenance.

The key of a record is a hash of the complete parameters that produced it. So no setting is
forgotten, and two settings never share a file. Records are looked up first in `results/` of the
repository (committed, one folder per model and profile), then in the cache. Damaged records are
refused: see `repro.study.record_files`.
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
    """Write a record to the cache. Its table is written first, so a stored record is complete.

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
    """Return the record of a key as it is stored, without parsing it, or None.

    Raises:
        StoreError: its file cannot be read, or a damaged file may have held it.
    """
    results = results_dir()
    if stored := committed.by_key(results).get(key_of_record):
        return stored
    for folder in committed.folders(results):
        if error := folder.error_about(kind, key_of_record):
            raise error
    return _read_cached(kind, key_of_record)


def matching(kind: str, params: dict) -> list[Record]:
    """Return the records whose parameters include these, in the order of their dates.

    Raises:
        StoreError: as in `load`.
    """
    records = [parse(stored)[0] for stored in find_all(kind).values()]
    matches = [record for record in records if params.items() <= record.params.items()]
    return sorted(matches, key=lambda record: (record.provenance["date"], record.key))


def find_all(kind: str) -> dict[str, Stored]:
    """Return all records of a kind by key, from `results/` and the cache, without parsing them.

    Raises:
        StoreError: a file cannot be read.
    """
    committed_records = committed.by_key(results_dir())
    stored_by_key = {k: stored for k, stored in committed_records.items() if stored.kind == kind}
    for path in listed(cache_dir() / "records" / kind):
        is_record = path.suffix == ".json" and not path.name.startswith(".")
        if is_record and path.stem not in stored_by_key:
            stored = _read_cached(kind, path.stem)
            stored_by_key |= {path.stem: stored} if stored else {}
    return stored_by_key


def load_table(record: Record) -> pd.DataFrame:
    """Return the table saved beside a record.

    Raises:
        StoreError: the table is missing or damaged.
    """
    return read_table(_stored(record))


def check_asked(record: Record, number: int) -> None:
    """Check that a record holds answers to `number` questions.

    Raises:
        StoreError: it holds another number of answers.
    """
    try:
        record_checks.check_asked(record.result, number)
    except ValueError as error:
        cause = f"does not fit its study ({record.name}: {error})"
        raise damaged(_stored(record).path, cause) from error


def origins(records: Iterable[Record], shared: dict | None = None) -> pd.DataFrame:
    """Return the origin of each record: kind, key, wall_seconds, date, commit, versions …

    `shared` are further columns, such as the parameters that all records share.
    """
    # A fine-tuning has its seconds in the result, because its record is written after other work.
    return pd.DataFrame(
        {"kind": r.kind, "key": r.key, **(shared or {}), **r.provenance}
        | ({"wall_seconds": r.result["seconds"]} if "seconds" in r.result else {})
        for r in records
    )


def export(records: list[Record], folder: Path) -> list[Path]:
    """Copy records to a folder of `results/` and return the files written.

    Tables are written as CSV files, records as one JSON-lines file per kind, and the digests of all
    as `digests.json`. Other records of the same kinds in the folder are removed.

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
