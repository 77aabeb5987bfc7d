"""The sizes and parts of a model, from its registry entry or its folder."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from repro.models.checkpoint_files import read_json, weight_files
from repro.models.registry import ModelEntry, entries
from repro.models.weights import available, obtain

if TYPE_CHECKING:  # what reads records only, as most do, need not wait for PyTorch
    from transformers import PreTrainedConfig

# The linear maps of a LLaMA layer, in the order of a forward pass.
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ALL_LINEAR = ("all-linear",)  # instead of names: every linear map but the output head
_NAMED_ALIKE = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "smollm3")


def adapted_modules(model: ModelEntry) -> tuple[str, ...]:
    """Return the linear maps that LoRA adapts: `PROJECTIONS`, or `ALL_LINEAR` for other names.

    The result is part of a record's key, so only the configuration of a folder is read. The linear
    maps of all models of the registry are named as those of LLaMA.
    """
    if model.folder is None:
        return PROJECTIONS if model.name in entries() else ALL_LINEAR
    return PROJECTIONS if _config(model.folder).get("model_type") in _NAMED_ALIKE else ALL_LINEAR


def layer_count(model: ModelEntry) -> int:
    """Return how many layers a model has, from the registry or the folder's configuration."""
    if model.layers:
        return model.layers
    folder = obtain(model)
    if number := _config(folder).get("num_hidden_layers"):
        return number
    from transformers import AutoConfig  # it knows the names that other families use

    return AutoConfig.from_pretrained(folder).num_hidden_layers


def parameter_count(model: ModelEntry) -> int:
    """Return how many parameters a model has, from the registry or its folder's weights."""
    return model.parameters or sum(map(math.prod, _tensor_shapes(model)))


def weight_shapes(model: ModelEntry) -> set[tuple[int, ...]]:
    """Return the shapes of the weight matrices that a model's layers have in common.

    The shape of the embedding and of the output head is not among them, because the layers have no
    matrix of this shape. For a model whose weights are not on this machine yet, the shapes are
    estimated from its size.
    """
    if model.parameters and not available(model):
        size = round((model.parameters / (12 * (model.layers or 1))) ** 0.5)
        return {(size, size), (4 * size, size)}
    counts = Counter(shape for shape in _tensor_shapes(model) if len(shape) == 2)
    return {shape for shape, count in counts.items() if count > 1 or len(counts) == 1}


def _tensor_shapes(model: ModelEntry) -> list[tuple[int, ...]]:
    """Return the shape of every tensor in a model's weights."""
    from safetensors import safe_open  # imported here: commands that read records need it not

    shapes = []
    for path in weight_files(obtain(model)):
        with safe_open(path, "pt") as file:
            names = file.keys()
            shapes += [tuple(file.get_slice(name).get_shape()) for name in names]
    return shapes


def rotary_settings(config: PreTrainedConfig) -> list[dict]:
    """Return the settings of all rotary embeddings: one, or one for each kind of layer."""
    settings = getattr(config, "rope_parameters", None) or {}
    return [settings, *(part for part in settings.values() if isinstance(part, dict))]


def _config(folder: Path) -> dict:
    path = folder / "config.json"
    return read_json(path) if path.exists() else {}
