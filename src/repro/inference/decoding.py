"""Completes prompts of tokens in batches: sampled (Appendix F.1) or greedy (§3.3).

A prefix that all prompts of a batch share is computed once, and a prompt once for all its samples.
Samples with the same tokens share a row until they draw different tokens. A sample leaves the batch
when it has ended, or when its answer has appeared, because later tokens cannot change that it is a
hit. Where only hits are wanted, it also leaves when the tokens that are left can no longer spell a
name. None of this changes the tokens that are drawn.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np
import torch
from accelerate.utils import gather_object
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from repro.inference import kv_cache
from repro.inference.allocator import keep_pages
from repro.inference.cpu.cpu_engine import CpuEngine
from repro.inference.cpu.tree_decoding import TreeNodes
from repro.inference.reach import reach_of
from repro.inference.sampling import Pick, greedy, labels_of_draws, sampler
from repro.inference.threads import map_in_threads, thread_count
from repro.inference.transformers_engine import CachedRows, WholeTexts, caches, start_logits
from repro.inference.vllm_engine import VllmEngine
from repro.models import tensor_parallel
from repro.models.devices import least_of_processes
from repro.models.tokens import stop_ids
from repro.paper import folded

CHECK_EVERY = 4  # steps between two searches for the answer in the text, after the first steps
CPU_ENGINE_ROWS = 8192  # most samples at a time: more do not make a small model faster


@dataclass
class Prompt:
    """A prompt to complete: its token ids, the names that count as a hit, and a label."""

    ids: list[int]
    names: tuple[str, ...] = ()
    label: str = ""


@dataclass
class Completion:
    """A completion: its token ids up to the end, its text, and whether a name is in it."""

    ids: list[int] = field(default_factory=list)
    text: str = ""
    hit: bool = False


@dataclass(frozen=True)
class Decoding:
    """The settings of completion.

    Attributes:
        max_new_tokens: the longest completion, in tokens.
        draws: samples per prompt.
        temperature: of the softmax over the whole vocabulary; None decodes greedily.
        seed: of the random numbers.
        rows: sequences computed at a time; None: as many as fit into the free memory of a GPU, or
            into `kv_cache.BUDGET` bytes elsewhere. It limits the memory, and does not change the
            result.
        in_place: False uses transformers' own cache, which all its models have.
        hits_only: only `hit` of each completion is wanted. A completion then ends where the tokens
            that are left can no longer spell a name.
    """

    max_new_tokens: int
    draws: int = 1
    temperature: float | None = None
    seed: int = 0
    rows: int | None = None
    in_place: bool = True
    hits_only: bool = False


class Engine(Protocol):
    """Computes the logits of the prompts of a batch and of their continuations.

    `work` counts prompt_tokens, prompt_computed and computed (rows of the steps).
    """

    work: Counter

    def start(self, ids: list[list[int]], limit: int) -> list[int]:
        """Take the prompts of a batch, to be continued by `limit` tokens; return their order."""

    def prefill(self) -> torch.Tensor:
        """Return the logits after each prompt, in that order: (prompts, vocabulary)."""

    def step(self, row_of: np.ndarray, tokens: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
        """Continue samples by a token each, given the row of logits it was drawn from.

        Returns the logits after each distinct continuation, and each sample's row of them.
        """


def complete(
    network: PreTrainedModel | CpuEngine | VllmEngine,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    decoding: Decoding,
    work: Counter | None = None,
    progress: Callable[[int], object] | None = None,
) -> list[list[Completion]]:
    """Complete every prompt `decoding.draws` times.

    Several processes (`accelerate launch`) complete a part of the batches each, and all of them
    return all completions. Those that divide a network complete the same batches together.

    Args:
        network: any causal language model, in evaluation mode; or a `CpuEngine` or `VllmEngine`.
        tokenizer: its tokenizer.
        prompts: P prompts; the label of a sampled prompt determines its random numbers.
        decoding: the settings.
        work: counts the work of this process: prompt_tokens, prompt_computed, tokens (of all
            samples), computed (rows of the steps), unreachable (samples that left because they
            could not spell a name any more).
        progress: called with the number of prompts finished in each batch.

    Returns:
        P lists of `draws` completions, in the order of the prompts.

    Raises:
        ModelError: the model's logits are NaN, or it cannot be computed.
    """
    if not prompts:
        return []
    if isinstance(network, VllmEngine):
        return _complete_by_vllm(network, tokenizer, prompts, decoding, work, progress)
    engine = network if isinstance(network, CpuEngine) else None
    threads = thread_count(engine)
    texts = CompletionTexts(tokenizer, engine.network if engine else network, decoding.hits_only)
    keep_pages()
    batches = _batches_of_process(network, prompts, decoding, threads)
    job = partial(_complete_batch, network, texts, prompts, decoding)
    completed = []
    with engine.prepared_weights() if engine else nullcontext():
        for finished, batch_work in map_in_threads(threads, job, batches):
            completed += finished
            if work is not None:
                work.update(batch_work)
            if progress:
                progress(len(finished))
    once = gather_object([] if tensor_parallel.group(network).rank else completed)
    return [samples for _, samples in sorted(once, key=lambda pair: pair[0])]


def _complete_by_vllm(
    engine: VllmEngine, tokenizer, prompts: Sequence[Prompt], decoding: Decoding, work, progress
) -> list[list[Completion]]:
    """Complete prompts as `complete` does; what vLLM generates after an answer is cut off."""
    texts, limit = CompletionTexts(tokenizer, engine), decoding.max_new_tokens
    options = {"progress": progress} if progress else {}
    draws = engine.complete(prompts, decoding, texts.stop.tolist(), **options)
    completions = [
        [texts.until_answer(prompt.names, ids, limit) for ids in samples]
        for prompt, samples in zip(prompts, draws, strict=True)
    ]
    if work is not None:
        work["prompt_tokens"] += sum(len(prompt.ids) for prompt in prompts)
        work["tokens"] += sum(len(each.ids) for samples in completions for each in samples)
    return completions


def _batches_of_process(
    network: PreTrainedModel | CpuEngine,
    prompts: Sequence[Prompt],
    decoding: Decoding,
    threads: int,
) -> list[list[int]]:
    """Return the batches that this process completes, each as indices of prompts."""
    group = tensor_parallel.group(network)
    rows = decoding.rows or least_of_processes(room(network, prompts, decoding)) // threads
    parts, is_engine = group.number * threads, isinstance(network, CpuEngine)
    batches = _batches(prompts, max(1, rows // decoding.draws), parts, is_engine)
    return batches[group.index :: group.number]


@torch.inference_mode()
def _complete_batch(network, texts, prompts, decoding: Decoding, batch: list[int]):
    """Return the completions of each prompt of a batch, [(index, completions)], and the work."""
    draws, limit = decoding.draws, decoding.max_new_tokens
    engine = _engine(network, decoding, max(len(prompts[i].ids) for i in batch))
    order = [batch[at] for at in engine.start([prompts[i].ids for i in batch], limit)]
    ordered = [prompts[i] for i in order]
    pick = _agreed(network, _pick(ordered, decoding))
    samples = _Samples(engine, texts, ordered, decoding).grow(pick)
    return [(i, samples[at * draws : (at + 1) * draws]) for at, i in enumerate(order)], engine.work


def _engine(network: PreTrainedModel | CpuEngine, decoding: Decoding, longest: int) -> Engine:
    """Return the engine that computes a batch of prompts of at most `longest` tokens."""
    if isinstance(network, CpuEngine):
        return TreeNodes(network, decoding.draws)
    if caches(network, longest + decoding.max_new_tokens):
        return CachedRows(network, decoding.draws, decoding.in_place)
    return WholeTexts(network)


def room(
    network: PreTrainedModel | CpuEngine, prompts: Sequence[Prompt], decoding: Decoding
) -> int:
    """Return how many sequences to compute at a time."""
    longest, limit = max(len(prompt.ids) for prompt in prompts), decoding.max_new_tokens
    if isinstance(network, CpuEngine):
        return min(CPU_ENGINE_ROWS, network.rows_within(longest, decoding.draws, limit))
    available = kv_cache.budget(network.device)
    return kv_cache.rows_within(network, longest, longest + limit, available)


def _pick(prompts: Sequence[Prompt], decoding: Decoding) -> Pick:
    """Return the function that picks the next tokens; a sample's label gives its random numbers."""
    if decoding.temperature is None:
        return greedy
    labels = [label for p in prompts for label in labels_of_draws(p.label, decoding.draws)]
    return sampler(labels, decoding.max_new_tokens, decoding.temperature, decoding.seed)


