"""Values a notebook accepts, checked before a kernel starts and again inside it."""

import math
from collections.abc import Mapping
from typing import Any

from repro.errors import ConfigError


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


def check_parameters(parameters: Mapping[str, Any]) -> None:
    """Raise ConfigError when a notebook parameter has a value that no run can have."""
    if "frac" in parameters:
        fraction(parameters["frac"])
    if "model" in parameters:
        from repro.models import registry

        registry.entry(parameters["model"])
    if "profile" in parameters:
        from repro.study import profiles

        profiles.profile(parameters["profile"])
