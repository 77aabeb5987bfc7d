"""The keys and values of a prefix tree, stored from one step of decoding to the next."""

import numpy as np
import torch


class TreeCache:
    """Keys and values of a tree's nodes, layer by layer (KV cache), and a buffer for logits."""

    def __init__(self, layers: int, capacity: int):
        """Take the largest number of nodes. Memory is used only for nodes that are put."""
        self.layers: list[list[torch.Tensor] | None] = [None] * layers
        self.capacity, self.buffer = capacity, torch.empty(0, 0)

    def logits(self, rows: int, vocabulary: int, dtype: torch.dtype) -> torch.Tensor:
        """Return memory for logits of a dtype, (rows, vocabulary).

        It is the same memory at each step, so that the system need not find and zero new pages.
        """
        if rows > len(self.buffer):
            self.buffer = torch.empty(rows, vocabulary, dtype=dtype)
        return self.buffer[:rows]

    def put(self, layer: int, nodes: np.ndarray, *new: torch.Tensor) -> list[torch.Tensor]:
        """Store keys and values of new nodes; return those of all, (capacity, heads, size) each."""
        if self.layers[layer] is None:
            self.layers[layer] = [part.new_empty(self.capacity, *part.shape[1:]) for part in new]
        for stored, part in zip(self.layers[layer], new, strict=True):
            stored[nodes[0] : nodes[-1] + 1] = part
        return self.layers[layer]
