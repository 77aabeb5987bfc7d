"""The sizes of a study: `smoke`, `quick`, `medium`, `full` or `real` (`profiles.yaml`)."""

import os
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from repro.errors import ConfigError
from repro.measures.mastery import Protocol


@dataclass(frozen=True)
class Profile:
    """Sizes of a study. `profiles.yaml` explains each field."""

    name: str
    about: str
    facts: dict
    templates: int
    draws: int
    max_new_tokens: int
    sizes: tuple
    samples: int
    percents: tuple
    restore_sizes: tuple
    restore_samples: int
    controls: tuple
    control_percents: tuple
    control_levels: tuple
    control_sizes: tuple
    control_samples: int
    layer_blocks: int
    layer_sizes: tuple
    layer_samples: int
    rates: tuple
    rate_size: int
    rate_samples: int
    tasks: dict
    mixed_samples: int
    lora_samples: int
    lora_rank: int
    choose: dict | None = None

    @property
    def restored_percents(self) -> list[float]:
        """The shares that are restored: `percents` without 0."""
        return [float(percent) for percent in self.percents if percent]

    def number_of_facts(self, split: str) -> Any:
        """Return how many facts of a split are measured, summed over score bands: int or `all`."""
        number = self.facts[split]
        return sum(number) if isinstance(number, list) else number

    def protocol(self, seed: int) -> Protocol:
        """Return the mastery protocol of this profile."""
        return Protocol(self.templates, self.draws, self.max_new_tokens, seed=seed)


@cache
def _profiles() -> dict:
    path = resources.files("repro.study") / "profiles.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))


DEFAULT_PROFILE: str = _profiles()["default"]
PROFILES: tuple[str, ...] = tuple(_profiles()["profiles"])


def profile(name: str = "default", model_profile: str = "") -> Profile:
    """Return a profile by name.

    `default` means `REPRO_PROFILE`, else `model_profile`, else the package's default.

    Raises:
        ConfigError: there is no such profile.
    """
    if name == "default":
        name = os.environ.get("REPRO_PROFILE") or model_profile or DEFAULT_PROFILE
    if name not in PROFILES:
        raise ConfigError(f"unknown profile {name!r}: use one of {', '.join(PROFILES)}")
    spec = _profiles()["profiles"][name]
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in spec.items()}
    return Profile(name=name, **fields)
