"""The score of a fact: the log-probability that the pre-trained model gives to its object.

The model reads the object after a few of the topic's mapping templates (Tables 13–36), and the
log-probabilities of the object's tokens are added up (teacher forcing). This takes about a
hundredth of the time that mastery takes (Equation 1). So a study can score every fact, and then
choose by score the facts whose mastery it measures. A score is not a level: it decides only which
facts are measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from repro.models import tensor_parallel
from repro.models.devices import processes
from repro.models.tokens import encode, shared_prefix

if TYPE_CHECKING:  # what reads records only, as most do, need not wait for PyTorch
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from repro.inference.cpu.cpu_engine import CpuEngine

BLOCK = 512  # facts that are scored together, and whose scores are written together
# Every packed row is filled up to these sizes, so that all matrix products have the same shape.
# Then the float32 bits of a token depend only on the tokens before it, and not on the facts that
# happen to be scored in the same row.
ROW_NODES = 512  # tokens that a row computes
ROW_TARGETS = 128  # tokens whose probability a row gives
DECIMALS = 4  # of a stored log-probability


@dataclass(frozen=True)
class ScoreProtocol:
    """The mapping templates of a topic after which the object is read, counted from 0."""

    templates: tuple[int, ...] = (0, 3, 6)

    def __post_init__(self):
        """Raise ConfigError for templates that do not exist."""
        most = min(len(topic.mappings) for topic in paper.TOPICS.values())
        if not self.templates or not all(0 <= place < most for place in self.templates):
            raise ConfigError(f"give mapping templates from 0 to {most - 1}, not {self.templates}")


class Statement(NamedTuple):
    """One name of a fact's object after one template.

    Attributes:
        context: the tokens that the network reads: the prompt and the name without its last token.
        target: the tokens of the name, whose log-probabilities are added up.
        fact: row of the result, the position of the fact.
        column: column of the result, the position of the template in the protocol.
    """

    context: list[int]
    target: list[int]
    fact: int
    column: int

    @property
    def first(self) -> int:
        """The position in the context after which the first token of the name comes."""
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
    progress: Callable[[int], object] = lambda facts: None,
) -> pd.DataFrame:
    """Return the log-probability of each fact's object after each template, in nats.

    If an object has several names (Table 12), the most likely name counts.

    Args:
        network: the pre-trained model, or the CPU engine that computes it. The engine in float32
            gives the same bits for every size of block, order of facts and number of threads.
        tokenizer: its tokenizer.
        facts: DataFrame[fact_id, topic, split, subject, object, …].
        protocol: the templates.
        partial_folder: where finished blocks are written, so that an interrupted run resumes.
        keep: leave the finished blocks there; the caller deletes them once the result is stored.
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
    tables = []
    for part in blocks_of(facts, block or BLOCK):
        tables.append(_score_block(network, tokenizer, part, protocol, partial_folder))
        progress(len(part))
    if not keep:
        blocks.delete_all(partial_folder)
    return pd.concat(tables, ignore_index=True)


def _score_block(
    network: PreTrainedModel | CpuEngine,
    tokenizer: PreTrainedTokenizerBase,
    facts: pd.DataFrame,
    protocol: ScoreProtocol,
    partial_folder: Path | None,
) -> pd.DataFrame:
    """Return the scores of a block of facts: read, if they are finished, else computed and kept."""
    if partial_folder is None:
        return score(network, tokenizer, facts, protocol)
    file = blocks.path(partial_folder, facts, protocol)
    table = blocks.read(file)
    if table is None:
        table = score(network, tokenizer, facts, protocol)
        if processes().is_main_process:
            blocks.write(file, table)
    return table


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
    """Return what `measure` returns, for facts that are scored at once.

    The processes of a launch share the rows, and each gets the scores of all facts. Arguments,
    result and errors are those of `measure`.
    """
    from accelerate.utils import gather_object

    all_statements = statements(tokenizer, facts, protocol)
    rows, group = packed_rows(all_statements), tensor_parallel.group(network)
    rows_here = rows[group.index :: group.number]
    values_by_row = _read_rows(network, [[all_statements[i] for i in row] for row in rows_here])
    values = [
        (statement, value)
        for row, row_values in zip(rows_here, values_by_row, strict=True)
        for statement, value in zip(row, row_values, strict=True)
    ]
    best = np.full((len(facts), len(protocol.templates)), -np.inf)
    for i, value in gather_object(values):
        cell = all_statements[i].fact, all_statements[i].column
        best[cell] = max(best[cell], value)
    table = pd.DataFrame(best.round(DECIMALS), columns=columns(protocol), index=facts.index)
    return facts[["fact_id", "topic", "split"]].join(table).reset_index(drop=True)


def _read_rows(
    network: PreTrainedModel | CpuEngine, rows: list[list[Statement]]
) -> list[list[float]]:
    """Return the log-probability of each statement, row by row."""
    import torch

    from repro.inference.cpu.cpu_engine import CpuEngine
    from repro.inference.threads import map_in_threads

    if not isinstance(network, CpuEngine):
        return [_read_with_network(network, row) for row in rows]
    read = partial(_read_with_engine, network)
    with network.prepared_weights():
        # Each row is computed by one thread: the bits of a product may depend on how many share it.
        return list(map_in_threads(torch.get_num_threads(), read, rows))


