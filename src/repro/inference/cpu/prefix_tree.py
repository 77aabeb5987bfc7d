"""Texts as a tree of tokens in which a prefix that several texts share is there once.

A node is a token after its parent. It stands for the whole prefix that ends in it, which is what a
causal model computes a state from, so one state serves every text that begins so.
"""

from collections.abc import Sequence
from itertools import chain

import numpy as np
from numba import njit

from repro.inference.compiled import keeps

_compiled = njit(nogil=True, cache=keeps(__file__))


class PrefixTree:
    """The prefixes of a growing tree, as attention needs them.

    `depth` (nodes,) is a node's position in its text, and `path[node, :depth + 1]` (nodes, longest
    text) the nodes of its prefix, itself included.
    """

    def __init__(self, longest: int, capacity: int = 1024):
        """Take the tokens of the longest text there will be; the capacity grows as needed."""
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
    """Return the token and the parent of each node of the tree of some texts, and their nodes.

    The last is (texts, longest text): the nodes of each text, filled with −1.
    """
    # Sorted, a text shares more with the one before than with any other before it.
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
    """Fill in depth and path of new nodes: a parent's path and the node itself."""
    for i in range(len(parents)):
        node, parent = start + i, parents[i]
        depth[node] = depth[parent] + 1 if parent >= 0 else 0
        for j in range(depth[node]):
            path[node, j] = path[parent, j]
        path[node, depth[node]] = node


@_compiled
def _merge(tokens, lengths, order, parents, nodes):
    """Fill in parents and nodes of `merge_prefixes`, and return the number of nodes.

    `tokens` holds the texts one after another, in sorted order. The nodes' tokens are written over
    it: there are never more nodes than tokens read.
    """
    size, start, before = 0, 0, 0
    for i in range(len(order)):
        row, last, same = nodes[order[i]], -1, i > 0
        for j in range(lengths[i]):
            token = tokens[start + j]
            # As long as this text is the same as the one before, it has its nodes.
            node = nodes[before, j] if same else -1
            same = same and node >= 0 and tokens[node] == token
            if not same:
                node, size = size, size + 1
                tokens[node], parents[node] = token, last
            row[j], last = node, node
        start, before = start + lengths[i], order[i]
    return size
