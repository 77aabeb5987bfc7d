"""Which records of a study, or of `results/`, are damaged; and how they are computed again.

A record is damaged if its file cannot be read, it does not have its digest, or what it says cannot
be: see `repro.study.record_files` and `repro.study.record_checks`.
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
    """A record that is refused, and why. Without a key it is not known which record it was."""

    kind: str
    key: str | None
    error: StoreError

    @property
    def name(self) -> str:
        """The name of the record (`record_files.record_name`)."""
        return record_name(self.kind, self.key)


def check_study(study: Study) -> list[Damage]:
    """Return the damaged records among those that a study needs; missing ones are no damage.

    If mastery is damaged or missing it is not known which facts the rest depends on, and only
    mastery is checked.
    """
    first = study.requests.mastery()
    damage = _check_requests(study, [first])
    return damage if damage or not first.record() else _check_requests(study, study.all_requests())


def check_tasks() -> list[Damage]:
    """Return the damaged records of GSM8K and XSum, whatever model they are of.

    Which examples they were measured on is known from the records alone, so none is looked up.
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
    """Return the damaged records of a folder of `results/`, and those of its digests it lacks."""
    folder = committed.read_folder(path)
    damage = [Damage(where.stem, None, error) for where, error in folder.errors]
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

    A folder without damage is absent. Where the model and the profile are known, the numbers of
    answers are compared with the facts that their study asks.

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

    What was in `results/` is written there again, beside the records that are whole. A record
    that the study does not need, such as one of GSM8K, is only deleted.

    Raises:
        GitFileError: a file is not what was committed, and Git can put it right.
        ReproError: a record cannot be computed.
    """
    repaired = 0
    for _ in ("mastery", "what depends on it"):  # which can only be checked when mastery is whole
        repaired += _compute_again(study, damage, workers)
        if not (damage := check_study(study)):
            return repaired
    raise damage[0].error


def _compute_again(study: Study, damage: list[Damage], workers: int | None) -> int:
    for each in damage:
        if isinstance(each.error, GitFileError):
            raise each.error
    folders = _delete(damage)
    first = study.requests.mastery()
    if first.name in folders:  # what depends on mastery is not known until it is measured again
        again = [first]
    else:
        again = [request for request in study.all_requests() if request.name in folders]
    study.compute(again, workers)
    for folder in {folders[request.name] for request in again} - {None}:
        _export_again([request for request in again if folders[request.name] == folder], folder)
    return len(again)


def _delete(damage: list[Damage]) -> dict[str, Path | None]:
    """Delete damaged records; return for each the folder of `results/` it was in, or None."""
    folders = {each.name: _folder(each) for each in damage}
    for folder in set(folders.values()) - {None}:
        committed.remove(folder, [each.key for each in damage if folders[each.name] == folder])
    for each in (each for each in damage if each.key):
        if not folders[each.name] or _in_cache_damaged(each.kind, each.key):
            records.delete(each.kind, each.key)
    return folders


def _in_cache_damaged(kind: str, key: str) -> bool:
    try:
        stored = records.find(kind, key)
    except StoreError:
        return True
    return bool(stored and _check_stored(kind, key, stored))


def _folder(damage: Damage) -> Path | None:
    for folder in committed.folders(results_dir()):
        if damage.key in folder.stored or folder.error_about(damage.kind, damage.key):
            return folder.path
    return None


def _export_again(requests: list[Request], folder: Path) -> None:
    kinds = {request.kind for request in requests}
    there = [parse(stored)[0] for stored in committed.read_folder(folder).stored.values()]
    again = [request.record() for request in requests]
    records.export([*(r for r in there if r.kind in kinds), *again], folder)
