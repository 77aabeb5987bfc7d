"""Decoding by the CPU engine: a node of a prefix tree for each distinct prefix of the samples."""

from collections import Counter

import numpy as np
import torch

from repro.inference import kv_cache
from repro.inference.cpu.cpu_engine import CpuEngine
from repro.inference.cpu.prefix_tree import PrefixTree, merge_prefixes
from repro.inference.cpu.tree_cache import TreeCache
from repro.inference.sampling import check_logits


class TreeNodes:
    """Computes a batch whose prompts and samples are one growing tree.

    It is an `Engine` (`repro.inference.decoding`).
    """

    def __init__(self, engine: CpuEngine, draws: int = 1):
        """Take the CPU engine, and the number of samples of each prompt."""
        self.engine, self.draws, self.work = engine, draws, Counter()

    def start(self, ids: list[list[int]], limit: int) -> list[int]:
        """Take the prompts of a batch, to be continued by `limit` tokens; return their order."""
        self.tokens, self.parents, nodes = merge_prefixes(ids)
        self.ends = nodes[np.arange(len(ids)), [len(prompt) - 1 for prompt in ids]]
        self.tree = PrefixTree(max(map(len, ids)) + limit)
        most = len(self.tokens) + len(ids) * self.draws * limit
        self.cache = TreeCache(len(self.engine.architecture.layers), most)
        self.work["prompt_tokens"] += sum(map(len, ids))
        return list(range(len(ids)))

    def prefill(self) -> torch.Tensor:
        """Return the logits after each prompt: (prompts, vocabulary)."""
        self.work["prompt_computed"] += len(self.tokens)
        logits = self._logits(self.tokens, self.parents, torch.from_numpy(self.ends))
        check_logits(logits)
        return logits

    def step(self, row_of: np.ndarray, tokens: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
        """Continue samples by a token each; see `Engine`."""
        rows, next_tokens, row_of = kv_cache.distinct(row_of, tokens)
        self.work["computed"] += len(rows)
        parents, self.ends = self.ends[rows], self.tree.size + np.arange(len(rows))
        return self._logits(next_tokens, parents), row_of

    def _logits(self, tokens: np.ndarray, parents: np.ndarray, outputs=None) -> torch.Tensor:
        """Add nodes to the tree and return the logits after them, or after `outputs` of them."""
        states = self.engine.embed(torch.from_numpy(tokens))
        return self.engine(states, self.tree.add(parents), self.tree, outputs, self.cache)
