"""Small tidy frames shaped like those of `study`, with numbers from a seeded generator."""

import numpy as np
import pandas as pd

TOPICS = ("P17", "P19", "P20")
SIZES = ((8, "8"), (240, "240"), (960, "960"))


def accuracy(levels=(0, 1, 2), sizes=SIZES, samples=2, percents=(0,), questions=20, seed=0):
    """One row per run × split × topic × test level, the untuned model included."""
    generator = np.random.default_rng(seed)
    runs = [(-1, 0, "0", 0, 0)]
    runs += [
        (level, size, label, sample, percent)
        for level in levels
        for size, label in sizes
        for sample in range(samples)
        for percent in percents
    ]
    rows = []
    for run in runs:
        for split in ("train", "dev", "test", "testood"):
            tested = [run[0]] if split == "train" else levels
            for topic in TOPICS:
                for tested_level in tested:
                    if tested_level >= 0:
                        correct = generator.binomial(questions, 0.1 + 0.2 * tested_level)
                        rows.append((*run, split, topic, tested_level, correct, questions))
    columns = ["train_level", "train_size", "size_label", "sample", "restored_percent"]
    columns += ["split", "topic", "test_level", "correct", "total"]
    return pd.DataFrame(rows, columns=columns).assign(model="made-up")


def controls(levels=(0, 1), sizes=(240, 960), samples=2, percents=(5, 20), questions=40, seed=3):
    """Rows of `Study.controls`; every way of choosing undoes an amount of its own."""
    generator = np.random.default_rng(seed)
    ways = {"top": 1.5, "absolute": 2.0, "random": 1.0, "interpolate": 1.0, "bottom": 0.2}
    tried = [("none", 0, 0.0), *((way, x, x * f) for way, f in ways.items() for x in percents)]
    rows = [
        (level, size, str(size), sample, way, percent, undone, undone, tested)
        for level in levels
        for size in sizes
        for sample in range(samples)
        for way, percent, undone in tried
        for tested in levels
    ]
    columns = ["train_level", "train_size", "size_label", "sample", "strategy"]
    columns += ["restored_percent", "undone_l1", "undone_l2", "test_level"]
    frame = pd.DataFrame(rows, columns=columns).assign(topic="P17", split="test", model="made-up")
    correct = generator.binomial(questions, 0.4 + 0.005 * frame["undone_l1"])
    return frame.assign(correct=correct, total=questions)


def where(levels=(0, 1), sizes=(240, 960), samples=2, percents=(5.0, 20.0)):
    """Rows of `Study.where`: two layers, of which the first has 1.5 times its even share.

    The chosen of attn.v are twice, those of mlp.up half an even share.
    """
    rows = [
        (level, size, str(size), sample, percent, layer, module, n, int(k * lift * percent))
        for level in levels
        for size in sizes
        for sample in range(samples)
        for percent in percents
        for layer, lift in enumerate((1.5, 0.5))
        for module, n, k in (("self_attn.v_proj", 1000, 20), ("mlp.up_proj", 2000, 10))
    ]
    columns = ["train_level", "train_size", "size_label", "sample", "top_percent"]
    frame = pd.DataFrame(rows, columns=[*columns, "layer", "module", "n", "k"])
    return frame.assign(model="made-up")


def layers(levels=(0, 1), sizes=(240,), samples=2, questions=40):
    """Rows of `Study.layers`: 80 % without restoration; 0-1 costs 15 points, 2-3 nothing."""
    rows = [
        (level, size, str(size), sample, block, split, tested, right)
        for level in levels
        for size in sizes
        for sample in range(samples)
        for block, right in (("none", 32), ("0-1", 26), ("2-3", 32))
        for split in ("test", "testood")
        for tested in (0, 1)
    ]
    columns = ["train_level", "train_size", "size_label", "sample", "layers", "split"]
    frame = pd.DataFrame(rows, columns=[*columns, "test_level", "correct"])
    percent = np.where(frame["layers"] == "none", 0.0, 100.0)
    strategy = np.where(frame["layers"] == "none", "none", "top")
    frame = frame.assign(restored_percent=percent, strategy=strategy, total=questions)
    return frame.assign(topic="P17", model="made-up")


