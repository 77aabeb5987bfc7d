"""How fast questions are answered, against `generate` with left-padded batches of 32.

A fine-tuned model answers the same test questions greedily, 16 new tokens at most (§3.3). Both
must give the same answers, token for token up to where ours stops.

    python benchmarks/evaluation.py [MODEL] [--questions 640] [--repeats 3] [--dtypes ...]

Writes `results/MODEL/benchmarks/evaluation.PROCESSOR.json`, which the book reads.
"""

import argparse
from collections import Counter

import common
import torch

from repro.data import facts
from repro.inference import allocator
from repro.measures import accuracy
from repro.models import loading, registry
from repro.training import sft
from repro.training.prompts import encode_prompts
from repro.training.recipe import Recipe

TRAINED_ON = 240  # facts the model is fine-tuned on before it answers


def generate(network, tokenizer, prompts: list[list[int]], size: int = 32) -> list[list[int]]:
    """Return the new tokens of each prompt, by transformers' own loop."""
    allocator.keep_pages(False)  # it runs as it does by itself; `complete` turns this on
    out = []
    for at in range(0, len(prompts), size):
        ids, mask = common.padded(prompts[at : at + size])
        generated = network.generate(
            ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=accuracy.MAX_NEW_TOKENS,
            pad_token_id=tokenizer.eos_token_id,
        )
        out += generated[:, ids.shape[1] :].tolist()
    return out


def measure(network, tokenizer, questions, repeats: int) -> dict:
    """Return the seconds of both ways, and how many answers differ before the stop."""
    prompts = encode_prompts(tokenizer, questions["question"])
    reader = common.reader(network)
    results, work = {}, Counter()

    def theirs() -> None:
        results["generate"] = generate(network, tokenizer, prompts)

    def ours() -> None:
        work.clear()
        results["ours"] = accuracy.answer(reader, tokenizer, questions, work=work)

    seconds = common.alternate({"generate": theirs, "ours": ours}, repeats)
    pairs = list(zip(results["ours"], results["generate"], strict=True))
    different = [
        i
        for i, (our_completion, all_) in enumerate(pairs)
        if all_[: len(our_completion.ids)] != our_completion.ids
    ]
    return {
        "dtype": str(network.dtype).removeprefix("torch."),
        "engine": type(reader).__name__,
        "questions": len(questions),
        "seconds": seconds,
        "ratio": common.ratio(seconds["generate"], seconds["ours"]),
        "right": sum(our_completion.hit for our_completion, _ in pairs),
        "different": len(different),
        "examples": [
            {
                "question": questions["question"].iloc[i],
                "ours": pairs[i][0].text,
                "generate": tokenizer.decode(pairs[i][1], skip_special_tokens=True),
            }
            for i in different[:5]
        ],
        "work": dict(work),
    }


def main() -> None:
    """Fine-tune, then answer in every dtype."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="smollm2-135m")
    parser.add_argument("--questions", type=int, default=640)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    options = parser.parse_args()
    network, tokenizer = loading.load_model(options.model)
    sizes = {"train": TRAINED_ON, "test": options.questions}
    chosen = facts.select(facts.load(), sizes, 0).groupby("split")
    recipe = Recipe(learning_rate=registry.entry(options.model).learning_rate)
    sft.finetune(network, tokenizer, chosen.get_group("train"), recipe)
    runs = [
        measure(
            network.to(getattr(torch, dtype)), tokenizer, chosen.get_group("test"), options.repeats
        )
        for dtype in options.dtypes  # float32 first: what was rounded does not come back
    ]
    common.save(
        options.model, "evaluation", {"model": options.model, "runs": runs}, by_processor=True
    )


if __name__ == "__main__":
    main()
