"""How fast facts are scored, against a padded forward pass of transformers on the same statements.

Both read every name of a fact's object after the mapping templates of the profile `real` and add up
the log-probabilities of its tokens. The plain way takes statements in batches, padded on the right,
and computes the logits of every token, as a forward pass does by itself. It reads fewer facts than
ours, because it is slower; what is compared is the time of a fact.

    python benchmarks/scores.py [MODEL] [--facts 512] [--padded-facts 64] [--repeats 3]

Writes `results/MODEL/benchmarks/scores.PROCESSOR.json`, which the book reads.
"""

import argparse
import statistics
from collections import Counter

import common
import numpy as np
import pandas as pd
import torch

from repro.data import facts
from repro.inference.cpu.prefix_tree import merge_prefixes
from repro.measures import scores
from repro.models import loading, registry
from repro.study import profiles

PROTOCOL = scores.ScoreProtocol(tuple(profiles.profile("real").choose["templates"]))
BATCH = 32  # statements of a padded batch


@torch.inference_mode()
def padded(network, statements: list[scores.Statement]) -> np.ndarray:
    """Return the log-probability of each statement by a padded forward pass."""
    values = []
    for at in range(0, len(statements), BATCH):
        batch = statements[at : at + BATCH]
        width = max(len(statement.context) for statement in batch)
        ids = [s.context + [0] * (width - len(s.context)) for s in batch]
        mask = [[1] * len(s.context) + [0] * (width - len(s.context)) for s in batch]
        given = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
        logits = network(**given, use_cache=False).logits
        for row, statement in zip(logits, batch, strict=True):
            log_probabilities = (
                row[statement.first : len(statement.context)].float().log_softmax(-1)
            )
            chosen = log_probabilities.gather(1, torch.tensor(statement.target)[:, None])
            values.append(float(chosen.sum(dtype=torch.float64)))
    return np.array(values)


def best(statements: list[scores.Statement], values: np.ndarray, number: int) -> np.ndarray:
    """Return the value of the most likely name by fact and template, (facts, templates)."""
    table = np.full((number, len(PROTOCOL.templates)), -np.inf)
    for statement, value in zip(statements, values, strict=True):
        at = statement.fact, statement.column
        table[at] = max(table[at], value)
    return table


def products(network) -> list[float]:
    """Return the seconds that the matrix products of a packed row take: of its layers, its logits.

    Every linear layer once, with as many rows as a packed row has tokens, and the output matrix
    with as many as it has targets; each in the faster way to multiply.
    """
    head = network.get_output_embeddings()
    layers = [m for m in network.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    ways = common.multiplied(network.dtype)
    parts = ((layers, scores.ROW_NODES), ([head], scores.ROW_TARGETS))
    return [min(common.products_seconds(*part, dtype) for dtype in ways) for part in parts]


def counted(statements: list[scores.Statement]) -> dict[str, int]:
    """Return the work of some statements: their tokens, packed rows, and what is used of them."""
    work = Counter(statements=len(statements))
    for row in scores.packed_rows(statements):
        tokens, _, _ = merge_prefixes([statements[i].context for i in row])
        work["rows"] += 1
        work["nodes"] += len(tokens)
        work["targets"] += sum(len(statements[i].target) for i in row)
        work["tokens"] += sum(len(statements[i].context) for i in row)
    return dict(work)


def measure(name: str, dtype: torch.dtype, blocks: list[pd.DataFrame], few: int) -> dict:
    """Return the seconds of both ways, what the products alone take, and how far they differ.

    Each repeat has a block of facts of its own; the padded way reads the first `few` of them.
    """
    network, tokenizer = loading.load_model(name, dtype)
    reader = common.reader(network)
    statements_of_blocks = [
        scores.statements(tokenizer, block.iloc[:few], PROTOCOL) for block in blocks
    ]
    turn, values = Counter(), {"padded": [], "ours": []}

    def run(way: str) -> None:
        block, turn[way] = turn[way], turn[way] + 1
        if way == "padded":
            block_scores = best(
                statements_of_blocks[block],
                padded(network, statements_of_blocks[block]),
                len(blocks[block][:few]),
            )
        else:
            table = scores.score(reader, tokenizer, blocks[block], PROTOCOL)
            block_scores = table[scores.columns(PROTOCOL)].to_numpy()[:few]
        values[way].append(block_scores)

    ways = {way: lambda way=way: run(way) for way in values}
    seconds = common.alternate(ways, len(blocks))
    per_fact = {
        way: [s / len(block[: few if way == "padded" else None]) for s, block in pairs]
        for way, pairs in ((w, list(zip(seconds[w], blocks, strict=True))) for w in values)
    }
    medians = {way: statistics.median(times) for way, times in per_fact.items()}
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "engine": type(reader).__name__,
        "facts": sum(map(len, blocks)),
        "seconds": seconds,
        "seconds_per_fact": medians,
        "ratio": medians["padded"] / medians["ours"],
        "apart": float(
            np.abs(np.concatenate(values["padded"]) - np.concatenate(values["ours"])).max()
        ),
        **work(network, [scores.statements(tokenizer, block, PROTOCOL) for block in blocks]),
    }


def work(network, statements_of_blocks: list[list[scores.Statement]]) -> dict:
    """Return what was computed, and the seconds that the matrix products alone take for it.

    products_seconds: for the tokens and targets that are used; rows_seconds: for whole rows, with
    what fills them up.
    """
    total = sum((Counter(counted(statements)) for statements in statements_of_blocks), Counter())
    layers, logits = products(network)
    used = total["nodes"] / scores.ROW_NODES * layers
    used += total["targets"] / scores.ROW_TARGETS * logits
    whole = total["rows"] * (layers + logits)
    return {"work": dict(total), "products_seconds": used, "rows_seconds": whole}


def main() -> None:
    """Compare in every number format."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="gemma-3-270m")
    parser.add_argument("--facts", type=int, default=512, help="facts per repeat")
    parser.add_argument("--padded-facts", type=int, default=64, help="of these, read padded")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    options = parser.parse_args()
    loaded = facts.load(world=registry.entry(options.model).facts)
    chosen = facts.select(loaded, {"train": options.facts * options.repeats}, 0)
    blocks = [
        part.reset_index(drop=True)
        for _, part in chosen.groupby(np.arange(len(chosen)) // options.facts)
    ]
    runs = [
        measure(options.model, getattr(torch, dtype), blocks, options.padded_facts)
        for dtype in options.dtypes
    ]
    record = {"model": options.model, "repeats": options.repeats, "runs": runs}
    common.save(options.model, "scores", record, by_processor=True)


if __name__ == "__main__":
    main()
