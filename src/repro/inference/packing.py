"""Texts packed into one row, each common beginning once: nothing is padded, nothing computed twice.

All prompts begin alike, those of a topic for longer, and what a causal model computes for a token
depends on the tokens before it alone. So the row holds the texts' tree of beginnings, in which a
token sees its own. Fine-tuning packs its batches so, decoding its prompts.
"""

from collections.abc import Sequence
from weakref import WeakSet

import numpy as np
import torch
from transformers import PreTrainedModel

from repro.inference.cpu.cpu_engine import plant

_FIT: WeakSet[PreTrainedModel] = WeakSet()


def pack(texts: Sequence[list[int]]) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    """Join texts into the row of their tree.

    Returns:
        dict(input_ids, position_ids: `[1, nodes]`; attention_mask: bool `[1, 1, nodes, nodes]`),
        and the node of each text's tokens: int `[texts, longest]`, filled with −1.
    """
    tokens, parents, nodes = plant(texts)
    depth, sees = np.zeros_like(parents), np.eye(len(parents), dtype=bool)
    for node, parent in enumerate(parents):
        if parent >= 0:  # it comes before
            depth[node] = depth[parent] + 1
            sees[node] |= sees[parent]
    row = {"input_ids": tokens, "position_ids": depth, "attention_mask": sees[None]}
    return {name: torch.from_numpy(values)[None] for name, values in row.items()}, nodes


def rows(texts: Sequence[list[int]], most: int) -> list[list[int]]:
    """Return which texts to pack together: alike ones, of at most `most` nodes or a single text."""
    made, size, before = [], most, []
    for i in sorted(range(len(texts)), key=texts.__getitem__):
        pairs = zip(before, texts[i], strict=False)
        new = len(texts[i]) - next((at for at, (a, b) in enumerate(pairs) if a != b), len(before))
        if size + new > most:  # it begins a row, so all of it is new
            made.append([])
            size, new = 0, len(texts[i])
        made[-1].append(i)
        size, before = size + new, texts[i]
    return made


def fits(network: PreTrainedModel, longest: int) -> bool:
    """Tell whether a network keeps packed texts of at most `longest` tokens apart.

    A sliding window is not in the mask, so it must not be shorter.
    """
    if (getattr(network.config.get_text_config(), "sliding_window", None) or longest) < longest:
        return False
    if network not in _FIT and _keeps_apart(network):  # it is not asked twice
        _FIT.add(network)
    return network in _FIT


@torch.no_grad()
def _keeps_apart(network) -> bool:
    # The network itself is asked, with two short texts, because no attribute of a model says it:
    # one that makes its own mask, or has a state that runs on, would mix them without an error.
    texts = [[1, 2, 3, 1, 2], [1, 3, 2, 2, 1]]
    row, nodes = pack(texts)
    row = {name: value.to(network.device) for name, value in row.items()}
    row["inputs_embeds"] = network.get_input_embeddings()(row.pop("input_ids"))
    try:
        found = network(**row, use_cache=False).logits[0].float()
    except (RuntimeError, TypeError, ValueError):  # it takes no such mask, or nothing but ids
        return False
    wanted = network(torch.tensor(texts, device=network.device), use_cache=False).logits.float()
    rounding = 1e-4 if network.dtype is torch.float32 else 0.05
    return bool((found[nodes] - wanted).norm() <= rounding * wanted.norm())
