"""Keys and values of a batch (KV cache), in a buffer that is written in place if the model allows.

transformers' own cache grows by concatenation: at every step all keys and values are copied.
Here they are allocated once, a step writes one column, and rows that stay are never moved.
"""

from collections.abc import Callable

import numpy as np
import torch
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from repro.models import devices, tensor_parallel

# Bytes for the keys, values and logits of a batch, and its widest activations, where the memory is
# the host's. On a GPU a batch takes what is free, less a reserve for the work space of the
# libraries and for gaps between blocks.
BUDGET = 2 << 30
RESERVE, RESERVED_SHARE = 1 << 30, 10  # bytes, and beside them one byte in so many
# What sampling holds of a logit, in bytes beside the logit: on a CPU a float32 of a few rows; on a
# GPU, where all rows are drawn from at once, the scaled logit, the probability, and it padded.
CPU_LOGIT, GPU_LOGIT = 4, 12


class InPlaceLayer(DynamicLayer):
    """Keys and values of one layer, (rows, heads, length, head size), allocated once."""

    def __init__(self, rows: int, length: int):
        """Take the most rows and columns there will be; memory is allocated on first use."""
        super().__init__()
        self.capacity = rows, length

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate both buffers for states of this shape and dtype.

        They start as zeros, because a masked column still enters the products.
        """
        rows, length = self.capacity
        self.dtype, self.device = key_states.dtype, key_states.device
        self._buffers = [
            states.new_zeros(rows, states.shape[1], length, states.shape[3])
            for states in (key_states, value_states)
        ]
        self.is_initialized = True
        self.show(0, 0)

    def update(self, key_states, value_states, *args, **kwargs):
        """Write the next columns of the rows in use, and return what there is so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        rows, start = len(key_states), self.get_seq_length()
        self.show(rows, start + key_states.shape[-2])
        self.keys[:, :, start:] = key_states
        self.values[:, :, start:] = value_states
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Make row i what row indices[i] was; a row that stays in its place is not touched."""
        to = (indices != torch.arange(len(indices), device=indices.device)).nonzero()[:, 0]
        before = self.keys, self.values
        self.show(len(indices), self.get_seq_length())
        for states, old in zip((self.keys, self.values), before, strict=True):
            states[to] = old[indices[to]]

    def show(self, rows: int, length: int) -> None:
        """Take the first rows and columns of the buffers into use."""
        self.keys, self.values = (buffer[:rows, :, :length] for buffer in self._buffers)

    def take(self, first: int, nodes: torch.Tensor, packed: DynamicLayer) -> None:
        """Fill rows, from the `first` on, with what a packed row (`repro.inference.packing`) left.

        Args:
            first: the row that is filled first.
            nodes: (rows, columns), of the packed row, a place of it for each.
            packed: its keys and values, (1, heads, nodes, head size).
        """
        if not self.is_initialized:
            self.lazy_initialization(packed.keys, packed.values)
        for buffer, states in zip(self._buffers, (packed.keys, packed.values), strict=True):
            rows = buffer[first : first + len(nodes), :, : nodes.shape[1]]
            rows.copy_(states[0][:, nodes].transpose(0, 1))


def make(network: PreTrainedModel, rows: int, length: int, in_place: bool = True) -> Cache:
    """Return a cache for at most `rows` rows of `length` tokens.

    It is in place where every layer attends to all that came before, or would within this
    length (a sliding window no shorter); else it is transformers' own. Both give the same
    logits. `in_place=False` asks for transformers' own.
    """
    cache = DynamicCache(config=network.config)
    if in_place and all(_attends_to_all(layer, length) for layer in cache.layers):
        return Cache(layers=[InPlaceLayer(rows, length) for _ in cache.layers])
    return cache


def is_in_place(cache: Cache) -> bool:
    """Tell which of the two caches this is."""
    return isinstance(cache.layers[0], InPlaceLayer)


def packed(network: PreTrainedModel) -> Cache:
    """Return a cache for one packed row, whose mask says what a node attends to."""
    layers = DynamicCache(config=network.config).layers
    return Cache(layers=[DynamicLayer() for _ in layers])


def take(cache: Cache, first: int, nodes: torch.Tensor, row: Cache) -> None:
    """Fill rows of an in-place cache from a `packed` one, layer by layer."""
    for layer, kept_layer in zip(cache.layers, row.layers, strict=True):
        layer.take(first, nodes, kept_layer)


def show(cache: Cache, rows: int, length: int) -> None:
    """Take the first rows and columns of an in-place cache into use."""
    for layer in cache.layers:
        layer.show(rows, length)


def _attends_to_all(layer, length: int) -> bool:
    if type(layer) is DynamicSlidingWindowLayer:
        return layer.sliding_window >= length
    return type(layer) is DynamicLayer


def budget(
    device: torch.device, free_memory: Callable[[torch.device], int] = devices.free_memory
) -> int:
    """Return the bytes that a batch may take on a device; `free_memory` tells those of a GPU."""
    if device.type != "cuda":
        return BUDGET
    free = free_memory(device)
    return free - RESERVE - free // RESERVED_SHARE


def rows_within(network: PreTrainedModel, width: int, length: int, budget: int = BUDGET) -> int:
    """Return how many rows of `length` tokens fit into a budget in bytes, at least one.

    `width` is the length of the longest prompt, all of which is computed at once.
    """
    config = network.config.get_text_config()
    all_heads = getattr(config, "num_attention_heads", None) or 1  # none: a recurrent model
    heads = getattr(config, "num_key_value_heads", None) or all_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // all_heads
    item, divided = network.dtype.itemsize, tensor_parallel.group(network).size
    cache_bytes = 2 * config.num_hidden_layers * (heads // divided) * size * length * item
    # What a layer has in memory at a time: its three widest states, and ten of the usual size.
    wide = 3 * (getattr(config, "intermediate_size", None) or 4 * config.hidden_size) // divided
    wide += 10 * config.hidden_size
    drawn = GPU_LOGIT if network.device.type == "cuda" else CPU_LOGIT
    logits = config.vocab_size * (item + drawn)
    return max(1, budget // (cache_bytes + width * wide * item + logits))


def arrange(row_of: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give every distinct continuation a row of its own, and move as few rows as possible.

    Args:
        row_of: (samples,), the row each open sample is at.
        tokens: (samples,), the token it goes on with. Samples with the same row and token
            have the same past and share a row from here on.

    Returns:
        The parent row and the token of each new row, and each sample's new row. The first
        continuation of a row stays in it unless that lies beyond the new number of rows;
        the others fill the gaps.
    """
    parents, next_tokens, row_of = distinct(row_of, tokens)
    first = np.r_[True, parents[1:] != parents[:-1]]
    stays = first & (parents < len(parents))
    place = np.empty(len(parents), np.int64)
    place[stays] = parents[stays]
    place[~stays] = np.setdiff1d(np.arange(len(parents)), parents[stays], assume_unique=True)
    order = np.argsort(place)
    return parents[order], next_tokens[order], place[row_of]


def distinct(row_of: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return row and token of each distinct continuation, in order, and which is each sample's."""
    span = int(tokens.max()) + 1  # row and token as one number, which sorts fast
    pairs, place = np.unique(row_of.astype(np.int64) * span + tokens, return_inverse=True)
    return *np.divmod(pairs, span), place
