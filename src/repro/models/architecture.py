"""The parts of a network by the names that transformers gives them."""

from __future__ import annotations

import json

from repro.models.registry import ModelEntry
from repro.models.weights import obtain

# The linear maps of a LLaMA layer, in the order of a forward pass.
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def layer_count(model: ModelEntry) -> int:
    """Return how many layers a model has, from the registry or the folder's configuration."""
    if model.layers:
        return model.layers
    folder = obtain(model)
    path = folder / "config.json"
    config = json.loads(path.read_bytes()) if path.exists() else {}
    if "num_hidden_layers" in config:
        return config["num_hidden_layers"]
    from transformers import AutoConfig  # which knows what other families call it

    return AutoConfig.from_pretrained(folder).num_hidden_layers
