"""Batched completion of token prompts: sampled (Appendix F.1) or greedy (§3.3).

Prompts are batched by length, padded on the left where lengths in a batch differ. A prompt is
computed once and then branches into its samples. A row leaves the batch when it has ended or
when its answer has appeared, because what follows can no longer change whether it is a hit.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from repro.errors import ModelError
from repro.models import stop_ids

BLOCK = 256  # vocabulary entries per block of the two-level sampler
CHECK_EVERY = 4  # steps between searches for the answer in the decoded text

Pick = Callable[[torch.Tensor, list[int], int], torch.Tensor]


@dataclass
class Prompt:
    """A prompt to complete: its token ids, the names that count as a hit, and a label."""

    ids: list[int]
    names: tuple[str, ...] = ()
    label: str = ""


@dataclass
class Completion:
    """What followed a prompt: token ids up to the stop, text, and whether a name appeared."""

    ids: list[int] = field(default_factory=list)
    text: str = ""
    hit: bool = False


def greedy(logits: torch.Tensor, rows: list[int], step: int) -> torch.Tensor:
    """Pick the most probable token of each row; logits (rows, vocabulary) → ids (rows,)."""
    return logits.argmax(-1)


def sampler(labels: Sequence[str], steps: int, temperature: float, seed: int) -> Pick:
    """Return a pick that draws from the full softmax at `temperature` (§3.3).

    The random numbers of a row are a function of (seed, its label, step) alone: they do not
    change with the batch it is computed in.
    """
    numbers = np.stack([uniforms(seed, label, steps) for label in labels])

    def pick(logits: torch.Tensor, rows: list[int], step: int) -> torch.Tensor:
        u = torch.from_numpy(numbers[rows, step]).to(logits.device)
        return draw(logits.float() / temperature, u)

    return pick


def uniforms(seed: int, label: str, count: int) -> np.ndarray:
    """Return `count` numbers in [0, 1) that depend on the seed and the label only."""
    digest = hashlib.blake2b(f"{seed}|{label}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest))).random(count)


def draw(logits: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Invert the cumulative distribution in two levels: a block, then a token inside it.

    Args:
        logits: (rows, vocabulary), float32.
        u: (rows,), float64 in [0, 1).

    Returns:
        Token ids (rows,), distributed exactly as softmax(logits).
    """
    p = torch.nn.functional.pad(logits.softmax(-1), (0, -logits.shape[-1] % BLOCK))
    blocks = p.view(len(p), -1, BLOCK)
    block, rest = _invert(blocks.sum(-1), u)
    token, _ = _invert(blocks[torch.arange(len(p), device=p.device), block], rest)
    return block * BLOCK + token


def _invert(weights: torch.Tensor, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    # Returns the index drawn and where in [0, 1) of its own mass `u` fell, for the next level.
    upto = weights.double().cumsum(-1)
    target = (u * upto[:, -1])[:, None]
    index = torch.searchsorted(upto, target, right=True).clamp(max=weights.shape[-1] - 1)
    mass = weights.double().gather(-1, index)
    inside = (target - (upto.gather(-1, index) - mass)) / mass
    return index[:, 0], inside[:, 0].clamp(0, 1 - 1e-12)


@torch.inference_mode()
def complete(
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    max_new_tokens: int,
    *,
    draws: int = 1,
    temperature: float | None = None,
    seed: int = 0,
    rows: int = 256,
    progress: Callable[[int], object] | None = None,
) -> list[list[Completion]]:
    """Complete every prompt `draws` times.

    Args:
        network: any causal language model, in evaluation mode.
        tokenizer: its tokenizer.
        prompts: P prompts; a sampled prompt's label names its random numbers.
        max_new_tokens: the longest completion, in tokens.
        draws: samples per prompt.
        temperature: of the full softmax; None decodes greedily.
        seed: of the random numbers.
        rows: sequences computed at a time; bounds the memory, not the result.
        progress: called with the number of prompts finished in each batch.

    Returns:
        P lists of `draws` completions, in the order of the prompts.

    Raises:
        ModelError: the model's logits are NaN.
    """
    done: list[list[Completion]] = [[] for _ in prompts]
    for batch in _batches(prompts, max(1, rows // draws)):
        pick = greedy
        if temperature is not None:
            labels = [f"{prompts[i].label}|{j}" for i in batch for j in range(draws)]
            pick = sampler(labels, max_new_tokens, temperature, seed)
        chosen = [prompts[i] for i in batch]
        flat = _complete_batch(network, tokenizer, chosen, draws, max_new_tokens, pick)
        for position, i in enumerate(batch):
            done[i] = flat[position * draws : (position + 1) * draws]
        if progress:
            progress(len(batch))
    return done


def _batches(prompts: Sequence[Prompt], size: int) -> Iterator[list[int]]:
    # Longest first: the batch that needs the most memory fails at once, not after hours.
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i].ids), i))
    yield from (order[i : i + size] for i in range(0, len(order), size))


