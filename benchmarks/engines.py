"""How fast the engines measure mastery and answer, and how often their tokens are the same.

Each engine draws the mapping templates' completions of some facts (§3.1) and answers their
questions (§3.3), in one process, with the session of `repro run --engine`.

    python benchmarks/engines.py MODEL [--engines transformers vllm] [--facts 4] [--dtype float32]
        [--out FILE]

Writes `results/MODEL/benchmarks/engines.PROCESSOR.json`, or `--out`: for each engine tokens a
second of both, and the share of draws and of answers whose tokens are those of the first engine.
"""

import argparse
import json
import time
from collections import Counter
from pathlib import Path

import common
import pandas as pd

from repro import files
from repro.data import facts
from repro.inference.decoding import Completion, Decoding, complete
from repro.measures import accuracy, mastery
from repro.models import registry
from repro.study import engines
from repro.study.session import Session

PROTOCOL = mastery.Protocol()
DRAWN = Decoding(PROTOCOL.max_new_tokens, PROTOCOL.draws, PROTOCOL.temperature)
GREEDY = Decoding(accuracy.MAX_NEW_TOKENS)


def measure(session: Session, asked: pd.DataFrame) -> tuple[dict, list[list[Completion]]]:
    """Return tokens a second of mastery and of answers, and all completions."""
    jobs = {
        "mastery": (mastery.prompts(session.tokenizer, asked, PROTOCOL.templates), DRAWN),
        "answers": (accuracy.prompts(session.tokenizer, asked), GREEDY),
    }
    paces, completions = {}, []
    for name, (prompts, decoding) in jobs.items():
        complete(session.reader, session.tokenizer, prompts[:1], decoding)  # what is compiled once
        work, start = Counter(), time.perf_counter()
        samples = complete(session.reader, session.tokenizer, prompts, decoding, work)
        seconds = time.perf_counter() - start
        paces[name] = {"seconds": seconds, "tokens_per_second": work["tokens"] / seconds}
        completions.append([sample for draws in samples for sample in draws])
    return paces, completions


def same(ones: list[Completion], others: list[Completion]) -> float:
    """Return the share of completions with the same tokens."""
    return sum(a.ids == b.ids for a, b in zip(ones, others, strict=True)) / len(ones)


def main() -> None:
    """Measure, and write a record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    names = {"nargs": "+", "choices": engines.NAMES[1:], "default": ["transformers", "vllm"]}
    parser.add_argument("--engines", **names)
    parser.add_argument("--facts", type=int, default=4)
    parser.add_argument("--questions", help="a JSON table of facts instead of the model's own")
    parser.add_argument("--dtype", default="float32", help="number format of the study")
    parser.add_argument("--out", type=Path, help="the record, instead of one in results/")
    options = parser.parse_args()
    model = registry.entry(options.model)
    if options.questions:
        asked = pd.read_json(options.questions)
    else:
        known = facts.load(world=model.facts).query("split == 'train'")
        asked = facts.sample(known, options.facts, 0)
    record, first = {"facts": len(asked), "dtype": options.dtype}, None
    for engine in options.engines:
        session = Session(model, options.dtype, bars=False, engine=engine)
        session.load()
        record[engine], completions = measure(session, asked)
        first = first or completions
        shares = [same(*pair) for pair in zip(first, completions, strict=True)]
        record[engine]["same"] = dict(zip(("mastery", "answers"), shares, strict=True))
        del session
    if options.out:
        files.write_atomic(options.out, json.dumps(record))
    else:
        common.save(model.name, "engines", record, by_processor=True)


if __name__ == "__main__":
    main()
