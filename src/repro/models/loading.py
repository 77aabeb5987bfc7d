"""Loading a model and its tokenizer. Code inside a model folder never runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING

from repro.errors import ModelError, one_line
from repro.models.checkpoint_files import weight_files
from repro.models.devices import best_device
from repro.models.registry import ModelEntry, entry
from repro.models.shards import parameters, part_of_process
from repro.models.weights import obtain

if TYPE_CHECKING:  # what only names a model need not wait for PyTorch
    import torch
    from torch.distributed.tensor import DTensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.model", "*.tiktoken")


def load_model(
    name: str | Path | ModelEntry = "default", dtype: torch.dtype | None = None, device=None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model in evaluation mode, and its tokenizer.

    Args:
        name: a name that `registry.entry` knows, or a `ModelEntry`.
        dtype: of the parameters; by default float32, for training; `inference_dtype` to decode.
        device: where to put it; by default `best_device()`.

    Raises:
        ModelError: the weights are missing, unreadable or in a pickle; the message says
            how to get them.
    """
    import torch

    model = name if isinstance(name, ModelEntry) else entry(name)
    folder = obtain(model)
    weight_files(folder)
    _check_tokenizer(folder)
    with _one_line_errors(model, folder):
        tokenizer, network, report = _read(folder, dtype or torch.float32)
    _check_complete(folder, report)
    _check_vocabulary(model, network, tokenizer)
    return network.to(device or best_device()).eval(), tokenizer


def load_mapped(
    model: ModelEntry, weights: Mapping[str, torch.Tensor], dtype: torch.dtype
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model as `load_model` does, but with weights from mapped files, tensor by tensor.

    The host needs the memory of one tensor. `weights` are by the network's names, in any dtype.
    """
    folder = obtain(model)
    with _one_line_errors(model, folder):
        network = empty_network(folder)
    return with_weights(model, network, weights, dtype)


def with_weights(
    model: ModelEntry,
    network: PreTrainedModel,
    weights: Mapping[str, torch.Tensor],
    dtype: torch.dtype,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Fill a network without weights, whole or divided; return it and the model's tokenizer."""
    tokenizer = load_tokenizer(model)
    fill(network, weights, dtype, best_device())
    _check_vocabulary(model, network, tokenizer)
    return network.eval(), tokenizer


def load_tokenizer(model: ModelEntry) -> PreTrainedTokenizerBase:
    """Return a model's tokenizer; raise ModelError where there is none, or it is damaged."""
    folder = obtain(model)
    _check_tokenizer(folder)
    with _one_line_errors(model, folder):
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def empty_network(folder: Path) -> PreTrainedModel:
    """Return a float32 network as `config.json` of a folder describes it, without its weights.

    The parameters are on the meta device; buffers, such as rotary frequencies, are real.
    """
    import torch
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    with init_empty_weights(include_buffers=False):
        network = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, trust_remote_code=False
        )
    network.tie_weights()
    if (folder / "generation_config.json").exists():  # which says what ends a completion
        network.generation_config = GenerationConfig.from_pretrained(folder)
    return network


def fill(
    network: PreTrainedModel, weights: Mapping[str, torch.Tensor], dtype: torch.dtype, device
) -> None:
    """Give a network without weights those of `weights`, tensor by tensor.

    Of a divided network each process reads its own part. `device` is that of the parameters;
    buffers are always where the process computes.

    Raises:
        ModelError: a weight is missing or has another shape.
    """
    import torch

    state = {}
    for name, parameter in parameters(network).items():
        values = weight_of(weights, name, parameter.shape)
        if hasattr(parameter, "to_local"):
            values = _divided(values, parameter, dtype, device)
        else:
            values = values.to(device, dtype, copy=True)
        state[name] = torch.nn.Parameter(values)
    _assign(network, state)


def _divided(values: torch.Tensor, parameter: DTensor, dtype: torch.dtype, device) -> DTensor:
    """Return whole values divided as a parameter is: a copy of the part of this process."""
    from torch.distributed.tensor import DTensor

    local = part_of_process(values, parameter).to(device, dtype, copy=True).contiguous()
    layout = parameter.device_mesh, parameter.placements
    return DTensor.from_local(local, *layout, shape=values.shape, stride=parameter.stride())


def _assign(network: PreTrainedModel, state: dict[str, torch.nn.Parameter]) -> None:
    """Make `state` the parameters of a network, and move its buffers to the device."""
    network.load_state_dict(state, assign=True, strict=False)  # a tied output matrix is not named
    network.tie_weights()
    for module in network.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(best_device()))


def weight_of(weights: Mapping[str, torch.Tensor], name: str, shape: torch.Size) -> torch.Tensor:
    """Return a weight by name; raise ModelError if it is missing or has another shape."""
    if name not in weights:
        raise ModelError(f"{name} is missing from the weights: get the folder again")
    weight = weights[name]
    if weight.shape != shape:
        shapes = f"{tuple(weight.shape)}, and config.json says {tuple(shape)}"
        raise ModelError(f"{name} has the shape {shapes}: get the folder again")
    return weight


@contextmanager
def _one_line_errors(model: ModelEntry, folder: Path) -> Iterator[None]:
    """Raise whatever is raised within the block as a ModelError of one line."""
    try:
        yield
    except Exception as error:  # a damaged file makes the libraries raise almost anything
        hint = "; delete that folder and load again" if model.gguf else ""
        raise ModelError(
            f"cannot load {model.name} from {folder}: {one_line(error)}{hint}"
        ) from error


def _check_vocabulary(model: ModelEntry, network: PreTrainedModel, tokenizer) -> None:
    if network.get_input_embeddings().num_embeddings < len(tokenizer):
        raise ModelError(f"{model.name}: the tokenizer has more tokens than the model")


def _check_tokenizer(folder: Path) -> None:
    """Raise ModelError if there is no tokenizer, or it needs sentencepiece.

    Some versions of transformers make an empty tokenizer of no file, or hide what is missing.
    """
    if not any(path for pattern in TOKENIZER_FILES for path in folder.glob(pattern)):
        raise ModelError(f"{folder} holds no tokenizer (such as tokenizer.json): get it again")
    path = folder / "tokenizer.model"
    if (folder / "tokenizer.json").exists() or not path.exists() or util.find_spec("sentencepiece"):
        return
    with path.open("rb") as file:
        if file.read(1) == b"\n":  # the first byte of sentencepiece's files; tiktoken's are text
            raise ModelError(
                f"{folder} holds its tokenizer as {path.name} only, which needs sentencepiece:"
                " pip install sentencepiece protobuf"
            )


def _read(folder: Path, dtype: torch.dtype) -> tuple:
    """Return the tokenizer, the network, and what transformers reports of the loading."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    network, report = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        trust_remote_code=False,
    )
    return tokenizer, network, report


def _check_complete(folder: Path, report: dict) -> None:
    # transformers warns of a tensor that is missing or misshapen, and goes on with random numbers.
    wrong = sorted({*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])})
    if wrong:
        raise ModelError(
            f"{folder} is damaged: {wrong[0]} is missing from the weights, or has another shape"
            " than config.json says; get the folder again"
        )
