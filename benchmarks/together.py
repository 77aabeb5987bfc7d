"""How near mastery comes to the speed of its matrix products, and what each saving avoids.

Ours alone measures many facts together, as a study does, with the full protocol (§3.1, Appendix
F.1): once as it is, once with every sample drawn to its end. In float32 the hits are the same. In
bfloat16 other rows beside a sample round differently: prompts whose hits differ are counted. A
third time runs on one core under Python's profiler, which says what the time goes to.

    python benchmarks/together.py [MODEL] [--facts 12] [--dtype bfloat16]

Writes `results/MODEL/benchmarks/together.PROCESSOR.json`, which the book reads.
"""

import argparse
import cProfile
import inspect
import pstats
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import common
import mastery
import torch
from mastery import PROTOCOL

from repro.data import facts
from repro.inference import sampling
from repro.inference.cpu import cpu_functions
from repro.inference.cpu.cpu_engine import CpuEngine
from repro.inference.cpu.tree_cache import TreeCache
from repro.inference.decoding import _Samples, complete, room
from repro.measures import mastery as measures
from repro.models import loading

# What the time goes to: functions, none of which calls another of them.
STAGES = {
    "products": [CpuEngine._linear, CpuEngine._logits],
    "attention": [cpu_functions.Attention.forward],
    "norms, rotation, activation": [
        cpu_functions.RMSNorm.forward,
        cpu_functions.RotaryEmbedding.forward,
        cpu_functions.GatedActivation.forward,
    ],
    "keys and values": [TreeCache.put],
    "sampling": [sampling.draw],
    "decisions": [_Samples._decided],
}


def shares_of_time(work: Callable[[], object]) -> dict[str, float]:
    """Return which share of the time of `work` each of `STAGES` takes; the rest is `other`.

    Only one thread works, because the profiler sees one. In float32 some products are added to a
    residual outside of `_linear`: they are in `other`.
    """
    threads, profile = torch.get_num_threads(), cProfile.Profile()
    torch.set_num_threads(1)
    profile.runcall(work)
    torch.set_num_threads(threads)
    stats = pstats.Stats(profile)
    shares = {
        stage: sum(_seconds(stats, function) for function in functions) / stats.total_tt
        for stage, functions in STAGES.items()
    }
    return shares | {"other": 1 - sum(shares.values())}


def _seconds(stats: pstats.Stats, function: Callable) -> float:
    """Return the seconds in a function and in all that it calls; 0 if it was not called."""
    code = inspect.unwrap(function).__code__
    where = code.co_filename, code.co_firstlineno, code.co_name
    return stats.stats[where][3] if where in stats.stats else 0.0


def measure(name: str, dtype: torch.dtype | None, chosen) -> dict:
    """Return the seconds, the work, and the work of samples that are all drawn to their end."""
    network, tokenizer = loading.load_model(name, dtype)
    engine = common.reader(network)
    prompts = measures.prompts(tokenizer, chosen, PROTOCOL.templates)
    work, work_to_the_end = Counter(), Counter()
    mastery.ours(engine, tokenizer, prompts[: PROTOCOL.templates], Counter())  # compiles
    start = time.perf_counter()
    hits = mastery.ours(engine, tokenizer, prompts, work)
    seconds = time.perf_counter() - start
    whole = replace(mastery.DECODING, hits_only=False)
    to_the_end = complete(engine, tokenizer, prompts, whole, work_to_the_end)
    hits_to_the_end = [sum(sample.hit for sample in samples) for samples in to_the_end]
    shares = shares_of_time(lambda: mastery.ours(engine, tokenizer, prompts, Counter()))
    rows = min(len(prompts) * PROTOCOL.draws, room(engine, prompts, mastery.DECODING))
    return {
        "dtype": str(network.dtype).removeprefix("torch."),
        "facts": len(chosen),
        "seconds": seconds,
        "rows": rows,
        "tokens_asked": len(prompts) * PROTOCOL.draws * PROTOCOL.max_new_tokens,
        "hits": sum(hits),
        "prompts_that_differ": sum(a != b for a, b in zip(hits, hits_to_the_end, strict=True)),
        "shares_of_time": shares,
        "work": dict(work),
        "work_to_the_end": dict(work_to_the_end),
        "tokens_per_second": (work["computed"] + work["prompt_computed"]) / seconds,
        "products_tokens_per_second": rows / mastery.products(network, rows),
    }


def main() -> None:
    """Measure, and keep the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="smollm2-135m")
    parser.add_argument("--facts", type=int, default=12)
    parser.add_argument("--dtype", default="bfloat16")
    options = parser.parse_args()
    chosen = facts.select(facts.load(), {"train": options.facts}, 0)
    run = measure(options.model, getattr(torch, options.dtype), chosen)
    common.save(options.model, "together", {"model": options.model, **run}, by_processor=True)


if __name__ == "__main__":
    main()
