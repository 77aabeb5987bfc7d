"""Token ids: the prefix of a text, the text itself, and what ends a completion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # transformers is loaded with the model
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def bos_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids this family puts before every text: `[bos]`, or nothing (SmolLM2)."""
    with_special = tokenizer("a").input_ids
    return [tokenizer.bos_token_id] if with_special[:1] == [tokenizer.bos_token_id] else []


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Return the ids of each text, with `bos_ids` before them.

    It asks the backend of a fast tokenizer: the layer that transformers puts around it takes
    three times as long as the backend.
    """
    if not texts:
        return []
    bos, texts = bos_ids(tokenizer), list(texts)
    # The first text goes through transformers, which also ends padding and truncation.
    encoded = tokenizer(texts[:1], add_special_tokens=False).input_ids
    if tokenizer.is_fast:
        fast = tokenizer.backend_tokenizer.encode_batch_fast(texts[1:], add_special_tokens=False)
        encoded += [encoding.ids for encoding in fast]
    else:
        encoded += tokenizer(texts, add_special_tokens=False).input_ids[1:]
    return [bos + ids for ids in encoded]


def stop_ids(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return the ids that end a completion: the tokenizer's EOS and the model's own."""
    ends = network.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    return {i for i in (*ends, tokenizer.eos_token_id) if i is not None}
