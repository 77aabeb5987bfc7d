"""How many hits move with the batch size, because kernels round differently by shape.

The random numbers of a sample do not depend on its batch, but the logits do, in the last
bits. In float32 that decides nothing on tiny models (a test asserts it); in bfloat16 it can.

    python benchmarks/rounding.py [MODEL] [--facts 24] [--rows 8 64]

Writes `results/MODEL/benchmarks/rounding.json`, which the book quotes.
"""

import argparse
import time

import common
import torch

from repro.data import facts
from repro.measures import mastery
from repro.models import loading


def measure(name: str, dtype: torch.dtype, chosen, protocol, rows: list[int]) -> dict:
    """Return the hits of each prompt for two batch sizes, and how many differ."""
    network, tokenizer = loading.load_model(name, dtype)
    reader = common.reader(network)
    columns = [f"t{i:02d}" for i in range(protocol.templates)]
    hits, start = [], time.perf_counter()
    for size in rows:
        table = mastery.measure(reader, tokenizer, chosen, protocol, rows=size)
        hits.append(table[columns].to_numpy())
    moved = int(abs(hits[0] - hits[1]).sum())
    levels = [mastery.level(h.sum(1), protocol.trials) for h in hits]
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "completions": len(chosen) * protocol.trials,
        "hits": [int(h.sum()) for h in hits],
        "moved": moved,
        "levels_moved": int((levels[0] != levels[1]).sum()),
        "seconds": round(time.perf_counter() - start, 1),
    }


def main() -> None:
    """Compare two batch sizes in float32 and in bfloat16."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="smollm2-135m")
    parser.add_argument("--facts", type=int, default=24)
    parser.add_argument("--rows", type=int, nargs=2, default=[8, 64])
    options = parser.parse_args()
    chosen = facts.select(facts.load(), {"train": options.facts}, 0)
    protocol = mastery.Protocol(draws=1, max_new_tokens=8)
    rows = [
        measure(options.model, dtype, chosen, protocol, options.rows)
        for dtype in (torch.float32, torch.bfloat16)
    ]
    record = {"model": options.model, "facts": options.facts, "rows": options.rows, "runs": rows}
    common.save(options.model, "rounding", record)


if __name__ == "__main__":
    main()
