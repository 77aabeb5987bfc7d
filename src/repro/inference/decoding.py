"""Batched completion of token prompts: sampled (Appendix F.1) or greedy (§3.3).

A batch is a forest of completions. What all its prompts begin with is computed once; a prompt
is computed once for all its samples; samples stay together until they draw different tokens.
A sample leaves when it has ended or its answer has appeared, because what follows can no longer
change whether it is a hit. None of this changes what is drawn.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from accelerate.utils import gather_object
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from repro.errors import ModelError
from repro.inference import kv_cache, packing
from repro.inference.allocator import keep_pages
from repro.inference.cpu.cpu_engine import Lean, Memory, Tree, plant
from repro.inference.sampling import Pick, greedy, sampler
from repro.inference.threads import map_in_threads, thread_count
from repro.models.devices import processes
from repro.models.tokens import stop_ids

CHECK_EVERY = 4  # steps between searches for the answer in the decoded text, after the first few
NODES = 512  # of a row of prompts: a token attends to few of them, but the products go over all
LEAN_ROWS = 8192  # samples at a time beyond which a small model gains nothing


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


def complete(
    network: PreTrainedModel | Lean,
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
        network: any causal language model, in evaluation mode; or one that `Lean` computes.
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
    lean = network if isinstance(network, Lean) else None
    sharing, threads = processes(), thread_count(lean)
    if rows is None:
        rows = room(network, prompts, draws, max_new_tokens) // threads
    reader, mine = Reader(tokenizer, lean.network if lean else network), []
    keep_pages()
    parts = sharing.num_processes * threads
    batches = _batches(prompts, max(1, rows // draws), parts, bool(lean))
    settings = draws, max_new_tokens, temperature, seed
    finish = partial(_finish, network, reader, prompts, settings, in_place)
    own = batches[sharing.process_index :: sharing.num_processes]
    with lean.held() if lean else nullcontext():
        for done, counted in map_in_threads(threads, finish, own):
            mine += done
            if work is not None:
                work.update(counted)
            if progress:
                progress(len(done))
    return [done for _, done in sorted(gather_object(mine), key=lambda pair: pair[0])]


@torch.inference_mode()
def _finish(network, reader, prompts, settings, in_place, batch: list[int]):
    """Return the completions of each prompt of a batch, [(index, completions)], and the work."""
    draws, limit, temperature, seed = settings
    lean = isinstance(network, Lean)
    past = _Nodes(network, draws) if lean else _Rows(network, draws, in_place)
    order = [batch[at] for at in past.take([prompts[i].ids for i in batch], limit)]
    chosen = [prompts[i] for i in order]
    pick = _pick(chosen, draws, limit, temperature, seed)
    flat = _Forest(past, reader, chosen, draws, limit).grow(pick)
    return [(i, flat[at * draws : (at + 1) * draws]) for at, i in enumerate(order)], past.work


def room(network: PreTrainedModel | Lean, prompts: Sequence[Prompt], draws: int, limit: int) -> int:
    """Return how many sequences to compute at a time."""
    longest = max(len(prompt.ids) for prompt in prompts)
    if isinstance(network, Lean):
        return min(LEAN_ROWS, network.rows_within(longest, draws, limit))
    return kv_cache.rows_within(network, longest, longest + limit)


def _pick(prompts, draws: int, steps: int, temperature: float | None, seed: int) -> Pick:
    if temperature is None:
        return greedy
    labels = [f"{prompt.label}|{j}" for prompt in prompts for j in range(draws)]
    return sampler(labels, steps, temperature, seed)


def _batches(
    prompts: Sequence[Prompt], most: int, sharing: int = 1, alike: bool = False
) -> list[list[int]]:
    """Return batches of at most `most` prompts, of one size, as many for each process.

    Longest first: the batch that needs the most memory fails at once, not after hours. Or, where
    nothing is padded, those that begin `alike` together.
    """
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i].ids), i))
    if alike:
        order = sorted(order, key=lambda i: prompts[i].ids)
    count = -(-len(order) // (most * sharing)) * sharing
    size = -(-len(order) // max(1, count))
    return [order[at : at + size] for at in range(0, len(order), size or 1)]


class _Forest:
    """The completions of a batch of prompts while they grow, one row per distinct one."""

    def __init__(self, past: "_Rows | _Nodes", reader: "Reader", prompts, draws: int, limit: int):
        """Take what computes the prompts, in their order."""
        self.past, self.reader, self.prompts = past, reader, prompts
        self.draws, self.limit = draws, limit
        self.ids = np.full((len(prompts) * draws, limit), -1)

    def grow(self, pick: Pick) -> list[Completion]:
        """Return the completions, prompt by prompt."""
        logits = self.past.begin()
        samples = np.arange(len(self.ids))
        of = samples // self.draws
        for step in range(self.limit):
            tokens = pick(logits, torch.from_numpy(of).to(logits.device), samples, step)
            tokens = tokens.cpu().numpy()
            goes_on = ~np.isin(tokens, self.reader.stop)
            self.ids[samples[goes_on], step] = tokens[goes_on]
            if step == self.limit - 1:
                break
            if step < CHECK_EVERY or (step + 1) % CHECK_EVERY == 0:
                goes_on[goes_on] = [not c.hit for c in self._read(samples[goes_on], step + 1)]
            samples, of, tokens = samples[goes_on], of[goes_on], tokens[goes_on]
            if not len(samples):
                break
            logits, of = self.past.go_on(of, tokens)
        self.past.work["tokens"] += int((self.ids >= 0).sum())
        return self._read(np.arange(len(self.ids)), self.limit)

    def _read(self, samples: np.ndarray, length: int) -> list[Completion]:
        """Return what some samples say so far, and whether it holds a name of their prompt."""
        ids = self.ids[samples, :length]
        lengths = (ids >= 0).sum(1)
        told = map(tuple, ids.tolist())
        if length > lengths.min(initial=length):
            told = (row[:n] for row, n in zip(told, lengths.tolist(), strict=True))
        names = [self.prompts[i].names for i in (samples // self.draws).tolist()]
        return self.reader.read(zip(names, told, strict=True))


class Reader:
    """Turns ids into text, each distinct completion once: most of them occur many times."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, network: PreTrainedModel):
        """Take a tokenizer, and the network for the ids that end a completion (`stop`)."""
        self.tokenizer, self.stop = tokenizer, np.array(sorted(stop_ids(network, tokenizer)))
        self._texts: dict[tuple[int, ...], str] = {}
        self._found: dict[tuple, Completion] = {}

    def read(self, asked: Iterable[tuple[tuple[str, ...], tuple[int, ...]]]) -> list[Completion]:
        """Return the completion of each pair of names and ids, equal ones shared."""
        done = []
        for pair in asked:
            completion = self._found.get(pair)
            if completion is None:
                completion = self._found[pair] = self._complete(*pair)
            done.append(completion)
        return done

    def _complete(self, names: tuple[str, ...], ids: tuple[int, ...]) -> Completion:
        if ids not in self._texts:
            options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
            self._texts[ids] = self.tokenizer.decode(list(ids), **options)
        text = self._texts[ids]
        return Completion(list(ids), text, contains(text, names))


