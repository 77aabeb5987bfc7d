"""What the benchmarks share: timing side by side, and a record with its provenance."""

import json
import re
import statistics
import sys
import time
from collections.abc import Callable

import torch

from repro import files, provenance
from repro.inference.cpu import cpu_engine


def alternate(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Run each way once per repeat, in turn, and return the seconds of each run.

    In turn, because a machine's speed drifts: what is compared is measured side by side.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(slow: list[float], fast: list[float]) -> float:
    """Return how many times faster: the median of the ratios within each repeat."""
    return statistics.median(s / f for s, f in zip(slow, fast, strict=True))


def padded(prompts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and mask of prompts padded on the left, as `generate` takes them."""
    width = max(map(len, prompts))
    ids = [[0] * (width - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids), torch.tensor(mask)


def reader(network: torch.nn.Module, dtype: torch.dtype | None = None):
    """Return what a study computes with: `cpu_engine` where it can compute this network."""
    return cpu_engine.CpuEngine(network, dtype) if cpu_engine.fits(network) else network


def multiplied(dtype: torch.dtype) -> set[torch.dtype]:
    """Return the ways to multiply in a dtype: rounded to bfloat16, a float32 product is one."""
    return {dtype, torch.float32}


@torch.inference_mode()
def products_seconds(layers: list, rows: int, dtype: torch.dtype, repeats: int = 5) -> float:
    """Return the seconds that the products of linear layers alone take, the median of some runs.

    Each layer once, with as many rows of states, in a dtype.
    """
    weights, seconds = [layer.weight.to(dtype) for layer in layers], []
    inputs = {size: torch.randn(rows, size).to(dtype) for size in {w.shape[1] for w in weights}}
    for _ in range(repeats):
        start = time.perf_counter()
        for weight in weights:
            torch.nn.functional.linear(inputs[weight.shape[1]], weight)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def save(model: str, name: str, record: dict, by_processor: bool = False) -> None:
    """Write `results/MODEL/benchmarks/NAME.json`, which the book reads, and print it.

    By processor it is `NAME.PROCESSOR.json`: what another processor took stays beside it.
    """
    command = " ".join([f"python benchmarks/{name}.py", *sys.argv[1:]])
    where = provenance.provenance(processor=provenance.processor())
    text = json.dumps({**record, "command": command, "provenance": where}, indent=1)
    slug = re.sub("[^a-z0-9_]+", "-", where["processor"].lower()).strip("-")
    file = f"{name}.{slug}.json" if by_processor else f"{name}.json"
    files.write_atomic(files.results_dir() / model / "benchmarks" / file, text + "\n")
    print(text)
