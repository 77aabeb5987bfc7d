"""The parts of a network by the names that transformers gives them."""

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

    It is part of a record's key, so it reads nothing but the configuration of a folder. The
    models of the registry are all of families whose maps are named as LLaMA's.
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
    from transformers import AutoConfig  # which knows what other families call it

    return AutoConfig.from_pretrained(folder).num_hidden_layers


def parameter_count(model: ModelEntry) -> int:
    """Return how many parameters a model has, from the registry or its folder's weights."""
    return model.parameters or sum(map(math.prod, _tensor_shapes(model)))


def weight_shapes(model: ModelEntry) -> set[tuple[int, ...]]:
    """Return the shapes of the weight matrices that a model's layers have in common.

    The embedding and the output head are not among them: of their shape there is one matrix. A
    model whose weights are not here yet is taken to have the shapes that its size suggests.
    """
    if model.parameters and not available(model):
        size = round((model.parameters / (12 * (model.layers or 1))) ** 0.5)
        return {(size, size), (4 * size, size)}
    number = Counter(shape for shape in _tensor_shapes(model) if len(shape) == 2)
    return {shape for shape, count in number.items() if count > 1 or len(number) == 1}


def _tensor_shapes(model: ModelEntry) -> list[tuple[int, ...]]:
    """Return the shape of every tensor in a model's weights."""
    from safetensors import safe_open  # here, because a command that reads records needs none

    shapes = []
    for path in weight_files(obtain(model)):
        with safe_open(path, "pt") as file:
            names = file.keys()
            shapes += [tuple(file.get_slice(name).get_shape()) for name in names]
    return shapes


def rotary_settings(config: PreTrainedConfig) -> list[dict]:
    """Return the settings of each rotary embedding: one, or one for each kind of layer."""
    settings = getattr(config, "rope_parameters", None) or {}
    return [settings, *(part for part in settings.values() if isinstance(part, dict))]


def _config(folder: Path) -> dict:
    path = folder / "config.json"
    return read_json(path) if path.exists() else {}
