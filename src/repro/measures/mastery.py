"""How well a model masters each fact: R_k and the levels 0–4 (§3.1, Appendix F.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from repro import paper
from repro.errors import ConfigError, DataError
from repro.measures import blocks
from repro.models.devices import in_first_process, processes
from repro.models.tokens import encode
from repro.paper import LEVELS

if TYPE_CHECKING:  # what reads records only, as most do, need not wait for PyTorch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from repro.inference.cpu.cpu_engine import CpuEngine
    from repro.inference.decoding import Prompt

BLOCK = 256  # facts that are measured together, and whose hits are written together
# Counts the hits of some blocks of facts; yields (index among these blocks, hits) in any order.
CountBlocks = Callable[[list[pd.DataFrame]], Iterable[tuple[int, pd.DataFrame]]]


@dataclass(frozen=True)
class Protocol:
    """Multi-template completion: templates × draws samples per fact (the paper: 21 × 10)."""

    templates: int = 21
    draws: int = 10
    max_new_tokens: int = 32
    temperature: float = 0.7
    seed: int = 0

    def __post_init__(self):
        """Raise ConfigError for a number of templates or draws that is impossible."""
        most = len(next(iter(paper.TOPICS.values())).mappings)
        if not 1 <= self.templates <= most or self.draws < 1:
            raise ConfigError(f"give 1 to {most} templates and at least one draw, not {self}")

    @property
    def trials(self) -> int:
        """Completions per fact."""
        return self.templates * self.draws


def level(hits: np.ndarray, trials: int) -> np.ndarray:
    """Return the mastery level of each fact (Equation 1).

    R = 0 is level 0 and R in (¼(i−1), ¼i] is level i, for R = hits / trials. Whole numbers
    keep the boundaries exact: ceil(4·hits / trials).
    """
    return -(-4 * np.asarray(hits) // trials)


def measure(
    network: PreTrainedModel | CpuEngine,
    tokenizer: PreTrainedTokenizerBase,
    facts: pd.DataFrame,
    protocol: Protocol,
    *,
    partial_folder: Path | None = None,
    keep: bool = False,
    block: int | None = None,
    rows: int | None = None,
    progress: Callable[[int], object] = lambda facts: None,
    count_blocks: CountBlocks | None = None,
) -> pd.DataFrame:
    """Count, for every fact, the completions that contain its object (§3.1).

    Args:
        network: the pre-trained model.
        tokenizer: its tokenizer.
        facts: DataFrame[fact_id, topic, split, subject, object, …].
        protocol: templates, draws, tokens, temperature, seed.
        partial_folder: where finished blocks are written, so that an interrupted run resumes.
        keep: leave the finished blocks there; the caller deletes them once the result is stored.
        block: facts per block, by default `BLOCK`. It changes no count.
        rows: sequences computed at a time, by default what fits the memory that
            `repro.inference.decoding` allows itself. It changes no count.
        progress: called with the number of facts of each finished block.
        count_blocks: counts the hits of blocks, for example in worker processes, as `count` does.
            By default they are counted one after another in this process.

    Returns:
        DataFrame[fact_id, topic, split, hits, trials, rate, level, t00 … t20], sorted by
        fact_id; t00 … hold the hits of each template.

    Raises:
        DataError: there are no facts.
    """
    if facts.empty:
        raise DataError("no facts to measure: the chosen splits are empty")
    parts = blocks_of(facts, block)
    hits_by_block = in_first_process(lambda: _finished_blocks(parts, protocol, partial_folder))
    for hits in hits_by_block.values():
        progress(len(hits))
    if count_blocks is None:
        count_blocks = partial(_count_in_turn, network, tokenizer, protocol, rows)
    for number, hits in _count_missing(parts, hits_by_block, count_blocks):
        if partial_folder and processes().is_main_process:
            blocks.write(blocks.path(partial_folder, parts[number], protocol), hits)
        hits_by_block[number] = hits
        progress(len(hits))
    if not keep:
        blocks.delete_all(partial_folder)
    in_order = [hits_by_block[number] for number in range(len(parts))]
    return add_levels(pd.concat(in_order, ignore_index=True), protocol.trials)


def _count_missing(
    parts: list[pd.DataFrame], hits_by_block: dict[int, pd.DataFrame], count_blocks: CountBlocks
) -> Iterator[tuple[int, pd.DataFrame]]:
    """Count the blocks that have no hits yet; yield (number of the block, hits) as they finish."""
    missing = [number for number in range(len(parts)) if number not in hits_by_block]
    for index, hits in count_blocks([parts[number] for number in missing]):
        yield missing[index], hits


def blocks_of(facts: pd.DataFrame, block: int | None = None) -> list[pd.DataFrame]:
    """Return the facts, sorted by fact_id, in blocks of `block` facts (by default `BLOCK`)."""
    block = block or BLOCK
    facts = facts.sort_values("fact_id", ignore_index=True)
    return [facts.iloc[start : start + block] for start in range(0, len(facts), block)]


def missing_blocks(facts: pd.DataFrame, protocol: Protocol, partial_folder: Path) -> int:
    """Return how many blocks of these facts a folder of finished blocks lacks."""
    parts = blocks_of(facts)
    return len(parts) - len(_finished_blocks(parts, protocol, partial_folder))


def add_levels(hits: pd.DataFrame, trials: int) -> pd.DataFrame:
    """Add hits, trials, rate R_k and level to the hits by template."""
    templates = template_columns(hits)
    total = hits[templates].sum(axis=1)
    mastery = {
        "hits": total,
        "trials": trials,
        "rate": total / trials,
        "level": level(total, trials),
    }
    return hits[["fact_id", "topic", "split"]].assign(**mastery).join(hits[templates])


def template_columns(table: pd.DataFrame) -> list[str]:
    """Return the columns that hold the hits of each template: t00, t01, …"""
    return [c for c in table.columns if c[0] == "t" and c[1:].isdigit()]


def prompts(
    tokenizer: PreTrainedTokenizerBase, facts: pd.DataFrame, templates: int
) -> list[Prompt]:
    """Return one prompt for each fact and template, fact by fact.

    A prompt is the BOS token, if the tokenizer's family has one, and the text of the template with
    the fact's subject.
    """
    from repro.inference.decoding import Prompt

    texts, names_and_labels = [], []
    for row in facts.itertuples():
        names = paper.names(row.object)
        for place, mapping in enumerate(paper.TOPICS[row.topic].mappings[:templates]):
            texts.append(mapping.replace("{subject}", row.subject))
            names_and_labels.append((names, f"{row.fact_id}|{place}"))
    encoded = encode(tokenizer, texts)
    return [
        Prompt(ids, names, label)
        for ids, (names, label) in zip(encoded, names_and_labels, strict=True)
    ]


def _finished_blocks(
    parts: list[pd.DataFrame], protocol: Protocol, partial_folder: Path | None
) -> dict[int, pd.DataFrame]:
    """Return the hits of blocks that an interrupted run has finished, by number of the block.

    A damaged file counts as not finished.
    """
    if partial_folder is None:
        return {}
    files = [blocks.path(partial_folder, part, protocol) for part in parts]
    hits_by_block = {number: blocks.read(file) for number, file in enumerate(files)}
    return {number: hits for number, hits in hits_by_block.items() if hits is not None}


def _count_in_turn(
    network: PreTrainedModel | CpuEngine,
    tokenizer: PreTrainedTokenizerBase,
    protocol: Protocol,
    rows: int | None,
    parts: list[pd.DataFrame],
) -> Iterator[tuple[int, pd.DataFrame]]:
    """Count blocks one after another; yield (index, hits) of each."""
    for index, part in enumerate(parts):
        yield index, count(network, tokenizer, part, protocol, rows)


def count(
    network: PreTrainedModel | CpuEngine,
    tokenizer: PreTrainedTokenizerBase,
    facts: pd.DataFrame,
    protocol: Protocol,
    rows: int | None = None,
) -> pd.DataFrame:
    """Return the hits of facts after each template: DataFrame[fact_id, topic, split, t00, …].

    The arguments are those of `measure`.
    """
    from repro.inference.decoding import Decoding, complete

    sizes = protocol.max_new_tokens, protocol.draws, protocol.temperature, protocol.seed
    decoding = Decoding(*sizes, rows, hits_only=True)
    statements = prompts(tokenizer, facts, protocol.templates)
    completions = complete(network, tokenizer, statements, decoding)
    hits = [sum(completion.hit for completion in samples) for samples in completions]
    columns = [f"t{number:02d}" for number in range(protocol.templates)]
    hits_by_template = pd.DataFrame(
        np.reshape(hits, (len(facts), protocol.templates)), columns=columns, index=facts.index
    )
    return facts[["fact_id", "topic", "split"]].join(hits_by_template).reset_index(drop=True)


def distribution(table: pd.DataFrame, splits: Sequence[str] = ()) -> pd.DataFrame:
    """Count facts by split and level (Tables 1 and 8): DataFrame[split, level, count].

    Every level of every split has a row; a level without facts has the count 0.
    """
    names = list(splits) or list(dict.fromkeys(table["split"]))
    index = pd.MultiIndex.from_product([names, LEVELS], names=["split", "level"])
    counts = table.groupby(["split", "level"]).size().reindex(index, fill_value=0)
    return counts.rename("count").reset_index()
