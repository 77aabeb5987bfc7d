"""Decoding by transformers' own layers, of any network.

`CachedRows` keeps keys and values in a cache, a row for each distinct sample. Some networks it
would compute wrongly: those whose state runs on over padding, as RWKV's, or whose cache has no rows
to select, as Mamba's. These are computed by `WholeTexts`: every text from its start, without
padding or a cache.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from weakref import WeakKeyDictionary

import numpy as np
import torch
from transformers import PreTrainedModel

from repro.errors import ModelError, one_line
from repro.inference import kv_cache, packing
from repro.inference.sampling import check_logits

# The errors of transformers when it gives a cache to a network that has no use for it.
UNSUPPORTED = (
    *(AttributeError, IndexError, KeyError, NotImplementedError),
    *(RuntimeError, TypeError, ValueError),
)
# Short texts that show whether a network keeps texts apart: each token is the vocabulary's size by
# one of these. The first tokens of a vocabulary may be special, with states so large that rounding
# to bfloat16 changes much. The lengths differ by much, so that an effect of padding shows.
TRIED = (2, 3, 5, 7, 11, 13, 4, 9, 6), (5, 3, 4)
TOLERANCE = {torch.float32: 1e-3}  # of the norm of the logits; of other dtypes:
ROUNDING = 0.1
_PADS: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()
_CACHES: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()
PACKED_TOKENS = 512  # of a row of prompts: a token attends to few of them, but products go over all


class CachedRows:
    """Computes a batch with one row of keys and values for each distinct sample.

    It is an `Engine` (`repro.inference.decoding`).
    """

    def __init__(self, network: PreTrainedModel, draws: int, in_place: bool):
        """Take a network; with `in_place` False, transformers' own cache is used."""
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


class WholeTexts:
    """Computes every distinct text from its start at each step, with the texts of equal length.

    It is an `Engine` (`repro.inference.decoding`): slow, but correct for any causal model.
    """

    def __init__(self, network: PreTrainedModel):
        """Take a network."""
        self.network, self.work = network, Counter()

    def start(self, ids: list[list[int]], limit: int) -> list[int]:
        """Take the prompts of a batch; return their order."""
        self.texts = ids
        self.work["prompt_tokens"] += sum(map(len, ids))
        return list(range(len(ids)))

    def prefill(self) -> torch.Tensor:
        """Return the logits after each prompt: (prompts, vocabulary)."""
        self.work["prompt_computed"] += sum(map(len, self.texts))
        logits = last_logits(self.network, self.texts)
        check_logits(logits)
        return logits

    def step(self, row_of: np.ndarray, tokens: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
        """Continue samples by a token each; see `Engine`."""
        rows, next_tokens, row_of = kv_cache.distinct(row_of, tokens)
        pairs = zip(rows.tolist(), next_tokens.tolist(), strict=True)
        self.texts = [[*self.texts[row], token] for row, token in pairs]
        self.work["computed"] += sum(map(len, self.texts))
        return last_logits(self.network, self.texts), row_of


def last_logits(network, texts: Sequence[list[int]]) -> torch.Tensor:
    """Return the logits after each text, computed without padding or a cache."""
    by_length: dict[int, list[int]] = {}
    for place, ids in enumerate(texts):
        by_length.setdefault(len(ids), []).append(place)
    logits: list[torch.Tensor | None] = [None] * len(texts)
    for places in by_length.values():
        ids = torch.tensor([texts[place] for place in places], device=network.device)
        for place, row in zip(places, network(ids, use_cache=False).logits[:, -1], strict=True):
            logits[place] = row
    return torch.stack(logits)


def start_logits(network, prompts: Sequence[list[int]]) -> torch.Tensor:
    """Return the logits after each prompt: padded together where the network keeps them apart."""
    if pads(network, max(map(len, prompts))):
        return prefill(network, prompts)[0]
    logits = last_logits(network, prompts)
    check_logits(logits)
    return logits


def pads(network: PreTrainedModel, longest: int) -> bool:
    """Tell whether texts of at most `longest` tokens, padded on the left, have their own logits.

    Two short texts are tried, once for each network, because no attribute of a model tells it.

    Raises:
        ModelError: the network cannot be computed at all, or not for texts this long.
    """
    return not packing.depends_on_neighbours(network, longest) and _tried(network, _PADS, _padded)


def caches(network: PreTrainedModel, longest: int) -> bool:
    """Tell whether `CachedRows` computes texts of at most `longest` tokens correctly.

    Raises:
        ModelError: as `pads` does.
    """
    return pads(network, longest) and _tried(network, _CACHES, _cached)


@torch.no_grad()
def _tried(network, results: WeakKeyDictionary, way: Callable) -> bool:
    """Tell whether `way` computes the logits of the texts `TRIED` as each text alone has them."""
    if network not in results:
        size = network.config.get_text_config().vocab_size
        texts = [[size // part for part in parts] for parts in TRIED]
        try:
            alone = [last_logits(network, [ids])[0] for ids in texts]
        except UNSUPPORTED as error:
            raise ModelError(
                f"{type(network).__name__} cannot be computed here: {one_line(error)}"
            ) from error
        if not all(logits.isfinite().all() for logits in alone):
            return True  # damaged weights: the computation itself will report them
        try:
            joint_logits = way(network, texts).float()
        except UNSUPPORTED:
            results[network] = False
            return False
        expected = torch.stack(alone).float()
        # A network of float32 weights that are sharded may compute in bfloat16.
        allowed = TOLERANCE.get(alone[0].dtype, ROUNDING) * expected.norm()
        results[network] = bool((joint_logits - expected).norm() <= allowed)
    return results[network]


def _padded(network, texts: list[list[int]]) -> torch.Tensor:
    return prefill(network, texts)[0]


def _cached(network, texts: list[list[int]]) -> torch.Tensor:
    """Return the logits after all texts, whose last tokens are steps; rows are moved."""
    rows = CachedRows(network, 2, in_place=False)
    order = rows.start([ids[:-1] for ids in texts], 2)
    rows.prefill()
    # Three samples: both of the first text, so that its row is doubled, and one of the second.
    row_of = np.array([order.index(0), order.index(0), order.index(1)])
    last = [texts[0][-1], texts[0][-2], texts[1][-1]]
    logits, row_of = rows.step(row_of, np.array(last))
    return logits[torch.from_numpy(row_of[[0, 2]])]
