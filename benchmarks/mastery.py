"""How fast mastery is measured, against transformers' `generate` on the same prompts.

Both complete the 21 mapping templates of the same facts, 10 samples of up to 32 tokens each, at
temperature 0.7 from the full distribution (§3.1, Appendix F.1). `generate` gets all prompts of a
fact at once, padded on the left, with `num_return_sequences`.

    python benchmarks/mastery.py [MODEL] [--facts 2] [--repeats 3] [--dtypes float32 bfloat16]

Writes `results/MODEL/benchmarks/mastery.PROCESSOR.json`, which the book reads.
"""

import argparse
from collections import Counter

import common
import torch

from repro.data import facts
from repro.inference import allocator
from repro.inference.decoding import Decoding, complete, contains, room
from repro.measures import mastery
from repro.models import loading

PROTOCOL = mastery.Protocol()
DECODING = Decoding(PROTOCOL.max_new_tokens, PROTOCOL.draws, PROTOCOL.temperature, hits_only=True)


def generate(network, tokenizer, prompts: list) -> list[int]:
    """Return the hits of each prompt by transformers' own loop, fact by fact."""
    allocator.keep_pages(False)  # it runs as it does by itself; `complete` turns this on
    hits = []
    for at in range(0, len(prompts), PROTOCOL.templates):
        fact_prompts = prompts[at : at + PROTOCOL.templates]
        ids, mask = common.padded([prompt.ids for prompt in fact_prompts])
        generated = network.generate(
            ids,
            attention_mask=mask,
            do_sample=True,
            temperature=PROTOCOL.temperature,
            top_k=0,
            top_p=1.0,
            num_return_sequences=PROTOCOL.draws,
            max_new_tokens=PROTOCOL.max_new_tokens,
            pad_token_id=tokenizer.eos_token_id,
        )
        texts = tokenizer.batch_decode(generated[:, ids.shape[1] :], skip_special_tokens=True)
        for place, prompt in enumerate(fact_prompts):
            samples = texts[place * PROTOCOL.draws : (place + 1) * PROTOCOL.draws]
            hits.append(sum(contains(text, prompt.names) for text in samples))
    return hits


def ours(network, tokenizer, prompts: list, work: Counter) -> list[int]:
    """Return the hits of each prompt by `repro.inference.decoding`."""
    done = complete(network, tokenizer, prompts, DECODING, work)
    return [sum(completion.hit for completion in samples) for samples in done]


def products(network, rows: int) -> float:
    """Return the seconds that a step's matrix products alone take, in the faster way."""
    layers = [m for m in network.modules() if isinstance(m, torch.nn.Linear)]
    ways = common.multiplied(network.dtype)
    return min(common.products_seconds(layers, rows, dtype) for dtype in ways)


def measure(name: str, dtype: torch.dtype, chosen, repeats: int) -> dict:
    """Return the seconds of both ways, and the work done and avoided."""
    network, tokenizer = loading.load_model(name, dtype)
    reader = common.reader(network)
    prompts = mastery.prompts(tokenizer, chosen, PROTOCOL.templates)
    size, hits, work, turn = len(prompts) // repeats, Counter(), Counter(), Counter()

    def run(way: str) -> None:
        part = prompts[turn[way] * size : (turn[way] + 1) * size]
        turn[way] += 1
        if way == "generate":
            hits[way] += sum(generate(network, tokenizer, part))
        else:
            hits[way] += sum(ours(reader, tokenizer, part, work))

    seconds = common.alternate(
        {way: lambda way=way: run(way) for way in ("generate", "ours")}, repeats
    )
    fit = room(reader, prompts, DECODING)
    rows = min(size, max(1, fit // PROTOCOL.draws)) * PROTOCOL.draws
    bound = rows / products(network, rows)
    done = work["computed"] + work["prompt_computed"]
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "engine": type(reader).__name__,
        "facts": len(prompts) // PROTOCOL.templates,
        "seconds": seconds,
        "seconds_per_fact": {
            way: sum(times) * PROTOCOL.templates / len(prompts) for way, times in seconds.items()
        },
        "ratio": common.ratio(seconds["generate"], seconds["ours"]),
        "hits": dict(hits),
        "tokens_asked": len(prompts) * PROTOCOL.draws * PROTOCOL.max_new_tokens,
        "work": dict(work),
        "rows": rows,
        "tokens_per_second": done / sum(seconds["ours"]),
        "products_tokens_per_second": bound,
    }


def main() -> None:
    """Compare in every dtype, and across: our fastest against `generate` in bfloat16."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="smollm2-135m")
    parser.add_argument("--facts", type=int, default=2, help="facts per repeat")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    options = parser.parse_args()
    number = options.facts * options.repeats
    chosen = facts.select(facts.load(), {"train": number}, 0)
    runs = [
        measure(options.model, getattr(torch, dtype), chosen, options.repeats)
        for dtype in options.dtypes
    ]
    record = {"model": options.model, "repeats": options.repeats, "runs": runs}
    common.save(options.model, "mastery", record, by_processor=True)


if __name__ == "__main__":
    main()
