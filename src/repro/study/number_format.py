"""The number format of a study, float32 or bfloat16, which all its records share.

The answers of a model differ a little between the formats, so a study never mixes them: the format
of its first record is that of the study. A study without records gets the format that is faster on
this machine.
"""

from typing import NamedTuple

from repro import files, provenance
from repro.errors import ConfigError, StoreError
from repro.models import architecture, devices, weights
from repro.models.registry import ModelEntry
from repro.study import records


class NumberFormat(NamedTuple):
    """The number format of a study.

    Attributes:
        parameters: its part in the parameters of records. It is empty in old records, and in those
            of models so small that float32 is always faster.
        name: of the format.
    """

    parameters: dict
    name: str


NAMED = tuple({"dtype": name} for name in devices.FORMATS)  # parameters that name a format


def check(fixed: str | None) -> None:
    """Raise ConfigError unless a format is one of `devices.FORMATS`, or None."""
    if fixed not in (None, *devices.FORMATS):
        names = " or ".join(devices.FORMATS)
        raise ConfigError(f"unknown number format {fixed!r}: give {names}")


def choose(model: ModelEntry, kind: str, params: dict, fixed: str | None) -> NumberFormat:
    """Return the format of a study.

    Args:
        model: the model that is studied.
        kind: of the first record of the study.
        params: all parameters of that record without the format.
        fixed: the format that the user chose; None: that of the first record, else the fastest.
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
    """Return the format of the first record with these parameters, finished or begun, or None."""
    return devices.in_first_process(lambda: _recorded(kind, params, fixed))


def _recorded(kind: str, params: dict, fixed: str | None) -> NumberFormat | None:
    begun = []
    for named in ({}, *NAMED):
        date, name = _begun(kind, params | named)
        if name and fixed in (None, name):
            begun.append((date, name, named))
    if not begun:
        return None
    _, name, named = min(begun, key=lambda record: record[0])
    return NumberFormat(named, name)


def _begun(kind: str, params: dict) -> tuple[str, str]:
    """Return (date, format) of a record, which may be only begun; empty texts if there is none."""
    try:
        record = records.load(kind, params)
    except StoreError:  # damaged: `repro check` names it, and computes it again in this format
        return "", params.get("dtype", "float32")
    if record:
        named = record.provenance.get("dtype", "float32")
        return record.provenance.get("date", ""), params.get("dtype", named)
    partial = files.cache_dir() / "partial" / provenance.key(kind, params)
    # "begun" sorts after every date: a begun record decides only if no record is finished.
    return ("begun", params.get("dtype", "")) if partial.exists() else ("", "")


def _fastest(model: ModelEntry) -> str:
    """Return the name of the format that this machine multiplies faster for a model."""
    # The shapes of a model without weights on this machine are estimated, so times are not stored.
    is_here = weights.available(model)
    shapes = [(rows, columns) for rows, columns in architecture.weight_shapes(model)]
    dtype = devices.inference_dtype(shapes=shapes, keep=is_here)
    return str(dtype).removeprefix("torch.")
