"""The score of a fact: how likely the pre-trained model finds its object, before sampling.

The object is read after a few of the topic's mapping templates (Tables 13–36), and its
log-probability is added up token by token (teacher forcing). That takes about a hundredth of what
mastery takes (Equation 1), so every fact can be scored before a study chooses which to measure.
A score is no level: it only decides who is measured.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from repro import paper
from repro.errors import ConfigError, DataError
from repro.measures import blocks
from repro.measures.mastery import blocks_of, template_columns
from repro.models.devices import processes
from repro.models.tokens import encode, shared_prefix

if TYPE_CHECKING:  # what reads records only, as most do, need not wait for PyTorch
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from repro.inference.cpu.cpu_engine import CpuEngine

BLOCK = 512  # facts that are scored, and kept, together
# Every product of a packed row has exactly as many rows as this. So the float32 bits of a token
# depend on the tokens before it alone, not on the facts that happen to be scored with it.
ROW_NODES = 512  # tokens that a row computes
ROW_TARGETS = 128  # tokens whose probability a row gives
DECIMALS = 4  # of a stored log-probability


@dataclass(frozen=True)
class ScoreProtocol:
    """After which mapping templates of its topic an object is read, counted from 0."""

    templates: tuple[int, ...] = (0, 3, 6)

    def __post_init__(self):
        """Raise ConfigError for templates that do not exist."""
        most = min(len(topic.mappings) for topic in paper.TOPICS.values())
        if not self.templates or not all(0 <= place < most for place in self.templates):
            raise ConfigError(f"give mapping templates from 0 to {most - 1}, not {self.templates}")


class Statement(NamedTuple):
    """One name of a fact's object after one template.

    `context`: the tokens a network reads, all but the last of the name; `target`: the tokens of the
    name; `fact`, `column`: where the result belongs.
    """

    context: list[int]
    target: list[int]
    fact: int
    column: int

    @property
    def first(self) -> int:
        """The place in the context whose next token is the first of the name."""
        return len(self.context) - len(self.target)


def measure(
    network: PreTrainedModel | CpuEngine,
    tokenizer: PreTrainedTokenizerBase,
    facts: pd.DataFrame,
    protocol: ScoreProtocol,
    *,
    partial_folder: Path | None = None,
    keep: bool = False,
    block: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> pd.DataFrame:
    """Return each fact's log-probability of its object after each template, in nats.

    Of an object with several names (Table 12) the most likely name counts.

    Args:
        network: the pre-trained model, or the CPU engine that computes it. With the engine in
            float32 the same bits come out whatever the block, the order of facts and the number of
            threads.
        tokenizer: its tokenizer.
        facts: DataFrame[fact_id, topic, split, subject, object, …].
        protocol: the templates.
        partial_folder: keeps finished blocks, so that an interrupted run resumes.
        keep: leave the finished blocks there, for the caller to delete once the result is stored.
        block: facts per block, by default `BLOCK`.
        progress: called with the number of facts of each finished block.

    Returns:
        DataFrame[fact_id, topic, split, t00 …], sorted by fact_id: a column for each template of
        the protocol, rounded to `DECIMALS`.

    Raises:
        DataError: there are no facts, or an object has more tokens than a row.
    """
    if facts.empty:
        raise DataError("no facts to score: the chosen splits are empty")
    sharing, scored = processes(), []
    for part in blocks_of(facts, block or BLOCK):
        path = blocks.path(partial_folder, part, protocol) if partial_folder else None
        table = blocks.read(path) if path else None
        if table is None:
            table = score(network, tokenizer, part, protocol)
            if path and sharing.is_main_process:
                blocks.write(path, table)
        scored.append(table)
        if progress:
            progress(len(table))
    sharing.wait_for_everyone()  # another process may still read the blocks
    if partial_folder and not keep and sharing.is_main_process:
        shutil.rmtree(partial_folder, ignore_errors=True)
    return pd.concat(scored, ignore_index=True)


def columns(protocol: ScoreProtocol) -> list[str]:
    """Return the columns of a table of scores, one for each template: t00, t03, …"""
    return [f"t{place:02d}" for place in protocol.templates]


def add_score(table: pd.DataFrame) -> pd.DataFrame:
    """Add the column `score`: the log of the mean, over templates, of the object's probability."""
    names = template_columns(table)
    values = np.logaddexp.reduce(table[names].to_numpy(float), axis=1) - np.log(len(names))
    return table.assign(score=values.round(DECIMALS))


def score(
    network: PreTrainedModel | CpuEngine,
    tokenizer: PreTrainedTokenizerBase,
    facts: pd.DataFrame,
    protocol: ScoreProtocol,
) -> pd.DataFrame:
    """Return the log-probabilities of some facts as `measure` does; processes share the work."""
    from accelerate.utils import gather_object

    from repro.inference.cpu.cpu_engine import CpuEngine
    from repro.inference.threads import map_in_threads

    all_statements = statements(tokenizer, facts, protocol)
    engine = network if isinstance(network, CpuEngine) else None
    rows, sharing = packed_rows(all_statements), processes()
    process_rows = rows[sharing.process_index :: sharing.num_processes]
    read = partial(_read_with_engine if engine else _read_with_network, network)
    jobs = [[all_statements[i] for i in row] for row in process_rows]
    with engine.prepared_weights() if engine else nullcontext():
        values = list(map_in_threads(_threads(engine), read, jobs))
    pairs = [
        (i, v)
        for row, each in zip(process_rows, values, strict=True)
        for i, v in zip(row, each, strict=True)
    ]
    best = np.full((len(facts), len(protocol.templates)), -np.inf)
    for i, value in gather_object(pairs):
        at = all_statements[i].fact, all_statements[i].column
        best[at] = max(best[at], value)
    table = pd.DataFrame(best.round(DECIMALS), columns=columns(protocol), index=facts.index)
    return facts[["fact_id", "topic", "split"]].join(table).reset_index(drop=True)


