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
    """The records of a folder by key, its digests, and what in it cannot be read."""

    path: Path
    digests: dict[str, str] | None
    stored: dict[str, Stored]
    errors: tuple[tuple[Path, StoreError], ...] = ()  # (file, what is wrong with a line of it)

    def error_about(self, kind: str, key: str) -> StoreError | None:
        """Return what is wrong with the file that may have held a record, or None."""
        if self.digests is not None and record_name(kind, key) not in self.digests:
            return None
        files = (f"{kind}.jsonl", DIGESTS)
        return next((error for path, error in self.errors if path.name in files), None)


@lru_cache(maxsize=4)
def folders(results: Path) -> tuple[Folder, ...]:
    """Return the folders of `results/` that hold records. No record is parsed yet.

    Raises:
        StoreError: a file of them cannot be read.
    """
    models = _subfolders(results)
    profiles = [profile for model in models for profile in _subfolders(model)]
    return tuple(each for each in map(read_folder, profiles) if each.stored or each.errors)


def _subfolders(folder: Path) -> list[Path]:
    return [path for path in listed(folder) if path.is_dir()]


@lru_cache(maxsize=4)
def by_key(results: Path) -> dict[str, Stored]:
    """Return every record under `results/` by its key. Raises as `folders` does."""
    return {key: stored for each in folders(results) for key, stored in each.stored.items()}


def forget() -> None:
    """Forget what was read of `results/`, because a file there has changed."""
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
        try:
            lines = _lines(path)
        except StoreError as error:
            errors.append((path, error))
            continue
        for line in lines:
            try:
                kind, key = _kind_and_key(line, path)
            except StoreError as error:
                errors.append((path, error))
                continue
            name, known = record_name(kind, key), digests or {}
            table = folder / f"{name}.csv"
            digests_of_line = known.get(name), known.get(table.name)
            stored[key] = Stored(line, path, table, digests_of_line, digests is not None)
    return Folder(folder, digests, stored, tuple(errors))


def _lines(path: Path) -> list[bytes]:
    text = read(path) or b""
    if cause := cause_of_damage(text):
        raise damaged(path, cause)
    return [line for line in text.splitlines() if line]


def _kind_and_key(line: bytes, path: Path) -> tuple[str, str]:
    """Return kind and key of a line; a line that begins otherwise than ours is parsed."""
    if start := LINE_START.match(line):
        return start[1].decode(), start[2].decode()
    record, _ = parse(Stored(line, path, path))
    return record.kind, record.key


# --- writing --------------------------------------------------------------------------------------


def write(records: Iterable[tuple[Record, bytes | None]], folder: Path) -> list[Path]:
    """Write records, each with the text of its table, to a folder; return the files written.

    Records of other kinds stay in the folder. The digests are written twice: first those of old
    and new records, last those of the records that are there, so that to be killed in between
    leaves no record without its digest.

    Raises:
        StoreError: a record that stays is damaged, or a file cannot be written.
    """
    kinds: dict[str, list[tuple[Record, bytes | None]]] = {}
    for record, table in sorted(records, key=lambda pair: pair[0].key):
        kinds.setdefault(record.kind, []).append((record, table))
    before = digests_of(folder)
    digests = {n: each for n, each in before.items() if kind_and_key(n)[0] not in kinds}
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
    """Return the digests of a folder; they are computed where it has no `digests.json`.

    Raises:
        StoreError: the file cannot be read, or a record without digests is damaged.
    """
    known = read_folder(folder)
    if known.digests is not None:
        return known.digests
    for _, error in known.errors:
        raise error
    digests = {}
    for stored in known.stored.values():
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
    """Remove records from a folder, with their tables and digests, and lines that are no records.

    Args:
        folder: one of `results/`.
        keys: of the records to remove.
    """
    known, unwanted = read_folder(folder), set(keys)
    lines: dict[Path, list[bytes]] = {path: [] for path, _ in known.errors if path.name != DIGESTS}
    for key, stored in known.stored.items():
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
    if known.digests is not None:
        names = {record_name(s.kind, k) for k, s in known.stored.items() if k not in unwanted}
        digests = {n: d for n, d in known.digests.items() if n.removesuffix(".csv") in names}
        write_digests(folder, digests)
    forget()
