"""Loading a model and its tokenizer. Code inside a model folder never runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from repro.errors import ModelError, one_line
from repro.files import safetensors
from repro.models.devices import best_device
from repro.models.registry import ModelEntry, entry
from repro.models.weights import locate

if TYPE_CHECKING:  # what only names a model need not wait for PyTorch
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_model(
    name: str | Path | ModelEntry = "default", dtype: torch.dtype | None = None, device=None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model in evaluation mode, and its tokenizer.

    Args:
        name: a registry name, a local folder, or a `ModelEntry`.
        dtype: of the parameters; by default float32, for training; `inference_dtype` to decode.
        device: where to put it; by default `best_device()`.

    Raises:
        ModelError: the weights are missing, unreadable or in a pickle; the message says
            how to get them.
    """
    import torch

    model = name if isinstance(name, ModelEntry) else entry(name)
    source, options = _source(model)
    try:
        tokenizer, network, report = _read(source, dtype or torch.float32, options)
    except Exception as error:  # a damaged file makes the libraries raise almost anything
        hint = "; delete that folder and load again" if model.gguf else ""
        raise ModelError(
            f"cannot load {model.name} from {source}: {one_line(error)}{hint}"
        ) from error
    _check_complete(source, report)
    if network.get_input_embeddings().num_embeddings < len(tokenizer):
        raise ModelError(f"{model.name}: the tokenizer has more tokens than the model")
    return network.to(device or best_device()).eval(), tokenizer


def _source(model: ModelEntry) -> tuple[Path | str, dict]:
    """Return the folder or the Hub id of a model, and options for transformers to read it."""
    options = {"trust_remote_code": False}
    folder = locate(model)
    if model.hub and not folder.is_dir():
        _check_hub(model)
        return model.hub["id"], options | {"revision": model.hub["revision"]}
    safetensors(folder)
    return folder, options


def _read(source: Path | str, dtype: torch.dtype, options: dict) -> tuple:
    """Return the tokenizer, the network, and what transformers reports of the loading."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source, **options)
    network, report = AutoModelForCausalLM.from_pretrained(
        source,
        dtype=dtype,
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        **options,
    )
    return tokenizer, network, report


def _check_complete(source: Path | str, report: dict) -> None:
    # transformers warns of a tensor that is missing or misshapen, and goes on with random numbers.
    wrong = sorted({*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])})
    if wrong:
        raise ModelError(
            f"{source} is damaged: {wrong[0]} is missing from the weights, or has another shape"
            " than config.json says; get the folder again"
        )


def _check_hub(model: ModelEntry) -> None:
    """Raise ModelError if a Hub model is neither downloaded nor within reach."""
    from huggingface_hub import HfApi, try_to_load_from_cache

    hub, url = model.hub, f"https://huggingface.co/{model.hub['id']}"
    if isinstance(try_to_load_from_cache(hub["id"], "config.json", revision=hub["revision"]), str):
        return
    try:
        # One request that fails at once: a download would repeat a failing one for a minute.
        HfApi().auth_check(hub["id"])
    except Exception as error:  # the Hub's client has changed its HTTP library more than once
        raise ModelError(
            f"cannot get {model.name} from the Hub ({one_line(error)}): accept the licence at {url}"
            f" and log in with `hf auth login`, or set REPRO_MODELS to a folder that holds"
            f" {model.name}/"
        ) from error
