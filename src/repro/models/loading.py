"""Loading a model and its tokenizer. Code inside a model folder never runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from repro.errors import ModelError, one_line
from repro.files import safetensors
from repro.models.devices import best_device
from repro.models.registry import Entry, entry
from repro.models.weights import locate

if TYPE_CHECKING:  # what only names a model need not wait for PyTorch
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


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
        raise ModelError(
            f"cannot load {model.name} from {source}: {one_line(error)}{hint}"
        ) from error
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
            f"cannot get {model.name} from the Hub ({one_line(error)}): accept the licence at {url}"
            f" and log in with `hf auth login`, or set REPRO_MODELS to a folder that holds"
            f" {model.name}/"
        ) from error
