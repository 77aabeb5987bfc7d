"""The number format of a study: float32 or bfloat16, in all of its records or in none.

A model's answers differ a little between the formats, so a study never mixes them: its first
record decides. What has no record yet takes the format that is faster on this machine.
"""

from typing import NamedTuple

from repro import files, provenance
from repro.errors import ConfigError, StoreError
from repro.models import architecture, devices, weights
from repro.models.registry import ModelEntry
from repro.study import records


class NumberFormat(NamedTuple):
    """What the parameters of a study's records say of its format, and the format itself.

    The first records that were made did not name it, and those of models so small that float32 is
    always faster do not.
    """

    parameters: dict
    name: str


NAMED = tuple({"dtype": name} for name in devices.FORMATS)  # as records name their format


def check(fixed: str | None) -> None:
    """Raise ConfigError unless a format is one of `devices.FORMATS`, or None."""
    if fixed not in (None, *devices.FORMATS):
        known = " or ".join(devices.FORMATS)
        raise ConfigError(f"unknown number format {fixed!r}: give {known}")


def choose(model: ModelEntry, kind: str, params: dict, fixed: str | None) -> NumberFormat:
    """Return the format of a study.

    Args:
        model: the model that is studied.
        kind: of the record that is computed first of all.
        params: all parameters of that record but the format.
        fixed: the format that the user asks for; None: that of the first record, else the fastest.
    """
    return devices.in_first_process(lambda: _choose(model, kind, params, fixed))


def _choose(model: ModelEntry, kind: str, params: dict, fixed: str | None) -> NumberFormat:
    if begun := _recorded(kind, params, fixed):
        return begun
    if fixed != "bfloat16" and architecture.parameter_count(model) <= devices.SMALL_MODEL:
        return NumberFormat({}, "float32")
    name = fixed or _fastest(model)
    return NumberFormat({"dtype": name}, name)


def recorded(kind: str, params: dict, fixed: str | None) -> NumberFormat | None:
    """Return the format of the first record that was made, or begun, with these parameters."""
    return devices.in_first_process(lambda: _recorded(kind, params, fixed))


def _recorded(kind: str, params: dict, fixed: str | None) -> NumberFormat | None:
    begun = []
    for named in ({}, *NAMED):
        date, name = _begun(kind, params | named)
        if name and fixed in (None, name):
            begun.append((date, name, named))
    if not begun:
        return None
    _, name, named = min(begun, key=lambda each: each[0])
    return NumberFormat(named, name)


def _begun(kind: str, params: dict) -> tuple[str, str]:
    """Return when and in which format a record was made or begun; empty where it was not."""
    try:
        record = records.load(kind, params)
    except StoreError:  # damaged: `repro check` names it, and computes it again in this format
        return "", params.get("dtype", "float32")
    if record:
        named = record.provenance.get("dtype", "float32")
        return record.provenance.get("date", ""), params.get("dtype", named)
    partial = files.cache_dir() / "partial" / provenance.key(kind, params)
    # Later than any record: what was begun decides only where nothing was finished.
    return ("begun", params.get("dtype", "")) if partial.exists() else ("", "")


def _fastest(model: ModelEntry) -> str:
    # Shapes of a model that is not here yet are guessed from its size: not worth keeping.
    here = weights.available(model)
    shapes = [(rows, columns) for rows, columns in architecture.weight_shapes(model)]
    dtype = devices.inference_dtype(shapes=shapes, keep=here)
    return str(dtype).removeprefix("torch.")
