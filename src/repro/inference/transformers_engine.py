"""Decoding by transformers' own layers, of any network: a cache row for each distinct sample."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from transformers import PreTrainedModel

from repro.inference import kv_cache, packing
from repro.inference.sampling import check_logits

PACKED_TOKENS = 512  # of a row of prompts: a token attends to few of them, but products go over all


class CachedRows:
    """Computes a batch with one row of keys and values for each distinct sample.

    It is an `Engine` (`repro.inference.decoding`).
    """

    def __init__(self, network: PreTrainedModel, draws: int, in_place: bool):
        """Take a network; `in_place` False keeps to transformers' own cache."""
        self.network, self.draws, self.in_place = network, draws, in_place
        self.work = Counter()

    def start(self, ids: list[list[int]], limit: int) -> list[int]:
        """Take the prompts of a batch, to be continued by `limit` tokens; return their order."""
        longest = max(map(len, ids))
        fast = self.in_place and packing.fits(self.network, longest)
        self.cache = kv_cache.make(self.network, len(ids) * self.draws, longest + limit, fast)
        self.groups = packing.groups(ids, PACKED_TOKENS)
        order = [at for group in self.groups for at in group]
        self.ids = [ids[at] for at in order]
        return order

    def prefill(self) -> torch.Tensor:
        """Return the logits after each prompt: (prompts, vocabulary)."""
        ids = self.ids
        self.work["prompt_tokens"] += sum(map(len, ids))
        if not kv_cache.is_in_place(self.cache):
            self.work["prompt_computed"] += len(ids) * max(map(len, ids))
            logits, self.mask = prefill(self.network, ids, self.cache)
            return logits
        rows = np.cumsum([0, *map(len, self.groups)]).tolist()
        logits = torch.cat([self._prefill_packed(ids[a:b], a) for a, b in pairwise(rows)])
        check_logits(logits)
        lengths = torch.tensor([len(prompt) for prompt in ids], device=logits.device)
        width = max(map(len, ids))
        kv_cache.show(self.cache, len(ids), width)
        mask = (torch.arange(width, device=logits.device) < lengths[:, None]).long()
        self.mask = None if mask.all() else mask  # of the columns; None: no padding
        return logits

    def _prefill_packed(self, ids: list[list[int]], first: int) -> torch.Tensor:
        """Compute some prompts packed into one row, and give each its row of the cache."""
        row, nodes = packing.pack(ids)
        row = {name: value.to(self.network.device) for name, value in row.items()}
        self.work["prompt_computed"] += row["input_ids"].shape[1]
        last = nodes[np.arange(len(ids)), [len(prompt) - 1 for prompt in ids]]
        nodes, last = (torch.from_numpy(n).to(self.network.device) for n in (nodes, last))
        cache = kv_cache.packed(self.network)
        logits = self.network(**row, past_key_values=cache, logits_to_keep=last).logits[0]
        kv_cache.take(self.cache, first, nodes.clamp(min=0), cache)
        return logits

    def step(self, row_of: np.ndarray, tokens: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
        """Continue samples by a token each; see `Engine`."""
        parents, next_tokens, row_of = kv_cache.arrange(row_of, tokens)
        device = self.network.device
        self.work["computed"] += len(parents)
        parents = torch.from_numpy(parents).to(device)
        self.cache.batch_select_indices(parents)
        options = {"past_key_values": self.cache}
        if self.mask is not None:
            self.mask = torch.nn.functional.pad(self.mask[parents], (0, 1), value=1)
            positions = self.mask.sum(-1, keepdim=True) - 1
            options |= {"attention_mask": self.mask, "position_ids": positions}
        ids = torch.from_numpy(next_tokens).to(device)[:, None]
        return self.network(ids, **options).logits[:, -1], row_of


def prefill(network, prompts: Sequence[list[int]], cache=None):
    """Compute prompts, padded on the left where their lengths differ.

    Args:
        network: any causal language model.
        prompts: P lists of token ids.
        cache: filled with their keys and values; None keeps none.

    Returns:
        The logits after each prompt (P, vocabulary), and the mask of the columns in the
        cache (P, width), or None if nothing is padded.

    Raises:
        ModelError: the logits are NaN.
    """
    width, device = max(map(len, prompts)), network.device
    ids = [[0] * (width - len(prompt)) + prompt for prompt in prompts]
    options = {"past_key_values": cache, "use_cache": cache is not None, "logits_to_keep": 1}
    mask = None
    if min(map(len, prompts)) < width:
        rows = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        mask = torch.tensor(rows, device=device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        options |= {"attention_mask": mask, "position_ids": positions}
    logits = network(torch.tensor(ids, device=device), **options).logits[:, -1]
    check_logits(logits)
    return logits, mask