# --- what computes the next logits: rows of a cache, or nodes of a tree ---------------------------
# `take` prompts and say in which order they are kept; `begin`: the logits after each prompt;
# `go_on` with a token for each sample, given the row its prompt or last token is at: the logits
# after each distinct continuation, and each sample's row of them.


class _Rows:
    """Any network: a row for each distinct completion, in a cache of keys and values."""

    def __init__(self, network: PreTrainedModel, draws: int, in_place: bool):
        self.network, self.draws, self.in_place = network, draws, in_place
        self.work = Counter()

    def take(self, ids: list[list[int]], limit: int) -> list[int]:
        longest = max(map(len, ids))
        fast = self.in_place and packing.fits(self.network, longest)
        self.cache = kv_cache.make(self.network, len(ids) * self.draws, longest + limit, fast)
        self.parts = packing.rows(ids, NODES)
        order = [at for part in self.parts for at in part]
        self.ids = [ids[at] for at in order]
        return order

    def begin(self) -> torch.Tensor:
        ids = self.ids
        self.work["prompt_tokens"] += sum(map(len, ids))
        if not kv_cache.is_in_place(self.cache):
            self.work["prompt_computed"] += len(ids) * max(map(len, ids))
            logits, self.mask = prefill(self.network, ids, self.cache)
            return logits
        rows = np.cumsum([0, *map(len, self.parts)]).tolist()
        logits = torch.cat([self._begin(ids[a:b], a) for a, b in pairwise(rows)])
        _check(logits)
        lengths = torch.tensor([len(own) for own in ids], device=logits.device)
        width = max(map(len, ids))
        kv_cache.show(self.cache, len(ids), width)
        mask = (torch.arange(width, device=logits.device) < lengths[:, None]).long()
        self.mask = None if mask.all() else mask  # of the columns; None: no padding
        return logits

    def _begin(self, ids: list[list[int]], first: int) -> torch.Tensor:
        """Compute some prompts in one row, and give each a row of the cache."""
        row, nodes = packing.pack(ids)
        row = {name: value.to(self.network.device) for name, value in row.items()}
        self.work["prompt_computed"] += row["input_ids"].shape[1]
        last = nodes[np.arange(len(ids)), [len(own) - 1 for own in ids]]
        nodes, last = (torch.from_numpy(n).to(self.network.device) for n in (nodes, last))
        cache = kv_cache.packed(self.network)
        logits = self.network(**row, past_key_values=cache, logits_to_keep=last).logits[0]
        kv_cache.take(self.cache, first, nodes.clamp(min=0), cache)
        return logits

    def go_on(self, of: np.ndarray, tokens: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
        parents, follow, of = kv_cache.arrange(of, tokens)
        device = self.network.device
        self.work["computed"] += len(parents)
        parents = torch.from_numpy(parents).to(device)
        self.cache.batch_select_indices(parents)
        options = {"past_key_values": self.cache}
        if self.mask is not None:
            self.mask = torch.nn.functional.pad(self.mask[parents], (0, 1), value=1)
            positions = self.mask.sum(-1, keepdim=True) - 1
            options |= {"attention_mask": self.mask, "position_ids": positions}
        follow = torch.from_numpy(follow).to(device)[:, None]
        return self.network(follow, **options).logits[:, -1], of


class _Nodes:
    """`Lean`: a node for each distinct beginning of prompts and completions."""

    def __init__(self, lean: Lean, draws: int = 1):
        self.lean, self.draws, self.work = lean, draws, Counter()

    def take(self, ids: list[list[int]], limit: int) -> list[int]:
        self.tokens, self.parents, rows = plant(ids)
        self.last = rows[np.arange(len(ids)), [len(own) - 1 for own in ids]]
        self.tree = Tree(max(map(len, ids)) + limit)
        most = len(self.tokens) + len(ids) * self.draws * limit
        self.memory = Memory(len(self.lean.parts.layers), most)
        self.work["prompt_tokens"] += sum(map(len, ids))
        return list(range(len(ids)))

    def begin(self) -> torch.Tensor:
        self.work["prompt_computed"] += len(self.tokens)
        logits = self._read(self.tokens, self.parents, torch.from_numpy(self.last))
        _check(logits)
        return logits

    def go_on(self, of: np.ndarray, tokens: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
        rows, follow, of = kv_cache.distinct(of, tokens)
        self.work["computed"] += len(rows)
        parents, self.last = self.last[rows], self.tree.size + np.arange(len(rows))
        return self._read(follow, parents), of

    def _read(self, tokens: np.ndarray, parents: np.ndarray, wanted=None) -> torch.Tensor:
        states = self.lean.embed(torch.from_numpy(tokens))
        return self.lean(states, self.tree.add(parents), self.tree, wanted, self.memory)


def contains(text: str, names: Sequence[str]) -> bool:
    """Tell whether any of the names is a substring of the text, ignoring case (F.1)."""
    folded = text.casefold()
    return any(name.casefold() in folded for name in names)


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
    _check(logits)
    return logits, mask


def _check(logits: torch.Tensor) -> None:
    # The most probable token of NaN is some token: a broken model would seem an ignorant one.
    if logits.amax(-1).isnan().any():
        raise ModelError(
            "the model's logits are NaN: its weights are damaged, or were fine-tuned at too large"
            " a learning rate"
        )


@torch.inference_mode()
def first_logits(
    network: PreTrainedModel | Lean, prompts: Sequence[list[int]], rows: int = 256
) -> torch.Tensor:
    """Return the logits of the first new token, float32 on the CPU: (prompts, vocabulary).

    Raises:
        ModelError: the model's logits are NaN.
    """
    lean = isinstance(network, Lean)
    config = (network.network if lean else network).config.get_text_config()
    out = torch.empty(len(prompts), config.vocab_size)
    for batch in _batches([Prompt(ids) for ids in prompts], rows, alike=lean):
        own = [prompts[i] for i in batch]
        if lean:
            (past := _Nodes(network)).take(own, 0)
            logits = past.begin()
        else:
            logits, _ = prefill(network, own)
        out[batch] = logits.float().cpu()
    return out
