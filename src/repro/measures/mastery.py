"""How well a model masters each fact: R_k and the levels 0–4 (§3.1, Appendix F.1)."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
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

BLOCK = 256  # facts that are measured, and kept, together


@dataclass(frozen=True)
class Protocol:
    """Multi-template completion: templates × draws samples per fact (the paper: 21 × 10)."""

    templates: int = 21
    draws: int = 10
    max_new_tokens: int = 32
    temperature: float = 0.7
    seed: int = 0

    def __post_init__(self):
        """Raise ConfigError for a number of templates or draws that cannot be."""
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
    partial: Path | None = None,
    keep: bool = False,
    block: int | None = None,
    rows: int | None = None,
    progress: Callable[[int], object] | None = None,
    spread: Callable[[list[pd.DataFrame]], Iterable[tuple[int, pd.DataFrame]]] | None = None,
) -> pd.DataFrame:
    """Count, for every fact, the completions that contain its object.

    Args:
        network: the pre-trained model.
        tokenizer: its tokenizer.
        facts: DataFrame[fact_id, topic, split, subject, object, …].
        protocol: templates, draws, tokens, temperature, seed.
        partial: a folder that keeps finished blocks, so that an interrupted run resumes.
        keep: leave the finished blocks there, for the caller to delete once the result is stored.
        block: facts per block, by default `BLOCK`; rows: sequences computed at a time, by default
            what fits the memory `repro.inference.decoding` allows itself. Neither changes a count.
        progress: called with the number of facts of each finished block.
        spread: counts blocks elsewhere, as `count` does, and yields (number, hits) of each in
            any order.

    Returns:
        DataFrame[fact_id, topic, split, hits, trials, rate, level, t00 … t20], sorted by
        fact_id; t00 … hold the hits of each template.

    Raises:
        DataError: there are no facts.
    """
    if facts.empty:
        raise DataError("no facts to measure: the chosen splits are empty")
    sharing, progress = processes(), progress or (lambda count: None)
    parts = blocks_of(facts, block)
    done = in_first_process(lambda: _finished_blocks(parts, protocol, partial))
    for hits in done.values():
        progress(len(hits))
    open_blocks = [number for number in range(len(parts)) if number not in done]
    spread = spread or (lambda some: _in_turn(network, tokenizer, some, protocol, rows))
    for place, hits in spread([parts[number] for number in open_blocks]):
        number = open_blocks[place]
        done[number] = hits
        if partial and sharing.is_main_process:
            blocks.write(blocks.path(partial, parts[number], protocol), hits)
        progress(len(hits))
    whole = [done[number] for number in range(len(parts))]
    table = add_levels(pd.concat(whole, ignore_index=True), protocol.trials)
    sharing.wait_for_everyone()  # another may still be reading
    if partial and not keep and sharing.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
    return table


def blocks_of(facts: pd.DataFrame, block: int | None = None) -> list[pd.DataFrame]:
    """Return facts in blocks (by default of `BLOCK`) that are kept together; ordered by fact_id."""
    block = block or BLOCK
    facts = facts.sort_values("fact_id", ignore_index=True)
    return [facts.iloc[at : at + block] for at in range(0, len(facts), block)]


def missing_blocks(facts: pd.DataFrame, protocol: Protocol, partial: Path) -> int:
    """Return how many blocks are not among the finished ones of a folder."""
    parts = blocks_of(facts)
    return len(parts) - len(_finished_blocks(parts, protocol, partial))


def add_levels(hits: pd.DataFrame, trials: int) -> pd.DataFrame:
    """Add hits, trials, rate R_k and level to the hits by template."""
    templates = template_columns(hits)
    total = hits[templates].sum(axis=1)
    known = {"hits": total, "trials": trials, "rate": total / trials, "level": level(total, trials)}
    return hits[["fact_id", "topic", "split"]].assign(**known).join(hits[templates])


def template_columns(table: pd.DataFrame) -> list[str]:
    """Return the columns that hold the hits of each template: t00, t01, …"""
    return [c for c in table.columns if c[0] == "t" and c[1:].isdigit()]


def prompts(
    tokenizer: PreTrainedTokenizerBase, facts: pd.DataFrame, templates: int
) -> list[Prompt]:
    """Return facts × templates prompts, fact by fact: BOS where the family has one, then text."""
    from repro.inference.decoding import Prompt

    texts, names_and_labels = [], []
    for row in facts.itertuples():
        names = paper.names(row.object)
        for place, mapping in enumerate(paper.TOPICS[row.topic].mappings[:templates]):
            texts.append(mapping.replace("{subject}", row.subject))
            names_and_labels.append((names, f"{row.fact_id}|{place}"))
    encoded = encode(tokenizer, texts)
    return [Prompt(ids, *each) for ids, each in zip(encoded, names_and_labels, strict=True)]


def _finished_blocks(
    parts: list[pd.DataFrame], protocol: Protocol, partial: Path | None
) -> dict[int, pd.DataFrame]:
    """Return the blocks that an interrupted run has finished, by number; a damaged one is not."""
    if partial is None:
        return {}
    read = {n: blocks.read(blocks.path(partial, p, protocol)) for n, p in enumerate(parts)}
    return {number: hits for number, hits in read.items() if hits is not None}


def _in_turn(network, tokenizer, parts, protocol, rows) -> Iterator[tuple[int, pd.DataFrame]]:
    for number, block in enumerate(parts):
        yield number, count(network, tokenizer, block, protocol, rows)


def count(
    network: PreTrainedModel | CpuEngine,
    tokenizer: PreTrainedTokenizerBase,
    facts: pd.DataFrame,
    protocol: Protocol,
    rows: int | None = None,
) -> pd.DataFrame:
    """Return the hits of each template, DataFrame[fact_id, topic, split, t00 …]: see `measure`."""
    from repro.inference.decoding import Decoding, complete

    sizes = protocol.max_new_tokens, protocol.draws, protocol.temperature, protocol.seed
    decoding = Decoding(*sizes, rows, hits_only=True)
    statements = prompts(tokenizer, facts, protocol.templates)
    completions = complete(network, tokenizer, statements, decoding)
    hits = [sum(c.hit for c in samples) for samples in completions]
    grid = np.reshape(hits, (len(facts), protocol.templates))
    columns = [f"t{i:02d}" for i in range(protocol.templates)]
    hits_by_template = pd.DataFrame(grid, columns=columns, index=facts.index)
    return facts[["fact_id", "topic", "split"]].join(hits_by_template).reset_index(drop=True)


def distribution(table: pd.DataFrame, splits: Sequence[str] = ()) -> pd.DataFrame:
    """Count facts by split and level (Tables 1 and 8): DataFrame[split, level, count].

    Every level of every split is present; a level without facts has the count 0.
    """
    names = list(splits) or list(dict.fromkeys(table["split"]))
    index = pd.MultiIndex.from_product([names, LEVELS], names=["split", "level"])
    counts = table.groupby(["split", "level"]).size().reindex(index, fill_value=0)
    return counts.rename("count").reset_index()
