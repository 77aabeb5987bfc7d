"""Token ids: the prefix of a text, the text itself, and the ids that end a completion."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

import numpy as np

from repro.errors import ModelError

if TYPE_CHECKING:  # transformers is loaded with the model
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TRIED = 64, 16  # number of random sequences, and of tokens of each, that `token_texts` tries


def prefix_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids that a tokenizer puts before every text.

    These are `[bos]` for LLaMA, none for SmolLM2, two tokens for GLM.

    Raises:
        ModelError: the tokenizer changes the tokens of a text when it adds special tokens.
    """
    plain, whole = (
        tokenizer("a", add_special_tokens=special).input_ids for special in (False, True)
    )
    starts = range(len(whole) - len(plain) + 1) if plain else range(1)
    for start in starts:
        if whole[start : start + len(plain)] == plain:
            return whole[:start]
    raise ModelError("this tokenizer changes a text when it adds special tokens: it cannot be used")


def shared_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Return the length of the longest common prefix of two sequences of tokens."""
    equal = (a == b for a, b in zip(first, second, strict=False))
    return sum(1 for _ in takewhile(bool, equal))


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Return the ids of each text, with `prefix_ids` before them.

    The backend of a fast tokenizer is called directly, because the layer of transformers around it
    takes three times as long as the backend.
    """
    if not texts:
        return []
    prefix, texts = prefix_ids(tokenizer), list(texts)
    # The first text is encoded by transformers, which also switches padding and truncation off.
    encoded = tokenizer(texts[:1], add_special_tokens=False).input_ids
    if tokenizer.is_fast:
        fast = tokenizer.backend_tokenizer.encode_batch_fast(texts[1:], add_special_tokens=False)
        encoded += [encoding.ids for encoding in fast]
    else:
        encoded += tokenizer(texts, add_special_tokens=False).input_ids[1:]
    return [prefix + ids for ids in encoded]


def token_texts(tokenizer: PreTrainedTokenizerBase) -> list[str] | None:
    """Return the text that each token adds to a text; a part of a character is U+FFFD.

    It returns None if the text of a sequence is not the joined texts of its tokens. Some random
    sequences are tried to find this out.
    """
    before = tokenizer("a", add_special_tokens=False).input_ids
    options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    start = tokenizer.decode(before, **options)
    tokens = range(len(tokenizer))
    decoded = tokenizer.batch_decode([[*before, token] for token in tokens], **options)
    if not all(text.startswith(start) for text in decoded):
        return None
    texts = [text.removeprefix(start) for text in decoded]
    complete = np.array([token for token in tokens if "\ufffd" not in texts[token]])
    if not len(complete):
        return None
    sequences = np.random.default_rng(0).choice(complete, TRIED).tolist()
    joined = [start + "".join(texts[token] for token in tokens) for tokens in sequences]
    decoded = tokenizer.batch_decode([before + tokens for tokens in sequences], **options)
    return texts if decoded == joined else None


def stop_ids(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return the ids that end a completion: the tokenizer's EOS and the model's own."""
    ends = network.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    return {i for i in (*ends, tokenizer.eos_token_id) if i is not None}
