"""Checks the parameters of a notebook, before its kernel starts and again inside it."""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from repro.errors import ConfigError
from repro.files import user_path


def fraction(value: Any) -> float:
    """Return `value` as a share of the parameters in [0, 1] (the paper's §5 restores such shares).

    Accepts a number or the text of one. Raises ConfigError for anything else.
    """
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number <= 1:
        raise ConfigError(f"frac must be a number from 0 to 1, such as 0.4, not {value!r}.")
    return number


def check_names(notebook: str, given: Iterable[str], names: Sequence[str]) -> None:
    """Raise ConfigError for a parameter that a notebook does not have.

    Without this a misspelt name would run the notebook with its defaults.
    """
    for name in given:
        if name not in names and not name.startswith("PAPERMILL_"):
            near = get_close_matches(name, names, 1)
            meant = f"; did you mean {near[0]}?" if near else "."
            listed_names = ", ".join(names) or "none"
            raise ConfigError(
                f"{notebook} has no parameter {name}{meant} Its parameters: {listed_names}."
            )


def check_parameters(parameters: Mapping[str, Any], names: Iterable[str] = ()) -> None:
    """Raise ReproError if a notebook parameter has an impossible value.

    `names` are the parameters of the notebook. Those that are not given come from the settings
    REPRO_MODEL, REPRO_PROFILE and REPRO_TASKS, which are checked too.
    """
    known_names = set(parameters) | set(names)
    if "frac" in parameters:
        fraction(parameters["frac"])
    if "model" in known_names:
        from repro.models import registry

        registry.entry(parameters.get("model", "default"))
    if "profile" in known_names:
        from repro.study import profiles

        profiles.profile(parameters.get("profile", "default"))
    tasks = os.environ.get("REPRO_TASKS")
    if "model" in names and tasks and tasks != "hub" and not user_path(tasks).is_dir():
        raise ConfigError(f"REPRO_TASKS names a folder that does not exist: {tasks}")
