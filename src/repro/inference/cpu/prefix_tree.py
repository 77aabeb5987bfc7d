"""A tree of the tokens of several texts, in which each shared prefix occurs once.

A node is a token after its parent, and stands for the whole prefix that ends in it. A causal model
computes the state of a token from this prefix alone, so all texts that begin with the prefix share
the state.
"""

from collections.abc import Sequence
from itertools import chain

import numpy as np
from numba import njit

from repro.inference.compiled import keeps

_compiled = njit(nogil=True, cache=keeps(__file__))


class PrefixTree:
    """The prefixes of a growing tree, in the form that attention needs.

    Attributes:
        size: the number of nodes.
        depth: (nodes,), the position of each node in its text.
        path: (nodes, longest text); `path[node, :depth + 1]` are the nodes of its prefix, the node
            itself included.
    """

    def __init__(self, longest: int, capacity: int = 1024):
        """Take the number of tokens of the longest text, and of nodes at first; it can grow."""
        self.size = 0
        self.path = np.zeros((capacity, longest), np.int32)
        self.depth = np.zeros(capacity, np.int32)

    def add(self, parents: np.ndarray) -> np.ndarray:
        """Add nodes after their parents (−1: none, the first token of a text) and return them."""
        start, self.size = self.size, self.size + len(parents)
        if self.size > len(self.depth):
            capacity = max(self.size, 2 * len(self.depth))
            self.path, self.depth = (
                _enlarged(array, capacity) for array in (self.path, self.depth)
            )
        _extend_paths(parents, start, self.path, self.depth)
        return np.arange(start, self.size)


def _enlarged(array: np.ndarray, capacity: int) -> np.ndarray:
    enlarged = np.zeros((capacity, *array.shape[1:]), array.dtype)
    enlarged[: len(array)] = array
    return enlarged


def merge_prefixes(texts: Sequence[list[int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the prefix tree of some texts.

    Returns:
        The token of each node, (nodes,); its parent, (nodes,), −1 for none; and the nodes of each
        text, (texts, longest text), filled up with −1.
    """
    # In sorted order, the longest prefix that a text shares with any text before it is that with
    # the text directly before it.
    order = sorted(range(len(texts)), key=texts.__getitem__)
    lengths = np.array([len(texts[i]) for i in order], np.int64)
    tokens = np.fromiter(chain.from_iterable(texts[i] for i in order), np.int64, lengths.sum())
    parents, nodes = np.empty_like(tokens), np.full((len(texts), lengths.max(initial=0)), -1)
    size = _merge(tokens, lengths, np.array(order, np.int64), parents, nodes)
    return tokens[:size], parents[:size], nodes


@_compiled
def longest_text(parents):
    """Return the number of tokens of the longest text of a tree."""
    lengths, longest = np.ones(len(parents), np.int64), 0
    for node in range(len(parents)):
        if parents[node] >= 0:
            lengths[node] = lengths[parents[node]] + 1
        longest = max(longest, lengths[node])
    return longest


@_compiled
def _extend_paths(parents, start, path, depth):
    """Write depth and path of new nodes: the path of the parent and the node itself."""
    for i in range(len(parents)):
        node, parent = start + i, parents[i]
        depth[node] = depth[parent] + 1 if parent >= 0 else 0
        for j in range(depth[node]):
            path[node, j] = path[parent, j]
        path[node, depth[node]] = node


@_compiled
def _merge(tokens, lengths, order, parents, nodes):
    """Write parents and nodes of `merge_prefixes`, and return the number of nodes.

    `tokens` holds the texts one after another, in sorted order. The tokens of the nodes overwrite
    it, which is possible because there are never more nodes than tokens read.
    """
    size, start, before = 0, 0, 0
    for i in range(len(order)):
        row, last, same = nodes[order[i]], -1, i > 0
        for j in range(lengths[i]):
            token = tokens[start + j]
            # While this text is equal to the one before, it has the same nodes.
            node = nodes[before, j] if same else -1
            same = same and node >= 0 and tokens[node] == token
            if not same:
                node, size = size, size + 1
                tokens[node], parents[node] = token, last
            row[j], last = node, node
        start, before = start + lengths[i], order[i]
    return size
