"""Where the weights of a model are on this machine, and what identifies them."""

from __future__ import annotations

import hashlib
import json
import os
from importlib import resources
from pathlib import Path

from repro.errors import ModelError
from repro.files import safetensors, sha256
from repro.models.gguf import converted, converted_folder, wheel_part
from repro.models.registry import Entry

PINNED = (".safetensors", ".json", ".model", ".txt")  # what a folder's results depend on


def weights_id(model: Entry) -> str:
    """Return what pins a model: a Hub revision or a SHA-256. It needs no download.

    For a folder, and a bundled model, it covers the weights, the configuration and the tokenizer.
    """
    if model.hub:
        return f"{model.hub['id']}@{model.hub['revision']}"
    if model.gguf:
        return f"sha256:{model.gguf['sha256']}"
    digest, folder = hashlib.sha256(), locate(model)
    for path in sorted(p for p in folder.iterdir() if p.suffix in PINNED):
        digest.update(f"{path.name}:{sha256(path)}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def layers(model: Entry) -> int:
    """Return how many layers a model has, from the registry or the folder's configuration."""
    if model.layers:
        return model.layers
    path = locate(model) / "config.json"
    told = json.loads(path.read_bytes()) if path.exists() else {}
    if "num_hidden_layers" in told:
        return told["num_hidden_layers"]
    from transformers import AutoConfig  # which knows what other families call it

    return AutoConfig.from_pretrained(locate(model)).num_hidden_layers


def locate(model: Entry) -> Path:
    """Return the local folder of a model's safetensors, converting GGUF on first use.

    For a Hub model it is the folder named after it under `REPRO_MODELS`, if that exists.

    Raises:
        ModelError: nothing usable is there.
    """
    if model.gguf:
        return converted(model)
    if model.hub:
        return Path(os.environ.get("REPRO_MODELS", "models")) / model.name
    if model.bundled:
        return _bundled(model)
    safetensors(model.folder)
    return model.folder


def bundled_folder(model: Entry) -> Path:
    """Return where in the installed package a bundled model is, or would be."""
    return Path(str(resources.files("repro").joinpath("weights", model.name)))


def _bundled(model: Entry) -> Path:
    folder = bundled_folder(model)
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{model.name} belongs to the package, but {folder} does not hold it: install the"
            f" package again, or make the weights with `python -m repro.pretrain {model.name} --out"
            f" {folder}`"
        )
    return folder


def available(model: Entry) -> bool:
    """Tell whether a model can be loaded without a download."""
    if model.gguf:
        return converted_folder(model).exists() or all(wheel_part(*p) for p in model.gguf["parts"])
    if model.bundled:
        return any(bundled_folder(model).glob("*.safetensors"))
    return locate(model).exists()
