"""The committed records: folders of `results/`, one for each model and profile.

A folder holds one JSON-lines file per kind of record, a CSV for each record with a table, and
`digests.json`: {name of a record, or of a table's file: SHA-256 of its content}.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from repro.errors import StoreError
from repro.files import cause_of_damage, listed, text_sha256, write_atomic
from repro.provenance import digest
from repro.study.record_files import (
    Record,
    Stored,
    damaged,
    kind_and_key,
    parse,
    parse_json,
    read,
    read_table,
    record_name,
    table_text,
)

DIGESTS = "digests.json"
LINE_START = re.compile(rb'\{"kind": "(\w+)", "key": "([0-9a-f]{16})", ')


@dataclass(frozen=True)
class Folder:
    """The content of a folder of `results/`.

    Attributes:
        path: of the folder.
        digests: the content of `digests.json`; None if there is no such file.
        stored: the records by key.
        errors: pairs of a file and the error about it, or about one of its lines.
    """

    path: Path
    digests: dict[str, str] | None
    stored: dict[str, Stored]
    errors: tuple[tuple[Path, StoreError], ...] = ()

    def error_about(self, kind: str, key: str) -> StoreError | None:
        """Return the error about a file that may have held a record, or None."""
        if self.digests is not None and record_name(kind, key) not in self.digests:
            return None
        files = (f"{kind}.jsonl", DIGESTS)
        return next((error for path, error in self.errors if path.name in files), None)


@lru_cache(maxsize=4)
def folders(results: Path) -> tuple[Folder, ...]:
    """Return the folders of `results/` that hold records. No record is parsed yet.

    Raises:
        StoreError: a file cannot be read.
    """
    models = _subfolders(results)
    profiles = [profile for model in models for profile in _subfolders(model)]
    return tuple(folder for folder in map(read_folder, profiles) if folder.stored or folder.errors)


def _subfolders(folder: Path) -> list[Path]:
    return [path for path in listed(folder) if path.is_dir()]


@lru_cache(maxsize=4)
def by_key(results: Path) -> dict[str, Stored]:
    """Return every record under `results/` by its key. Raises as `folders` does."""
    return {key: stored for folder in folders(results) for key, stored in folder.stored.items()}


def forget() -> None:
    """Clear the cached content of `results/`, because a file there has changed."""
    folders.cache_clear()
    by_key.cache_clear()


def read_folder(folder: Path) -> Folder:
    """Read the lines of a folder's records, and its digests.

    Raises:
        StoreError: a file cannot be read.
    """
    paths = [path for path in listed(folder) if path.suffix == ".jsonl"]
    try:
        text = read(folder / DIGESTS)
        digests = None if text is None else parse_json(text, folder / DIGESTS)
    except StoreError as error:
        return Folder(folder, None, {}, ((folder / DIGESTS, error),))
    stored: dict[str, Stored] = {}
    errors: list[tuple[Path, StoreError]] = []
    for path in (path for path in paths if not path.name.startswith(".")):
        records, errors_of_file = _read_records(path, digests)
        stored |= records
        errors += [(path, error) for error in errors_of_file]
    return Folder(folder, digests, stored, tuple(errors))


def _read_records(
    path: Path, digests: dict[str, str] | None
) -> tuple[dict[str, Stored], list[StoreError]]:
    """Return the records of a JSON-lines file by key, and the errors about it and its lines."""
    try:
        lines = _lines(path)
    except StoreError as error:
        return {}, [error]
    stored, errors = {}, []
    for line in lines:
        try:
            kind, key = _kind_and_key(line, path)
        except StoreError as error:
            errors.append(error)
            continue
        name, digest_by_name = record_name(kind, key), digests or {}
        table = path.parent / f"{name}.csv"
        digests_of_line = digest_by_name.get(name), digest_by_name.get(table.name)
        stored[key] = Stored(line, path, table, digests_of_line, digests is not None)
    return stored, errors


def _lines(path: Path) -> list[bytes]:
    text = read(path) or b""
    if cause := cause_of_damage(text):
        raise damaged(path, cause)
    return [line for line in text.splitlines() if line]


def _kind_and_key(line: bytes, path: Path) -> tuple[str, str]:
    """Return kind and key of a line. A line that does not begin like ours is parsed."""
    if start := LINE_START.match(line):
        return start[1].decode(), start[2].decode()
    record, _ = parse(Stored(line, path, path))
    return record.kind, record.key


# --- writing --------------------------------------------------------------------------------------


def write(records: Iterable[tuple[Record, bytes | None]], folder: Path) -> list[Path]:
    """Write records, each with the text of its table, to a folder; return the files written.

    Records of other kinds stay in the folder. The digests are written twice: first those of old and
    new records, and at the end those of the records in the folder. So an interruption in between
    leaves no record without its digest.

    Raises:
        StoreError: a record that stays is damaged, or a file cannot be written.
    """
    kinds: dict[str, list[tuple[Record, bytes | None]]] = {}
    for record, table in sorted(records, key=lambda pair: pair[0].key):
        kinds.setdefault(record.kind, []).append((record, table))
    before = digests_of(folder)
    digests = {n: value for n, value in before.items() if kind_and_key(n)[0] not in kinds}
    for record, table in (pair for pairs in kinds.values() for pair in pairs):
        digests |= _digests(record, table)
    write_digests(folder, before | digests)
    written = []
    for kind, pairs in sorted(kinds.items()):
        for record, table in pairs:
            if table is not None:
                written.append(folder / record.table_name)
                write_atomic(written[-1], table)
        written.append(folder / f"{kind}.jsonl")
        write_atomic(written[-1], "".join(json.dumps(asdict(r)) + "\n" for r, _ in pairs))
    write_digests(folder, digests)
    return sorted([*written, folder / DIGESTS])


def digests_of(folder: Path) -> dict[str, str]:
    """Return the digests of a folder; if it has no `digests.json`, they are computed.

    Raises:
        StoreError: the file cannot be read, or a record without digests is damaged.
    """
    contents = read_folder(folder)
    if contents.digests is not None:
        return contents.digests
    for _, error in contents.errors:
        raise error
    digests = {}
    for stored in contents.stored.values():
        record, _ = parse(stored)
        if record.has_table:
            read_table(stored)
        table = table_text(stored, None) if record.has_table else None
        digests |= _digests(record, table)
    return digests


def _digests(record: Record, table: bytes | None) -> dict[str, str]:
    of_record = digest(record.kind, record.params, record.result, record.provenance)
    of_table = {record.table_name: text_sha256(table)} if table is not None else {}
    return {record.name: of_record} | of_table


def write_digests(folder: Path, digests: dict[str, str]) -> None:
    """Write the digests of a folder, one to a line."""
    write_atomic(folder / DIGESTS, json.dumps(digests, indent=0, sort_keys=True) + "\n")
    forget()


def remove(folder: Path, keys: Iterable[str | None]) -> None:
    """Remove records with their tables and digests from a folder, and lines that are no records.

    Args:
        folder: one of `results/`.
        keys: of the records to remove.
    """
    contents, unwanted = read_folder(folder), set(keys)
    lines: dict[Path, list[bytes]] = {
        path: [] for path, _ in contents.errors if path.name != DIGESTS
    }
    for key, stored in contents.stored.items():
        lines.setdefault(stored.path, [])
        if key in unwanted:
            stored.table.unlink(missing_ok=True)
        else:
            lines[stored.path].append(stored.text)
    for path, left in lines.items():
        if left:
            write_atomic(path, b"\n".join([*left, b""]))
        else:
            path.unlink(missing_ok=True)
    if contents.digests is not None:
        names = {record_name(s.kind, k) for k, s in contents.stored.items() if k not in unwanted}
        digests = {n: d for n, d in contents.digests.items() if n.removesuffix(".csv") in names}
        write_digests(folder, digests)
    forget()