def statements(
    tokenizer: PreTrainedTokenizerBase, facts: pd.DataFrame, protocol: ScoreProtocol
) -> list[Statement]:
    """Return every name of every fact's object after every template of the protocol."""
    prompts, texts, places = [], [], []
    for fact, row in enumerate(facts.itertuples()):
        for column, template in enumerate(protocol.templates):
            mapping = paper.TOPICS[row.topic].mappings[template]
            prompt = mapping.replace("{subject}", row.subject)
            for name in paper.names(row.object):
                prompts.append(prompt)
                texts.append(f"{prompt} {name}")
                places.append((fact, column))
    distinct = list(dict.fromkeys(prompts))
    encoded = dict(zip(distinct, encode(tokenizer, distinct), strict=True))
    whole = encode(tokenizer, texts)
    pairs = [_split(encoded[p], ids) for p, ids in zip(prompts, whole, strict=True)]
    return [
        Statement(context, target, *place)
        for (context, target), place in zip(pairs, places, strict=True)
    ]


def _split(prompt: list[int], whole: list[int]) -> tuple[list[int], list[int]]:
    """Return the tokens that are read and those that are scored, of a prompt with its answer.

    Where the answer changes how the end of the prompt is tokenised, that end is scored too: the
    two texts part where their tokens part.
    """
    read = whole[:-1]
    # Something must be read before a token can be predicted.
    return read, whole[max(1, shared_prefix(prompt, read)) :]


def packed_rows(all_statements: Sequence[Statement]) -> list[list[int]]:
    """Return which statements to compute in one row: alike ones, as many as have room."""
    rows, nodes, targets, before = [], ROW_NODES, 0, []
    for i in sorted(range(len(all_statements)), key=lambda i: all_statements[i].context):
        context, size = all_statements[i].context, len(all_statements[i].target)
        if len(context) > ROW_NODES or size > ROW_TARGETS:
            raise DataError(
                f"a statement of {len(context)} tokens with an object of {size} is too long to be"
                f" scored: at most {ROW_NODES} and {ROW_TARGETS}"
            )
        new = len(context) - shared_prefix(before, context)
        if nodes + new > ROW_NODES or targets + size > ROW_TARGETS:
            rows.append([])
            nodes, targets, new = 0, 0, len(context)
        rows[-1].append(i)
        nodes, targets, before = nodes + new, targets + size, context
    return rows


def _threads(engine: CpuEngine | None) -> int:
    import torch

    # One thread for each row: a product's bits can depend on the number of threads that share it.
    return torch.get_num_threads() if engine else 1


def _nodes_before_targets(row: Sequence[Statement], nodes: np.ndarray) -> np.ndarray:
    """Return the node after which each target token comes, statement by statement."""
    return np.concatenate([nodes[i, s.first : s.first + len(s.target)] for i, s in enumerate(row)])


def _read_with_engine(engine: CpuEngine, row: Sequence[Statement]) -> list[float]:
    """Return the log-probability of each statement of a row, with the CPU engine."""
    import torch

    from repro.inference.cpu.prefix_tree import merge_prefixes

    tokens, parents, nodes = merge_prefixes([statement.context for statement in row])
    nodes_before = _nodes_before_targets(row, nodes)
    # Fill up with single tokens that nothing looks at, and with nodes whose logits are not used.
    tokens = np.pad(tokens, (0, ROW_NODES - len(tokens)), mode="edge")
    parents = np.pad(parents, (0, ROW_NODES - len(parents)), constant_values=-1)
    nodes_before = np.pad(nodes_before, (0, ROW_TARGETS - len(nodes_before)), mode="edge")
    tree = [torch.from_numpy(array) for array in (parents, nodes_before, tokens)]
    with torch.inference_mode():
        return _sums(engine.tree_logits(*tree), row)


def _read_with_network(network: PreTrainedModel, row: Sequence[Statement]) -> list[float]:
    """Return the log-probability of each statement of a row, with a network of transformers."""
    import torch

    from repro.inference import packing

    contexts = [statement.context for statement in row]
    with torch.inference_mode():
        if not packing.fits(network, max(map(len, contexts))):
            return [value for each in row for value in _read_alone(network, each)]
        packed, nodes = packing.pack(contexts)
        packed = {name: value.to(network.device) for name, value in packed.items()}
        keep = torch.from_numpy(_nodes_before_targets(row, nodes)).to(network.device)
        logits = network(**packed, use_cache=False, logits_to_keep=keep).logits[0]
        return _sums(logits, row)


def _read_alone(network: PreTrainedModel, statement: Statement) -> list[float]:
    import torch

    ids = torch.tensor([statement.context], device=network.device)
    return _sums(network(ids, use_cache=False).logits[0, statement.first :], [statement])


def _sums(logits: torch.Tensor, row: Sequence[Statement]) -> list[float]:
    """Return each statement's sum of its targets' log-probabilities, from (targets, vocabulary)."""
    import torch

    targets = [token for statement in row for token in statement.target]
    ids = torch.tensor(targets, device=logits.device)
    logits = logits.float()
    chosen = logits[: len(ids)].gather(1, ids[:, None])[:, 0]
    each = (chosen - logits.logsumexp(-1)[: len(ids)]).double().cpu().numpy()
    ends = np.cumsum([len(statement.target) for statement in row])
    return [part.sum() for part in np.split(each, ends[:-1])]
