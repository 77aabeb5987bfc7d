"""The parts of LLaMA, Qwen2 and Gemma 3 that `cpu_engine` computes with.

A layer is attention, then an MLP, each after a norm and with a residual. Qwen2 is LLaMA with biases
on q, k and v. Gemma 3 also normalises queries, keys and what is added to the residual, adds 1 to
its norms' weights, gates by GELU (GeGLU; the others SwiGLU), and lets most layers attend to a
window only, with a rotary embedding of their own.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from transformers import (
    Gemma3ForCausalLM,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2ForCausalLM,
)

# An activation is x · σ(ax + bx³): SiLU exactly, and GELU in its approximation by tanh.
SILU = np.float32(1), np.float32(0)
GELU = np.float32(np.sqrt(8 / np.pi)), np.float32(0.044715 * np.sqrt(8 / np.pi))
UNLIMITED = np.iinfo(np.int32).max  # a window that holds every text


@dataclass
class Norm:
    """An RMS norm; `offset` is added to its weights."""

    module: nn.Module
    epsilon: np.float32
    offset: np.float32


@dataclass
class Layer:
    """The parts of one layer; a norm that the architecture lacks is None."""

    q: nn.Linear
    k: nn.Linear
    v: nn.Linear
    o: nn.Linear
    gate: nn.Linear
    up: nn.Linear
    down: nn.Linear
    attention_norm: Norm  # of the input of attention
    mlp_norm: Norm  # of the input of the MLP
    scale: np.float32  # of the products of queries and keys
    q_norm: Norm | None = None
    k_norm: Norm | None = None
    attention_output_norm: Norm | None = None
    mlp_output_norm: Norm | None = None
    window: int = UNLIMITED  # tokens that a token attends to, itself included
    attention_type: str = ""  # the name of its rotary embedding, if there are several


@dataclass
class Architecture:
    """The layers of a network, its last norm, and the activation of its gates."""

    layers: list[Layer]
    norm: Norm
    activation: tuple[np.float32, np.float32]  # a and b of x · σ(ax + bx³)


def architecture_of(network: PreTrainedModel) -> Architecture:
    """Return the parts of a network.

    Raises:
        KeyError: it is of none of the classes `SUPPORTED`.
    """
    return SUPPORTED[type(network)](network)


def rotary_table(network: PreTrainedModel, attention_type: str, length: int) -> list[np.ndarray]:
    """Return cosine and sine of each position's angles, float32 (length, half a head's size)."""
    positions, like = torch.arange(length)[None], torch.zeros(1, dtype=network.dtype)
    options = [attention_type] if attention_type else []
    table = network.model.rotary_emb(like, positions, *options)
    return [part[0, :, : part.shape[2] // 2].float().contiguous().numpy() for part in table]


def _llama(network) -> Architecture:
    """Return the parts of a LLaMA or Qwen2."""

    def norm(module):
        return Norm(module, np.float32(module.variance_epsilon), np.float32(0))

    layers = [
        Layer(
            **_linear_maps(layer),
            attention_norm=norm(layer.input_layernorm),
            mlp_norm=norm(layer.post_attention_layernorm),
            window=getattr(layer.self_attn, "sliding_window", None) or UNLIMITED,
        )
        for layer in network.model.layers
    ]
    return Architecture(layers, norm(network.model.norm), SILU)


def _gemma(network) -> Architecture:
    """Return the parts of a Gemma 3: it has norms of queries and keys, and after each sublayer."""

    def norm(module):
        return Norm(module, np.float32(module.eps), np.float32(1))

    layers = [
        Layer(
            **_linear_maps(layer),
            attention_norm=norm(layer.input_layernorm),
            mlp_norm=norm(layer.pre_feedforward_layernorm),
            q_norm=norm(layer.self_attn.q_norm),
            k_norm=norm(layer.self_attn.k_norm),
            attention_output_norm=norm(layer.post_attention_layernorm),
            mlp_output_norm=norm(layer.post_feedforward_layernorm),
            window=layer.self_attn.sliding_window or UNLIMITED,
            attention_type=layer.self_attn.layer_type,
        )
        for layer in network.model.layers
    ]
    return Architecture(layers, norm(network.model.norm), GELU)


def _linear_maps(layer) -> dict:
    attention, mlp = layer.self_attn, layer.mlp
    return {
        **{name: getattr(attention, f"{name}_proj") for name in "qkvo"},
        **{name: getattr(mlp, f"{name}_proj") for name in ("gate", "up", "down")},
        "scale": np.float32(attention.scaling),
    }


SUPPORTED: dict[type, Callable[[PreTrainedModel], Architecture]] = {
    LlamaForCausalLM: _llama,
    Qwen2ForCausalLM: _llama,
    Gemma3ForCausalLM: _gemma,
}