def _prefill(network, prompts: Sequence[Prompt], cache=None):
    """Return the logits after each prompt, and the mask of its columns (None: no padding)."""
    width = max(len(prompt.ids) for prompt in prompts)
    device = network.device
    ids = [[0] * (width - len(prompt.ids)) + prompt.ids for prompt in prompts]
    options = {"past_key_values": cache, "use_cache": cache is not None, "logits_to_keep": 1}
    mask = None
    if min(len(prompt.ids) for prompt in prompts) < width:
        rows = [[0] * (width - len(p.ids)) + [1] * len(p.ids) for p in prompts]
        mask = torch.tensor(rows, device=device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        options |= {"attention_mask": mask, "position_ids": positions}
    logits = network(torch.tensor(ids, device=device), **options).logits[:, -1]
    if logits.isnan().any():  # argmax would take NaN for a token, a broken model for an ignorant
        raise ModelError(
            "the model's logits are NaN: its weights are damaged, or were fine-tuned at too large"
            " a learning rate"
        )
    return logits, mask


def _next(network, chosen: torch.Tensor, cache, mask):
    """Return the logits after one more token of each row, and the longer mask."""
    options = {"past_key_values": cache}
    if mask is not None:
        mask = torch.nn.functional.pad(mask, (0, 1), value=1)
        options |= {"attention_mask": mask, "position_ids": mask.sum(-1, keepdim=True) - 1}
    return network(chosen[:, None], **options).logits[:, -1], mask


def _complete_batch(network, tokenizer, prompts, draws, max_new_tokens, pick):
    stop = torch.tensor(sorted(stop_ids(network, tokenizer)), device=network.device)
    cache = DynamicCache(config=network.config)
    logits, mask = _prefill(network, prompts, cache)
    if draws > 1:
        cache.batch_repeat_interleave(draws)
        logits = logits.repeat_interleave(draws, 0)
        mask = None if mask is None else mask.repeat_interleave(draws, 0)
    out = [Completion() for _ in range(len(prompts) * draws)]
    names = [prompt.names for prompt in prompts for _ in range(draws)]
    alive = list(range(len(out)))
    for step in range(max_new_tokens):
        chosen = pick(logits, alive, step)
        open_ = ~torch.isin(chosen, stop)
        for row, token, goes_on in zip(alive, chosen.tolist(), open_.tolist(), strict=True):
            if goes_on:
                out[row].ids.append(token)
        if step == max_new_tokens - 1:
            break
        if (step + 1) % CHECK_EVERY == 0:
            open_ &= ~_answered(tokenizer, out, names, alive).to(open_.device)
        if not open_.any():
            break
        if not open_.all():
            alive, chosen, mask = _drop_finished(cache, alive, chosen, mask, open_)
        logits, mask = _next(network, chosen, cache, mask)
    _answered(tokenizer, out, names, range(len(out)))
    return out


def _drop_finished(cache, alive, chosen, mask, open_):
    cache.batch_select_indices(open_.nonzero()[:, 0])
    alive = [row for row, keep in zip(alive, open_.tolist(), strict=True) if keep]
    return alive, chosen[open_], None if mask is None else mask[open_]


def _answered(tokenizer, out, names, rows) -> torch.Tensor:
    texts = tokenizer.batch_decode(
        [out[row].ids for row in rows],
        skip_special_tokens=True,
        clean_up_tokenization_spaces=False,
    )
    for row, text in zip(rows, texts, strict=True):
        out[row].text = text
        out[row].hit = contains(text, names[row])
    return torch.tensor([out[row].hit for row in rows], dtype=torch.bool)


def contains(text: str, names: Sequence[str]) -> bool:
    """Tell whether any of the names is a substring of the text, ignoring case (F.1)."""
    folded = text.casefold()
    return any(name.casefold() in folded for name in names)


@torch.inference_mode()
def first_logits(
    network: PreTrainedModel, prompts: Sequence[list[int]], rows: int = 256
) -> torch.Tensor:
    """Return the logits of the first new token, float32 on the CPU: (prompts, vocabulary).

    Raises:
        ModelError: the model's logits are NaN.
    """
    out = torch.empty(len(prompts), network.config.get_text_config().vocab_size)
    wrapped = [Prompt(ids) for ids in prompts]
    for batch in _batches(wrapped, rows):
        logits, _ = _prefill(network, [wrapped[i] for i in batch])
        out[batch] = logits.float().cpu()
    return out
