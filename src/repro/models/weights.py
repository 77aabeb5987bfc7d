"""The folder of a model's weights on this machine, and the identity of the weights in records."""

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
    """Return the identity of a model in records: a Hub revision or a SHA-256.

    Nothing is downloaded. The identity of a folder, and of a bundled model, covers the weights, the
    configuration and the tokenizer. That of a folder is the content of its tensors; that of a
    bundled model its files, as in the records that come with it. A copy of a bundled model has the
    identity of the model.
    """
    if model.hub:
        return f"{model.hub['id']}@{model.hub['revision']}"
    if model.gguf:
        return f"sha256:{model.gguf['sha256']}"
    if not model.bundled:
        content = content_id(locate(model))
        bundled = (m for m in entries().values() if m.bundled and available(m))
        originals = (m for m in bundled if content_id(bundled_folder(m)) == content)
        return next(map(weights_id, originals), content)
    digest, folder = hashlib.sha256(), locate(model)
    for path in sorted(p for p in folder.iterdir() if p.suffix in IDENTIFYING):
        digest.update(f"{path.name}:{sha256(path, text=path.suffix in TEXT)}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def is_among(identity: str, names: Iterable[str]) -> bool:
    """Tell whether an identity that `weights_id` returned is that of one of the named models."""
    models = (entries()[name] for name in names)
    return identity in (weights_id(m) for m in models if not m.bundled or available(m))


def locate(model: ModelEntry) -> Path:
    """Return the local folder of a model's safetensors; GGUF is converted on first use.

    For a Hub model it is the folder with its name under `REPRO_MODELS`, which may not exist.

    Raises:
        ModelError: the folder holds no usable weights.
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
    """Return the local folder of a model's weights; they are downloaded on first use.

    Raises:
        ModelError: the folder holds no usable weights, or the Hub does not offer the model.
    """
    folder = locate(model)
    if not model.hub or folder.is_dir():
        return folder
    return hub.download(model.hub["id"], model.hub["revision"])


def bundled_folder(model: ModelEntry) -> Path:
    """Return the folder of a bundled model in the installed package; it may not exist."""
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