def _agreed(network: PreTrainedModel | CpuEngine, pick: Pick) -> Pick:
    """Return a pick whose tokens are the same in all processes that divide a network."""

    def pick_agreed(logits, row_of, samples, step):
        return tensor_parallel.same_in_group(network, pick(logits, row_of, samples, step))

    return pick_agreed


def _batches(
    prompts: Sequence[Prompt], most: int, sharing: int = 1, alike: bool = False
) -> list[list[int]]:
    """Return batches of at most `most` prompts, of equal size, the same number for each process.

    The longest prompts come first, so that the batch that needs the most memory fails at once and
    not after hours. If nothing is padded (`alike`), prompts with a common prefix come together.
    """
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i].ids), i))
    if alike:
        order = sorted(order, key=lambda i: prompts[i].ids)
    count = -(-len(order) // (most * sharing)) * sharing
    size = -(-len(order) // max(1, count))
    return [order[at : at + size] for at in range(0, len(order), size or 1)]


def _is_searched(length: int) -> bool:
    """Tell whether samples of this length are searched for the answer."""
    return length <= CHECK_EVERY or length % CHECK_EVERY == 0


class _Samples:
    """The samples of a batch, which grow token by token."""

    def __init__(self, engine: Engine, texts: "CompletionTexts", prompts, decoding: Decoding):
        """Take the engine, the texts, the prompts in the order of the engine, and the settings."""
        self.engine, self.texts, self.prompts = engine, texts, prompts
        self.draws, self.limit = decoding.draws, decoding.max_new_tokens
        most = [texts.reach.most(prompt.names) if texts.reach else 0 for prompt in prompts]
        self.most_needed = np.repeat(most, self.draws)  # tokens: with so many left, all go on
        self.ids = np.full((len(prompts) * self.draws, self.limit), -1)

    def grow(self, pick: Pick) -> list[Completion]:
        """Return the completions, prompt by prompt.

        In each step every open sample draws a token. Samples that have ended, or that are decided,
        are closed. The others are continued; equal ones share a row.
        """
        logits = self.engine.prefill()
        open_samples = np.arange(len(self.ids))
        row_of = open_samples // self.draws
        for step in range(self.limit):
            rows = torch.from_numpy(row_of).to(logits.device)
            tokens = pick(logits, rows, open_samples, step).cpu().numpy()
            goes_on = ~np.isin(tokens, self.texts.stop)
            self.ids[open_samples[goes_on], step] = tokens[goes_on]
            if step == self.limit - 1:
                break
            goes_on[goes_on] = ~self._decided(open_samples[goes_on], step + 1)
            open_samples, row_of = open_samples[goes_on], row_of[goes_on]
            if not len(open_samples):
                break
            logits, row_of = self.engine.step(row_of, tokens[goes_on])
        self.engine.work["tokens"] += int((self.ids >= 0).sum())
        return self._completions(np.arange(len(self.ids)), self.limit)

    def _decided(self, samples: np.ndarray, length: int) -> np.ndarray:
        """Tell which samples hold a name after `length` tokens, or can no longer come to hold one.

        Names are looked for in the first steps, then in every few.
        """
        decided, left = np.zeros(len(samples), bool), self.limit - length
        doubtful = left < self.most_needed[samples]
        places = np.arange(len(samples)) if _is_searched(length) else doubtful.nonzero()[0]
        so_far = self._completions(samples[places], length)
        for place, completion in zip(places, so_far, strict=True):
            decided[place] = completion.hit
            if doubtful[place] and not completion.hit:
                names = self.prompts[samples[place] // self.draws].names
                decided[place] = self.texts.reach.needed(names, completion.text) > left
                self.engine.work["unreachable"] += int(decided[place])
        return decided

    def _completions(self, samples: np.ndarray, length: int) -> list[Completion]:
        """Return the completions of some samples after `length` tokens."""
        ids = self.ids[samples, :length]
        lengths = (ids >= 0).sum(1)
        rows = map(tuple, ids.tolist())
        if length > lengths.min(initial=length):
            rows = (row[:n] for row, n in zip(rows, lengths.tolist(), strict=True))
        names = [self.prompts[i].names for i in (samples // self.draws).tolist()]
        return self.texts.completions(zip(names, rows, strict=True))


class CompletionTexts:
    """Turns ids into completions. Most occur many times, so each distinct one is decoded once."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, network: PreTrainedModel, hits_only: bool = False
    ):
        """Take a tokenizer, and a network, which has the ids that end a completion (`stop`).

        If only hits are wanted, `reach` tells which names a completion can still come to contain.
        """
        self.tokenizer, self.stop = tokenizer, np.array(sorted(stop_ids(network, tokenizer)))
        self.reach = reach_of(tokenizer) if hits_only else None
        self._texts: dict[tuple[int, ...], str] = {}
        self._completions: dict[tuple, Completion] = {}

    def completions(
        self, pairs: Iterable[tuple[tuple[str, ...], tuple[int, ...]]]
    ) -> list[Completion]:
        """Return the completion of each pair of names and ids; equal pairs share one."""
        completions = []
        for pair in pairs:
            completion = self._completions.get(pair)
            if completion is None:
                completion = self._completions[pair] = self._completion(*pair)
            completions.append(completion)
        return completions

    def until_answer(self, names: tuple[str, ...], ids: list[int], limit: int) -> Completion:
        """Return the completion as far as `_Samples` would let it grow: until a name is found."""
        for length in range(1, min(len(ids), limit - 1) + 1):
            if _is_searched(length):
                [so_far] = self.completions([(names, tuple(ids[:length]))])
                if so_far.hit:
                    return so_far
        return self.completions([(names, tuple(ids))])[0]

    def _completion(self, names: tuple[str, ...], ids: tuple[int, ...]) -> Completion:
        if ids not in self._texts:
            options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
            self._texts[ids] = self.tokenizer.decode(list(ids), **options)
        text = self._texts[ids]
        return Completion(list(ids), text, contains(text, names))


def contains(text: str, names: Sequence[str]) -> bool:
    """Tell whether any of the names is a substring of the text, ignoring case (F.1).

    Different spellings of apostrophes, spaces and dashes count as the same.
    """
    text = folded(text)
    return any(folded(name) in text for name in names)


@torch.inference_mode()
def first_logits(
    network: PreTrainedModel | CpuEngine | VllmEngine,
    prompts: Sequence[list[int]],
    rows: int = 256,
) -> torch.Tensor:
    """Return the logits of the first new token, float32 on the CPU: (prompts, vocabulary).

    Raises:
        ModelError: the model's logits are NaN.
    """
    if isinstance(network, VllmEngine):
        return network.first_logits(prompts)
    engine = network if isinstance(network, CpuEngine) else None
    config = (engine.network if engine else network).config.get_text_config()
    out = torch.empty(len(prompts), config.vocab_size)
    for batch in _batches([Prompt(ids) for ids in prompts], rows, alike=bool(engine)):
        ids = [prompts[i] for i in batch]
        if engine:
            nodes = TreeNodes(engine)
            nodes.start(ids, 0)
            logits = nodes.prefill()
        else:
            logits = start_logits(network, ids)
        out[batch] = logits.float().cpu()
    return out
