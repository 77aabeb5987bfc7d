"""The parts of LLaMA, Qwen2 and Gemma 3 that `cpu_engine` computes with.

A layer is attention, then MLP, each after a norm and with a residual. Qwen2 is LLaMA with biases on
q, k and v. Gemma 3 also normalises queries, keys and what is added to the residual, counts its
norms' weights from 1, gates by GELU, and lets most layers attend to a window only, with a rotary
embedding of their own.
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

# silu(x) is x · σ(x), and GELU with tanh is x · σ(ax + bx³).
SILU = np.float32(1), np.float32(0)
GELU = np.float32(np.sqrt(8 / np.pi)), np.float32(0.044715 * np.sqrt(8 / np.pi))
ALL = np.iinfo(np.int32).max  # a window that holds every text


@dataclass
class Norm:
    """An RMS norm, whose weights count from `origin`."""

    module: nn.Module
    epsilon: np.float32
    origin: np.float32


@dataclass
class Layer:
    """The parts of one layer; a norm that the family lacks is None."""

    q: nn.Linear
    k: nn.Linear
    v: nn.Linear
    o: nn.Linear
    gate: nn.Linear
    up: nn.Linear
    down: nn.Linear
    norm: Norm  # before attention
    wide_norm: Norm  # before widening
    scale: np.float32  # of the products of queries and keys
    q_norm: Norm | None = None
    k_norm: Norm | None = None
    attended_norm: Norm | None = None  # of what attention adds
    widened_norm: Norm | None = None
    window: int = ALL  # tokens that a token attends to, itself included
    kind: str = ""  # of its angles


@dataclass
class Parts:
    """What a network consists of."""

    layers: list[Layer]
    norm: Norm
    gate: tuple[np.float32, np.float32]  # of x in the gate's σ, and of x³


def parts(network: PreTrainedModel) -> Parts:
    """Return the parts of a network of a known family.

    Raises:
        KeyError: the family is not known.
    """
    return KNOWN[type(network)](network)


def angles(network: PreTrainedModel, kind: str, length: int) -> list[np.ndarray]:
    """Return cosine and sine of each position's angles, float32 (length, half a head)."""
    places, like = torch.arange(length)[None], torch.zeros(1, dtype=network.dtype)
    made = network.model.rotary_emb(like, places, *([kind] if kind else []))
    return [part[0, :, : part.shape[2] // 2].float().contiguous().numpy() for part in made]


def _llama(network) -> Parts:
    def norm(module):
        return Norm(module, np.float32(module.variance_epsilon), np.float32(0))

    layers = [
        Layer(
            **_products(layer),
            norm=norm(layer.input_layernorm),
            wide_norm=norm(layer.post_attention_layernorm),
            window=getattr(layer.self_attn, "sliding_window", None) or ALL,
        )
        for layer in network.model.layers
    ]
    return Parts(layers, norm(network.model.norm), SILU)


def _gemma(network) -> Parts:
    def norm(module):
        return Norm(module, np.float32(module.eps), np.float32(1))

    layers = [
        Layer(
            **_products(layer),
            norm=norm(layer.input_layernorm),
            wide_norm=norm(layer.pre_feedforward_layernorm),
            q_norm=norm(layer.self_attn.q_norm),
            k_norm=norm(layer.self_attn.k_norm),
            attended_norm=norm(layer.post_attention_layernorm),
            widened_norm=norm(layer.post_feedforward_layernorm),
            window=layer.self_attn.sliding_window or ALL,
            kind=layer.self_attn.layer_type,
        )
        for layer in network.model.layers
    ]
    return Parts(layers, norm(network.model.norm), GELU)


def _products(layer) -> dict:
    attention, mlp = layer.self_attn, layer.mlp
    return {
        **{name: getattr(attention, f"{name}_proj") for name in "qkvo"},
        **{name: getattr(mlp, f"{name}_proj") for name in ("gate", "up", "down")},
        "scale": np.float32(attention.scaling),
    }


KNOWN: dict[type, Callable[[PreTrainedModel], Parts]] = {
    LlamaForCausalLM: _llama,
    Qwen2ForCausalLM: _llama,
    Gemma3ForCausalLM: _gemma,
}
