"""What the paper's larger models would cost: tokens, matrix products and memory, by arithmetic."""

from pathlib import Path

import pandas as pd

from repro import paper
from repro.measures import mastery
from repro.models import registry
from repro.models.sizes import ARCHITECTURES
from repro.report.speed import runs
from repro.study import profiles

LARGE = {name: ARCHITECTURES[name] for name in ("llama-3-8b", "llama-3-70b")}


def lengths(folder: Path | None = None) -> dict[str, float]:
    """Return the measured inputs of `projection`, as means over the models of the benchmarks.

    question, answer: tokens; avoided: the share of sampled tokens that need no forward pass.
    """
    evaluated, sampled = runs("evaluation", folder), runs("mastery", folder)
    number = evaluated["questions"].sum()
    computed = sum(work["computed"] for work in sampled["work"])
    return {
        "question": sum(work["prompt_tokens"] for work in evaluated["work"]) / number,
        "answer": sum(work["tokens"] for work in evaluated["work"]) / number,
        "avoided": 1 - computed / sampled["tokens_asked"].sum(),
    }


def projection(question: float, answer: float, avoided: float) -> pd.DataFrame:
    """Return tokens and matrix products of the paper's whole grid, by model and stage.

    Args:
        question, answer: mean tokens of a prompt and of an answer, measured on small models.
        avoided: the share of sampled tokens that need no forward pass, measured in the same way.

    Returns:
        DataFrame[Model, Stage, tokens (millions), products (10¹⁸ operations)].
    """
    rows = []
    for name, size in LARGE.items():
        tokens = _tokens(question, answer)
        tokens["mastery, what ours computes"] = tokens["mastery, at most"] * (1 - avoided)
        for stage, count in tokens.items():
            operations = (6 if stage == "fine-tuning" else 2) * size.products
            row = {"Model": registry.entry(name).title, "Stage": stage}
            work = {"million tokens": count / 1e6, "10¹⁸ operations": count * operations / 1e18}
            rows.append({**row, **work})
    return pd.DataFrame(rows)


def _tokens(question: float, answer: float) -> dict[str, float]:
    """Return the tokens of the paper's whole grid on one model, by stage."""
    full, protocol = profiles.profile("full"), mastery.Protocol()
    published = paper.table("distribution").query("model == 'LLaMA-3-8B'")
    counts = published.groupby("split")["count"].sum()
    sizes, levels = [s for s in full.sizes if s != "all"], len(paper.LEVELS)
    trained = full.samples * (levels * sum(sizes) + int(counts["train"]))
    models_made = full.samples * levels * len(full.sizes)
    restored = full.restore_samples * levels * len(full.restore_sizes) * (len(full.percents) - 1)
    questions = int(sum(counts[split] for split in ("test", "testood")))
    return {
        "mastery, at most": int(counts.sum()) * protocol.trials * protocol.max_new_tokens,
        "fine-tuning": trained * (question + answer),
        "evaluation": models_made * questions * (question + answer),
        "restoration": restored * questions * (question + answer),
    }


def memory() -> pd.DataFrame:
    """Return the memory that larger models need, in GB: arithmetic from their sizes."""
    rows = []
    for name, size in LARGE.items():
        values = {
            "weights to decode with (bfloat16)": 2 * size.parameters,
            "keys and values of 256 rows of 64 tokens (bfloat16)": 256 * 64 * size.cache_bytes,
            "fine-tuning: weights, gradients, two moments (float32)": 16 * size.parameters,
            "one checkpoint (bfloat16)": 2 * size.parameters,
        }
        title = registry.entry(name).title
        rows += [{"Model": title, "What": k, "GB": v / 1e9} for k, v in values.items()]
    return pd.DataFrame(rows)
