"""Where the weights of a model are on this machine, and what identifies them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

from repro.errors import ModelError
from repro.files import sha256
from repro.models import hub
from repro.models.checkpoint_files import content_id, weight_files
from repro.models.gguf import convert, converted_folder, installed_parts
from repro.models.registry import ModelEntry, entries

TEXT = (".json", ".txt")  # Git may change the line ends of these
IDENTIFYING = (".safetensors", ".model", *TEXT)  # files that results depend on


def weights_id(model: ModelEntry) -> str:
    """Return what identifies a model in records: a Hub revision or a SHA-256.

    It needs no download. The identity of a folder, and of a bundled model, covers the weights, the
    configuration and the tokenizer. A folder is identified by the content of its tensors; a
    bundled model by its files, as in the records that come with it, and so is a copy of it.
    """
    if model.hub:
        return f"{model.hub['id']}@{model.hub['revision']}"
    if model.gguf:
        return f"sha256:{model.gguf['sha256']}"
    if not model.bundled:
        content = content_id(locate(model))
        copied = (m for m in entries().values() if m.bundled and available(m))
        same = (m for m in copied if content_id(bundled_folder(m)) == content)
        return next(map(weights_id, same), content)
    digest, folder = hashlib.sha256(), locate(model)
    for path in sorted(p for p in folder.iterdir() if p.suffix in IDENTIFYING):
        digest.update(f"{path.name}:{sha256(path, text=path.suffix in TEXT)}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def is_among(identity: str, names: Iterable[str]) -> bool:
    """Tell whether what `weights_id` returned is the identity of one of some registered models."""
    models = (entries()[name] for name in names)
    return identity in (weights_id(m) for m in models if not m.bundled or available(m))


def locate(model: ModelEntry) -> Path:
    """Return the local folder of a model's safetensors, converting GGUF on first use.

    For a Hub model it is the folder named after it under `REPRO_MODELS`, if that exists.

    Raises:
        ModelError: nothing usable is there.
    """
    if model.gguf:
        return convert(model)
    if model.hub:
        return Path(os.environ.get("REPRO_MODELS", "models")) / model.name
    if model.bundled:
        return _bundled_weights(model)
    weight_files(model.folder)
    return model.folder


def obtain(model: ModelEntry) -> Path:
    """Return the local folder of a model's weights, downloaded from the Hub on first use.

    Raises:
        ModelError: nothing usable is there, or the Hub does not give it.
    """
    folder = locate(model)
    if not model.hub or folder.is_dir():
        return folder
    return hub.download(model.hub["id"], model.hub["revision"])


def bundled_folder(model: ModelEntry) -> Path:
    """Return where in the installed package a bundled model is, or would be."""
    return Path(str(resources.files("repro").joinpath("weights", model.name)))


def _bundled_weights(model: ModelEntry) -> Path:
    """Return the folder of a bundled model; raise ModelError if it holds no weights."""
    folder = bundled_folder(model)
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{model.name} belongs to the package, but {folder} does not hold it: install the"
            f" package again, or make the weights with `python -m repro.pretrain {model.name} --out"
            f" {folder}`"
        )
    return folder


def available(model: ModelEntry) -> bool:
    """Tell whether a model can be loaded without a download."""
    if model.gguf:
        return converted_folder(model).exists() or bool(installed_parts(model))
    if model.bundled:
        return any(bundled_folder(model).glob("*.safetensors"))
    if locate(model).exists():
        return True
    return bool(model.hub) and hub.downloaded(model.hub["id"], model.hub["revision"])
