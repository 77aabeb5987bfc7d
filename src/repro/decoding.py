"""Batched completion of token prompts: sampled (Appendix F.1) or greedy (§3.3).

A batch is a forest of completions. What all its prompts begin with is computed once; a prompt
is computed once for all its samples; samples stay together until they draw different tokens.
A sample leaves when it has ended or its answer has appeared, because what follows can no longer
change whether it is a hit. None of this changes what is drawn.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from accelerate.utils import gather_object
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from repro import kvcache
from repro.errors import ModelError
from repro.memory import keep_pages
from repro.models import processes, stop_ids
from repro.sampling import Pick, greedy, sampler

CHECK_EVERY = 4  # steps between searches for the answer in the decoded text, after the first few
STARTS = (0, 4, 8, 12)  # leading ids by which the prompts of a batch are grouped, …
SIZES = (16, 32, 64, 256)  # … and the size of a group: whichever costs least
CALL = 32  # tokens that cost about as much as one more pass through the weights


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
    rows: int | None = None,
    in_place: bool = True,
    work: Counter | None = None,
    progress: Callable[[int], object] | None = None,
) -> list[list[Completion]]:
    """Complete every prompt `draws` times.

    Under several processes (`accelerate launch`) each completes a part of the batches, and
    all return everything.

    Args:
        network: any causal language model, in evaluation mode.
        tokenizer: its tokenizer.
        prompts: P prompts; a sampled prompt's label names its random numbers.
        max_new_tokens: the longest completion, in tokens.
        draws: samples per prompt.
        temperature: of the full softmax; None decodes greedily.
        seed: of the random numbers.
        rows: sequences computed at a time; by default what fits into `kvcache.BUDGET` bytes.
            It bounds the memory, not the result.
        in_place: False keeps to transformers' own cache, the general path.
        work: counts what this process computed: prompt_tokens, prompt_computed, tokens
            (that the samples consist of), computed (rows of the steps).
        progress: called with the number of prompts finished in each batch.

    Returns:
        P lists of `draws` completions, in the order of the prompts.

    Raises:
        ModelError: the model's logits are NaN.
    """
    if not prompts:
        return []
    longest = max(len(prompt.ids) for prompt in prompts)
    rows = rows or kvcache.rows_within(network, longest, longest + max_new_tokens)
    sharing, mine = processes(), []
    batches = _batches(prompts, max(1, rows // draws), sharing.num_processes)
    keep_pages()
    for batch in batches[sharing.process_index :: sharing.num_processes]:
        parts = groups([prompts[i].ids for i in batch])
        order = [batch[at] for part in parts for at in part]
        chosen = [prompts[i] for i in order]
        pick = _pick(chosen, draws, max_new_tokens, temperature, seed)
        forest = _Forest(network, tokenizer, chosen, draws, max_new_tokens, in_place)
        flat = forest.grow(pick, list(map(len, parts)))
        mine += [(i, flat[at * draws : (at + 1) * draws]) for at, i in enumerate(order)]
        if work is not None:
            work.update(forest.work)
        if progress:
            progress(len(batch))
    return [done for _, done in sorted(gather_object(mine), key=lambda pair: pair[0])]


def _pick(prompts, draws: int, steps: int, temperature: float | None, seed: int) -> Pick:
    if temperature is None:
        return greedy
    labels = [f"{prompt.label}|{j}" for prompt in prompts for j in range(draws)]
    return sampler(labels, steps, temperature, seed)


def _batches(prompts: Sequence[Prompt], most: int, sharing: int = 1) -> list[list[int]]:
    """Return batches of at most `most` prompts, of one size, as many for each process.

    Longest first: the batch that needs the most memory fails at once, not after hours.
    """
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i].ids), i))
    count = -(-len(order) // (most * sharing)) * sharing
    size = -(-len(order) // max(1, count))
    return [order[at : at + size] for at in range(0, len(order), size or 1)]


def groups(prompts: Sequence[list[int]]) -> list[list[int]]:
    """Return groups of prompts to compute together: alike in length, or in how they begin.

    Left to one group, all are padded to the longest, and nothing they share is computed once.
    """
    plans = []
    for start in STARTS:
        order = sorted(range(len(prompts)), key=lambda i: (prompts[i][:start], len(prompts[i]), i))
        for size in SIZES:
            plans.append([order[at : at + size] for at in range(0, len(order), size)])
    return min(plans, key=lambda plan: sum(_cost([prompts[i] for i in group]) for group in plan))


def _cost(prompts: Sequence[list[int]]) -> int:
    head = shared_head(prompts)
    return computed(prompts, head) + CALL * (2 if head else 1)


def computed(prompts: Sequence[list[int]], head: int) -> int:
    """Return the tokens computed for padded prompts whose first `head` ids are done once."""
    return head + len(prompts) * (max(map(len, prompts)) - head)


def shared_head(prompts: Sequence[list[int]]) -> int:
    """Return how many ids to compute once for all prompts, which begin with them.

    At least one id of each prompt is left over; 0 where less is saved than another call costs.
    """
    least, most, shortest = min(prompts), max(prompts), min(map(len, prompts)) - 1
    pairs = zip(least[:shortest], most[:shortest], strict=True)
    head = next((at for at, (a, b) in enumerate(pairs) if a != b), shortest)
    return head if head * (len(prompts) - 1) > CALL else 0


class _Forest:
    """The completions of a batch of prompts while they grow, one row per distinct one."""

    def __init__(self, network, tokenizer, prompts, draws, limit, in_place=True):
        """Allocate the cache; nothing is computed yet."""
        self.network, self.tokenizer, self.prompts = network, tokenizer, prompts
        self.draws, self.limit = draws, limit
        length = max(len(prompt.ids) for prompt in prompts) + limit
        self.cache = kvcache.make(network, len(prompts) * draws, length, in_place)
        self.stop = np.array(sorted(stop_ids(network, tokenizer)))
        self.ids = np.full((len(prompts) * draws, limit), -1)
        self.work = Counter()

    def grow(self, pick: Pick, sizes: list[int]) -> list[Completion]:
        """Return the completions, prompt by prompt; `sizes`: of the groups the prompts are in."""
        logits, mask = self._prefill(sizes)
        samples = np.arange(len(self.ids))
        of = samples // self.draws
        for step in range(self.limit):
            tokens = pick(logits, torch.from_numpy(of).to(logits.device), samples, step)
            tokens = tokens.cpu().numpy()
            goes_on = ~np.isin(tokens, self.stop)
            self.ids[samples[goes_on], step] = tokens[goes_on]
            if step == self.limit - 1:
                break
            if step < CHECK_EVERY or (step + 1) % CHECK_EVERY == 0:
                goes_on &= [not c.hit for c in self._read(samples)]
            samples, of, tokens = samples[goes_on], of[goes_on], tokens[goes_on]
            if not len(samples):
                break
            parents, follow, of = kvcache.arrange(of, tokens)
            logits, mask = self._next(parents, follow, mask)
        self.work["tokens"] += int((self.ids >= 0).sum())
        return self._read(range(len(self.ids)))

    def _prefill(self, sizes: list[int]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the logits after each prompt, and the mask of its columns (None: no padding)."""
        ids = [prompt.ids for prompt in self.prompts]
        self.work["prompt_tokens"] += sum(map(len, ids))
        if not kvcache.is_in_place(self.cache):
            self.work["prompt_computed"] += computed(ids, 0)
            return prefill(self.network, ids, self.cache)
        width, rows = max(map(len, ids)), np.cumsum([0, *sizes])
        # Each group is computed in rows of its own, and all end in the same column.
        parts = [self._prefill_group(ids[a:b], a, width) for a, b in pairwise(rows.tolist())]
        kvcache.show(self.cache, len(ids), width, (0, 0))
        logits, mask = (torch.cat(part) for part in zip(*parts, strict=True))
        return logits, None if mask.all() else mask

    def _prefill_group(self, ids: list[list[int]], row: int, width: int):
        own, head = max(map(len, ids)), shared_head(ids)
        self.work["prompt_computed"] += computed(ids, head)
        kvcache.show(self.cache, 0, 0, (row, width - own))
        if head:
            prefill(self.network, [ids[0][:head]], self.cache)
            every = torch.zeros(len(ids), dtype=torch.long, device=self.network.device)
            self.cache.batch_select_indices(every)
        logits, mask = prefill(self.network, ids, self.cache, head)
        if mask is None:
            mask = torch.ones(len(ids), own, dtype=torch.long, device=logits.device)
        return logits, torch.nn.functional.pad(mask, (width - own, 0))

    def _next(self, parents: np.ndarray, follow: np.ndarray, mask):
        """Return the logits after one more token of each row, and the longer mask."""
        device = self.network.device
        self.work["computed"] += len(parents)
        parents = torch.from_numpy(parents).to(device)
        self.cache.batch_select_indices(parents)
        options = {"past_key_values": self.cache}
        if mask is not None:
            mask = torch.nn.functional.pad(mask[parents], (0, 1), value=1)
            options |= {"attention_mask": mask, "position_ids": mask.sum(-1, keepdim=True) - 1}
        follow = torch.from_numpy(follow).to(device)[:, None]
        return self.network(follow, **options).logits[:, -1], mask

    def _read(self, samples) -> list[Completion]:
        """Return what some samples say so far, and whether it holds a name of their prompt."""
        ids = [[i for i in row if i >= 0] for row in self.ids[samples].tolist()]
        options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        texts = self.tokenizer.batch_decode(ids, **options)
        names = [self.prompts[sample // self.draws].names for sample in samples]
        return [
            Completion(i, text, contains(text, wanted))
            for i, text, wanted in zip(ids, texts, names, strict=True)
        ]


def contains(text: str, names: Sequence[str]) -> bool:
    """Tell whether any of the names is a substring of the text, ignoring case (F.1)."""
    folded = text.casefold()
    return any(name.casefold() in folded for name in names)


def prefill(network, prompts: Sequence[list[int]], cache=None, head: int = 0):
    """Compute prompts, padded on the left where their lengths differ.

    Args:
        network: any causal language model.
        prompts: P lists of token ids.
        cache: filled with their keys and values; None keeps none.
        head: leading ids of every prompt whose keys and values the cache holds already.

    Returns:
        The logits after each prompt (P, vocabulary), and the mask of the columns in the
        cache (P, width), or None if nothing is padded.

    Raises:
        ModelError: the logits are NaN.
    """
    width, device = max(map(len, prompts)), network.device
    ids = [[0] * (width - len(prompt)) + prompt[head:] for prompt in prompts]
    options = {"past_key_values": cache, "use_cache": cache is not None, "logits_to_keep": 1}
    mask = None
    if min(map(len, prompts)) < width:
        rows = [[1] * head + [0] * (width - len(p)) + [1] * (len(p) - head) for p in prompts]
        mask = torch.tensor(rows, device=device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, head:]
        options |= {"attention_mask": mask, "position_ids": positions}
    logits = network(torch.tensor(ids, device=device), **options).logits[:, -1]
    if logits.isnan().any():  # argmax would take NaN for a token, a broken model for an ignorant
        raise ModelError(
            "the model's logits are NaN: its weights are damaged, or were fine-tuned at too large"
            " a learning rate"
        )
    return logits, mask


@torch.inference_mode()
def first_logits(
    network: PreTrainedModel, prompts: Sequence[list[int]], rows: int = 256
) -> torch.Tensor:
    """Return the logits of the first new token, float32 on the CPU: (prompts, vocabulary).

    Raises:
        ModelError: the model's logits are NaN.
    """
    out = torch.empty(len(prompts), network.config.get_text_config().vocab_size)
    for batch in _batches([Prompt(ids) for ids in prompts], rows):
        logits, _ = prefill(network, [prompts[i] for i in batch])
        out[batch] = logits.float().cpu()
    return out