def exposed(models=("small", "large"), seen=(0, 1, 2, 5, 10, 20), facts=300, seed=4):
    """Facts with their exposure; a larger model needs fewer statements of each."""
    generator = np.random.default_rng(seed)
    parts = []
    for place, model in enumerate(models):
        exposure = np.resize(seen, facts)
        chance = exposure / (exposure + 8.0 / (1 + place))
        rate = generator.binomial(20, chance) / 20
        topics = np.resize([f"P{n}" for n in range(10)], facts)[generator.permutation(facts)]
        part = {"fact_id": range(facts), "topic": topics, "rate": rate, "exposure": exposure}
        parts.append(pd.DataFrame(part).assign(model=model, level=np.ceil(4 * rate).astype(int)))
    return pd.concat(parts, ignore_index=True)


def divergence(levels=(0, 1), sizes=SIZES, samples=2, topics=TOPICS, seed=1):
    generator = np.random.default_rng(seed)
    rows = [
        ("made-up", level, size, label, sample, 2, topic, 10, 10 * generator.gamma(2.0, 0.2))
        for level in levels
        for size, label in sizes
        for sample in range(samples)
        for topic in topics
    ]
    columns = ["model", "train_level", "train_size", "size_label", "sample", "test_level"]
    return pd.DataFrame(rows, columns=[*columns, "topic", "facts", "kl_sum"])


def concentration(levels=(0, 1), sizes=SIZES, samples=2):
    shares = {1: 60.0, 3: 70.0, 5: 75.0, 10: 82.0, 20: 90.0, 40: 96.0, 60: 99.0}
    rows = [
        ("made-up", level, size, label, sample, top, share + sample, 1, 100)
        for level in levels
        for size, label in sizes
        for sample in range(samples)
        for top, share in shares.items()
    ]
    columns = ["model", "train_level", "train_size", "size_label", "sample", "top_percent"]
    return pd.DataFrame(rows, columns=[*columns, "share_of_change_percent", "k", "n"])


def mastery(facts=60, templates=3, draws=2, seed=2):
    generator = np.random.default_rng(seed)
    chance = generator.choice([0.0, 0.0, 0.1, 0.6], size=(facts, 1))
    hits = generator.binomial(draws, np.broadcast_to(chance, (facts, templates)))
    frame = pd.DataFrame(hits, columns=[f"t{i:02d}" for i in range(templates)])
    total = frame.sum(axis=1)
    rate = total / (templates * draws)
    places = np.arange(facts)
    return frame.assign(
        fact_id=[f"f{i}" for i in places],
        topic=[TOPICS[i % len(TOPICS)] for i in places],
        split=np.where(places % 2, "train", "test"),
        hits=total,
        trials=templates * draws,
        rate=rate,
        level=np.ceil(4 * rate).astype(int),
    )


def distribution(model="made-up", counts=(30, 12, 3, 0, 0)):
    return pd.DataFrame(
        [
            (model, split, level, count)
            for split in ("train", "dev", "test", "testood")
            for level, count in enumerate(counts)
        ],
        columns=["model", "split", "level", "count"],
    )


def logits_example():
    tuned = [9.0, 8.0, 7.5, 7.0, 6.0, 5.5, 5.0, 4.5, 4.0, 3.5]
    base = [6.0, 8.5, 3.0, 7.0, 2.0, 5.5, 1.0, 4.5, 2.0, 3.5]
    tokens = [" France", " the", " Paris", "$x$", "\n", " a", " Spain", "it", " UK", " EU"]
    p, q = (np.exp(np.array(values)) for values in (tuned, base))
    p, q = p / p.sum(), q / q.sum()
    return {
        "question": "Where is X?",
        "prompt": "<|question|> Where is X? <|answer|>",
        "template_prompt": "X is located in",
        "answer": "France",
        "tokens": tokens,
        "tuned_logits": tuned,
        "base_logits": base,
        "p": p.tolist(),
        "q": q.tolist(),
        "kl": float((p * np.log(p / q)).sum()),
    }


class Strategies:
    """A study's grid and results of the strategies: runs of mixed levels, none with adapters."""

    @property
    def grid(self):
        return self

    @property
    def results(self):
        return self

    def mixed_runs(self):
        return ["mixed"]

    def lora_runs(self):
        return []

    def strategy(self, runs):
        return self.mixed() if runs else pd.DataFrame()

    def instruct(self):
        return pd.DataFrame()
