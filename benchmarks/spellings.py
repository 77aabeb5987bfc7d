"""How many answers are right only because the spellings of spaces and dashes are taken alike.

A completion is right when it contains a name of the object. Apostrophes, spaces and dashes of both
are compared in their plain spelling; before, only the name was. With a model, its completions are
judged by both rules. Without one, the facts are counted that the rule can concern.

    python benchmarks/spellings.py [MODEL] [--facts 60] [--draws 2]

Writes `results/MODEL/benchmarks/spellings.json`, or prints the counts of the facts.
"""

import argparse

import common

from repro import paper
from repro.data import facts
from repro.inference.decoding import Decoding, complete
from repro.measures import mastery
from repro.models import loading


def concerned(loaded) -> dict[str, int]:
    """Return how many facts hold a special spelling, and how many a completion can spell so."""
    special = loaded["object"].map(lambda name: paper.plain(name) != name)
    marks = set(" -'")
    plain = loaded["object"].map(lambda name: bool(marks & set("".join(paper.names(name)))))
    return {
        "facts": len(loaded),
        "with a special character": int(special.sum()),
        "with a space, hyphen or apostrophe": int((special | plain).sum()),
    }


def judge(model: str, chosen, protocol: mastery.Protocol) -> dict[str, int]:
    """Return how many completions are right, and by the second rule alone."""
    network, tokenizer = loading.load_model(model)
    prompts = mastery.prompts(tokenizer, chosen, protocol.templates)
    decoding = Decoding(protocol.max_new_tokens, protocol.draws, protocol.temperature)
    completed = complete(common.reader(network), tokenizer, prompts, decoding)
    pairs = [
        (c, p.names) for p, completions in zip(prompts, completed, strict=True) for c in completions
    ]
    first = [any(n.casefold() in c.text.casefold() for n in names) for c, names in pairs]
    return {
        "completions": len(pairs),
        "with a special character": sum(paper.plain(c.text) != c.text for c, _ in pairs),
        "right by the first rule": sum(first),
        "right by the second rule": sum(c.hit for c, _ in pairs),
    }


def main() -> None:
    """Count facts, or judge the completions of a model by both rules."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?")
    parser.add_argument("--facts", type=int, default=60)
    parser.add_argument("--draws", type=int, default=2)
    options = parser.parse_args()
    loaded = facts.load()
    if options.model is None:
        print(concerned(loaded))
        return
    chosen = facts.select(loaded, {"train": options.facts}, 0)
    protocol = mastery.Protocol(draws=options.draws, max_new_tokens=16)
    record = {"model": options.model, "facts": options.facts, "draws": options.draws}
    common.save(options.model, "spellings", record | judge(options.model, chosen, protocol))


if __name__ == "__main__":
    main()
