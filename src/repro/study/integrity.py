"""Finds damaged records of a study, or of `results/`, and computes them again.

A record is damaged if its file cannot be read, if it does not have its digest, or if its content is
impossible: see `repro.study.record_files` and `repro.study.record_checks`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from repro.errors import StoreError
from repro.files import results_dir
from repro.models import registry
from repro.study import committed, profiles, records
from repro.study.record_files import (
    GitFileError,
    Stored,
    damaged,
    kind_and_key,
    parse,
    read_table,
    record_name,
)
from repro.study.requests import Request
from repro.study.study import Study, open_study


@dataclass(frozen=True)
class Damage:
    """A damaged record and the error about it. Without a key the record is unknown."""

    kind: str
    key: str | None
    error: StoreError

    @property
    def name(self) -> str:
        """The name of the record (`record_files.record_name`)."""
        return record_name(self.kind, self.key)


def check_study(study: Study) -> list[Damage]:
    """Return the damaged records among those that a study needs; missing ones are no damage.

    If mastery is damaged or missing, only mastery is checked, because the facts that the other
    records depend on are unknown.
    """
    first = study.requests.mastery()
    damage = _check_requests(study, [first])
    return damage if damage or not first.record() else _check_requests(study, study.all_requests())


def check_tasks() -> list[Damage]:
    """Return the damaged records of GSM8K and XSum, of all models.

    The records contain the digest of their examples, so the examples themselves are not read.
    """
    damage = []
    for kind in ("task_finetune", "task_score"):
        for key, stored in records.find_all(kind).items():
            damage += _check_stored(kind, key, stored)
    return damage


def _check_stored(kind: str, key: str, stored: Stored) -> list[Damage]:
    try:
        record, _ = parse(stored)
        if record.has_table:
            read_table(stored)
    except StoreError as error:
        return [Damage(kind, key, error)]
    return []


def _check_requests(study: Study, requests: Iterable[Request]) -> list[Damage]:
    damage = []
    for request in requests:
        try:
            _check_request(study, request)
        except StoreError as error:
            damage.append(Damage(request.kind, request.key, error))
    return damage


def _check_request(study: Study, request: Request) -> None:
    record = request.record()
    if record is None:
        return
    if record.has_table:
        records.load_table(record)
    if request.kind in ("accuracy", "instruct"):
        records.check_asked(record, len(study.pools.facts(request.run, request.params["split"])))


def check_folder(path: Path) -> list[Damage]:
    """Return the damaged records of a folder of `results/`, and those missing from its files."""
    folder = committed.read_folder(path)
    damage = [Damage(file.stem, None, error) for file, error in folder.errors]
    for key, stored in folder.stored.items():
        damage += _check_stored(stored.kind, key, stored)
    names = {record_name(stored.kind, key) for key, stored in folder.stored.items()}
    for name in sorted(folder.digests or ()):
        if name.removesuffix(".csv") not in names:
            kind, key = kind_and_key(name)
            error = damaged(path / f"{kind}.jsonl", f"lacks {name}, of which there is a digest")
            damage.append(Damage(kind, key, error))
    return damage


def check_results() -> dict[tuple[str, str], list[Damage]]:
    """Return the damaged records of each folder of `results/` by (model, profile).

    A folder without damage is not in the result. If the model and the profile are known, the
    numbers of answers are compared with the numbers of facts in their study.

    Raises:
        StoreError: a folder cannot be read.
    """
    committed.forget()
    damage = {}
    for folder in committed.folders(results_dir()):
        model, profile = folder.path.parts[-2:]
        damages = check_folder(folder.path)
        if not damages and model in registry.entries() and profile in profiles.PROFILES:
            damages = check_study(open_study(model, profile))
        damage |= {(model, profile): damages} if damages else {}
    return damage


def repair(study: Study, damage: list[Damage], workers: int | None = None) -> int:
    """Delete damaged records of a study, compute them again, and return how many were computed.

    Records that were in `results/` are written there again, beside the undamaged ones. A record
    that the study does not need, such as one of GSM8K, is only deleted.

    Raises:
        GitFileError: a file differs from what was committed, and Git can restore it.
        ReproError: a record cannot be computed.
    """
    repaired = 0
    # Twice: records that depend on mastery can be checked only when mastery is undamaged.
    for _ in ("mastery", "the records that depend on it"):
        repaired += _compute_again(study, damage, workers)
        if not (damage := check_study(study)):
            return repaired
    raise damage[0].error


def _compute_again(study: Study, damage: list[Damage], workers: int | None) -> int:
    """Delete damaged records, compute those that the study needs, and return their number."""
    for damaged_record in damage:
        if isinstance(damaged_record.error, GitFileError):
            raise damaged_record.error
    folders = _delete(damage)
    first = study.requests.mastery()
    if first.name in folders:  # the records that depend on mastery are unknown until it is measured
        requests = [first]
    else:
        requests = [request for request in study.all_requests() if request.name in folders]
    study.compute(requests, workers)
    for folder in {folders[request.name] for request in requests} - {None}:
        _export_again([r for r in requests if folders[r.name] == folder], folder)
    return len(requests)


def _delete(damage: list[Damage]) -> dict[str, Path | None]:
    """Delete damaged records; return the folder of `results/` that held each (None: the cache)."""
    folders = {record.name: _folder(record) for record in damage}
    for folder in set(folders.values()) - {None}:
        committed.remove(folder, [r.key for r in damage if folders[r.name] == folder])
    for record in damage:
        in_cache = folders[record.name] is None
        if record.key and (in_cache or _is_damaged_in_cache(record.kind, record.key)):
            records.delete(record.kind, record.key)
    return folders


def _is_damaged_in_cache(kind: str, key: str) -> bool:
    try:
        stored = records.find(kind, key)
    except StoreError:
        return True
    return bool(stored and _check_stored(kind, key, stored))


def _folder(damage: Damage) -> Path | None:
    """Return the folder of `results/` that holds a damaged record, or None."""
    for folder in committed.folders(results_dir()):
        if damage.key in folder.stored or folder.error_about(damage.kind, damage.key):
            return folder.path
    return None


def _export_again(requests: list[Request], folder: Path) -> None:
    """Write the records of requests to a folder, beside its other records of the same kinds."""
    kinds = {request.kind for request in requests}
    present = [parse(stored)[0] for stored in committed.read_folder(folder).stored.values()]
    computed = [request.record() for request in requests]
    records.export([*(record for record in present if record.kind in kinds), *computed], folder)
