"""Packs texts into one row: nothing is padded, and a shared prefix is computed once.

All prompts begin with the same tokens, and those of a topic share even more. A causal model
computes a token from the tokens before it alone. So the row holds the prefix tree of the texts, and
a mask lets each token attend to its own prefix. Fine-tuning packs its batches in this way, and
decoding its prompts.
"""

from collections.abc import Sequence
from weakref import WeakSet

import numpy as np
import torch
from transformers import PreTrainedModel

from repro.errors import ModelError
from repro.inference.cpu.prefix_tree import merge_prefixes
from repro.models.architecture import rotary_settings
from repro.models.tokens import shared_prefix

_FITTING: WeakSet[PreTrainedModel] = WeakSet()  # networks that were tried and fit


def pack(texts: Sequence[list[int]]) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    """Return the row of some texts' prefix tree.

    Returns:
        A dict with `input_ids` and `position_ids`, (1, nodes), and `attention_mask`, bool (1, 1,
        nodes, nodes); and the node of each token of each text, int (texts, longest), filled up with
        −1.
    """
    tokens, parents, nodes = merge_prefixes(texts)
    depth, attends = np.zeros_like(parents), np.eye(len(parents), dtype=bool)
    for node, parent in enumerate(parents):
        if parent >= 0:  # a parent has a smaller number, so its row is complete
            depth[node] = depth[parent] + 1
            attends[node] |= attends[parent]
    row = {"input_ids": tokens, "position_ids": depth, "attention_mask": attends[None]}
    return {name: torch.from_numpy(values)[None] for name, values in row.items()}, nodes


def groups(texts: Sequence[list[int]], most: int) -> list[list[int]]:
    """Return the indices of texts in groups to pack: of at most `most` nodes, or a single text.

    Texts are taken in the order of their tokens, so that neighbours share prefixes.
    """
    rows, size, before = [], most, []
    for i in sorted(range(len(texts)), key=texts.__getitem__):
        new = len(texts[i]) - shared_prefix(before, texts[i])
        if size + new > most:  # it begins a row, so all of its tokens are new
            rows.append([])
            size, new = 0, len(texts[i])
        rows[-1].append(i)
        size, before = size + new, texts[i]
    return rows


def fits(network: PreTrainedModel, longest: int) -> bool:
    """Tell whether a network computes packed texts of at most `longest` tokens as if alone.

    A sliding window is not in the mask, so it must not be shorter than the texts.

    Raises:
        ModelError: as in `depends_on_neighbours`.
    """
    window = getattr(network.config.get_text_config(), "sliding_window", None)
    if depends_on_neighbours(network, longest) or (window and window < longest):
        return False
    if network not in _FITTING and _keeps_apart(network):  # a network that fits is tried once
        _FITTING.add(network)
    return network in _FITTING


def depends_on_neighbours(network: PreTrainedModel, longest: int) -> bool:
    """Tell whether texts of this length change the result of other texts in the batch.

    A longrope embedding changes the angles of all rows if one is long. Chunked attention counts its
    chunks from the start of the padded row.

    Raises:
        ModelError: the embedding is dynamic NTK, whose angles also depend on earlier texts.
    """
    config = network.config.get_text_config()
    settings = rotary_settings(config)
    kinds = {part.get("rope_type") for part in settings}
    names = "original_max_position_embeddings", "max_position_embeddings"
    lengths = [part.get(names[0]) for part in settings]
    lengths += [getattr(config, name, None) for name in names]
    trained = min((length for length in lengths if length), default=longest)
    if "dynamic" in kinds and longest > trained:
        raise ModelError(
            f"{type(network).__name__} stretches its rotary embedding beyond {trained} tokens for"
            f" all texts after a long one (dynamic NTK): give texts of at most {trained} tokens,"
            f" their completions included, not {longest}"
        )
    chunk = getattr(config, "attention_chunk_size", None) or longest
    return longest > chunk or ("longrope" in kinds and longest > trained)


@torch.no_grad()
def _keeps_apart(network) -> bool:
    """Tell whether two short texts have the same logits when packed as when alone.

    This is tried because no attribute of a model tells it. A model that makes its own mask, or has
    a recurrent state (RWKV, Mamba), would mix the texts without an error.
    """
    texts = [[1, 2, 3, 1, 2], [1, 3, 2, 2, 1]]
    row, nodes = pack(texts)
    row = {name: value.to(network.device) for name, value in row.items()}
    row["inputs_embeds"] = network.get_input_embeddings()(row.pop("input_ids"))
    try:
        packed = network(**row, use_cache=False).logits[0].float()
    except (RuntimeError, TypeError, ValueError):  # it accepts no such mask, or only ids
        return False
    alone = network(torch.tensor(texts, device=network.device), use_cache=False).logits.float()
    rounding = 1e-4 if network.dtype is torch.float32 else 0.05
    return bool((packed[nodes] - alone).norm() <= rounding * alone.norm())