def statements(
    tokenizer: PreTrainedTokenizerBase, facts: pd.DataFrame, protocol: ScoreProtocol
) -> list[Statement]:
    """Return one statement for every fact, template of the protocol, and name of the object."""
    prompts, texts, cells = [], [], []
    for fact, row in enumerate(facts.itertuples()):
        for column, template in enumerate(protocol.templates):
            mapping = paper.TOPICS[row.topic].mappings[template]
            prompt = mapping.replace("{subject}", row.subject)
            for name in paper.names(row.object):
                prompts.append(prompt)
                texts.append(f"{prompt} {name}")
                cells.append((fact, column))
    distinct = list(dict.fromkeys(prompts))
    prompt_ids = dict(zip(distinct, encode(tokenizer, distinct), strict=True))
    text_ids = encode(tokenizer, texts)
    return [
        Statement(*_context_and_target(prompt_ids[prompt], ids), *cell)
        for prompt, ids, cell in zip(prompts, text_ids, cells, strict=True)
    ]


def _context_and_target(prompt: list[int], text: list[int]) -> tuple[list[int], list[int]]:
    """Return the tokens that the network reads, and those that are scored.

    Args:
        prompt: tokens of the prompt alone.
        text: tokens of the prompt with a name of the object.

    The name may change how the end of the prompt is tokenised. So the target begins at the first
    token in which the two sequences differ.
    """
    context = text[:-1]
    # At least one token must be read before another can be predicted.
    return context, text[max(1, shared_prefix(prompt, context)) :]


def packed_rows(all_statements: Sequence[Statement]) -> list[list[int]]:
    """Return the indices of statements in rows; one row is computed at once.

    Statements are taken in the order of their tokens, so that neighbours share prefixes, and a
    shared prefix is computed once for a row. A row takes as many statements as have room.

    Raises:
        DataError: a statement has no room in a row of its own.
    """
    rows: list[list[int]] = []
    nodes, targets, previous = ROW_NODES, 0, []  # as if full: the first statement opens a row
    for i in sorted(range(len(all_statements)), key=lambda i: all_statements[i].context):
        context, size = all_statements[i].context, len(all_statements[i].target)
        _check_size(all_statements[i])
        new_nodes = len(context) - shared_prefix(previous, context)
        if nodes + new_nodes > ROW_NODES or targets + size > ROW_TARGETS:
            rows.append([])
            nodes, targets, new_nodes = 0, 0, len(context)
        rows[-1].append(i)
        nodes, targets, previous = nodes + new_nodes, targets + size, context
    return rows


def _check_size(statement: Statement) -> None:
    """Raise DataError if a statement has no room in a row of its own."""
    context, target = len(statement.context), len(statement.target)
    if context > ROW_NODES or target > ROW_TARGETS:
        raise DataError(
            f"a statement of {context} tokens with an object of {target} is too long to be"
            f" scored: at most {ROW_NODES} and {ROW_TARGETS}"
        )


def _nodes_before_targets(row: Sequence[Statement], nodes: np.ndarray) -> np.ndarray:
    """Return the node of the prefix tree before each target token, statement by statement."""
    return np.concatenate([nodes[i, s.first : s.first + len(s.target)] for i, s in enumerate(row)])


def _read_with_engine(engine: CpuEngine, row: Sequence[Statement]) -> list[float]:
    """Return the log-probability of each statement of a row, with the CPU engine."""
    import torch

    from repro.inference.cpu.prefix_tree import merge_prefixes

    tokens, parents, nodes = merge_prefixes([statement.context for statement in row])
    nodes_before = _nodes_before_targets(row, nodes)
    # Fill the row up to its fixed size: with tokens that no other attends to, and with positions
    # whose logits are not used.
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
            return [_read_alone(network, statement) for statement in row]
        packed, nodes = packing.pack(contexts)
        packed = {name: value.to(network.device) for name, value in packed.items()}
        keep = torch.from_numpy(_nodes_before_targets(row, nodes)).to(network.device)
        logits = network(**packed, use_cache=False, logits_to_keep=keep).logits[0]
        return _sums(logits, row)


def _read_alone(network: PreTrainedModel, statement: Statement) -> float:
    """Return the log-probability of one statement, read without others in the row."""
    import torch

    ids = torch.tensor([statement.context], device=network.device)
    [value] = _sums(network(ids, use_cache=False).logits[0, statement.first :], [statement])
    return value


def _sums(logits: torch.Tensor, row: Sequence[Statement]) -> list[float]:
    """Return the sum of the log-probabilities of each statement's target.

    Args:
        logits: (at least as many as target tokens, vocabulary): the logits that predict the target
            tokens of the row, statement by statement. Further rows are ignored.
        row: the statements.
    """
    import torch

    targets = [token for statement in row for token in statement.target]
    ids = torch.tensor(targets, device=logits.device)
    logits = logits.float()
    target_logits = logits[: len(ids)].gather(1, ids[:, None])[:, 0]
    log_probabilities = (target_logits - logits.logsumexp(-1)[: len(ids)]).double().cpu().numpy()
    ends = np.cumsum([len(statement.target) for statement in row])
    return [part.sum() for part in np.split(log_probabilities, ends[:-1])]
