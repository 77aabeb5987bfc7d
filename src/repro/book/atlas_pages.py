"""The content of the page on `atlas`: counts of the world, examples of its text, its models."""

import json

import pandas as pd

from repro import paper
from repro.data import atlas
from repro.models import registry, weights
from repro.paper import SPLITS
from repro.training.pretraining import corpus, pretrain

EXAMPLE = "P19"  # the topic of the examples: where a person was born
SHOWN = 4  # texts of each kind
LAST = 100  # last steps of pre-training, whose mean loss is shown


def numbers() -> dict[str, str]:
    """Return the numbers in the text of the page, by name."""
    world = atlas.world()
    studied = world[world["split"].isin(SPLITS)]
    phrasings = {len(corpus.phrasings(topic)) for topic in paper.TOPICS}
    frames = 1
    for part in corpus.QUESTION_PARTS:
        frames *= len(atlas.data()[part])
    return {
        "facts": f"{len(studied):,}",
        "reader": f"{len(world) - len(studied):,}",
        "statements": f"{world['exposure'].sum():,}",
        "unstated": f"{100 * (studied['exposure'] == 0).mean():.0f}",
        "most": f"{studied['exposure'].max():,}",
        "names": f"{atlas.FIRST_NAMES:,}",
        "people": f"{atlas.PEOPLE:,}",
        "least_templates": f"{corpus.LEAST_TEMPLATES}",
        "templates": f"{len(paper.TOPICS[EXAMPLE].mappings)}",
        "phrasings": _span(phrasings),
        "frames": f"{frames:,}",
        "times": f"{corpus.QUESTIONS_PER_FACT}",
        "lists": f"{corpus.PAIRS_PER_FACT}",
        "seed": f"{atlas.SEED}",
    }


def _span(values: set[int]) -> str:
    low, high = min(values), max(values)
    return f"{low}" if low == high else f"{low} to {high}"


def splits() -> pd.DataFrame:
    """Return the splits of the world: topics, facts, statements, and statements per fact."""
    rows = []
    for split, part in atlas.world().groupby("split", sort=False):
        stated = part["exposure"]
        rows.append(
            {
                "Split": split,
                "Topics": part["topic"].nunique(),
                "Facts": f"{len(part):,}",
                "Different answers": f"{part['object'].nunique():,}",
                "Statements": f"{stated.sum():,}",
                "Per fact, mean": f"{stated.mean():.1f}",
                "Median": f"{stated.median():.0f}",
                "Most": f"{stated.max():,}",
            }
        )
    return pd.DataFrame(rows)


def exposures() -> pd.DataFrame:
    """Return the number of facts by split and exposure; None if there are none."""
    world = atlas.world()
    table = world.groupby(["exposure", "split"]).size().unstack()[list(world["split"].unique())]
    table = table.map(lambda n: None if pd.isna(n) else f"{n:,.0f}")
    return table.rename_axis(columns=None).reset_index(names="Statements")


def example() -> dict[str, str]:
    """Return a studied fact with its statements, and questions about a fact of the split `reader`.

    All of this is text on which the default model was pre-trained, except the question of the
    studied fact.
    """
    world = atlas.world()
    topic = world[world["topic"] == EXAMPLE]
    fact = topic[topic["split"] == "train"].nlargest(1, "exposure")
    read = topic[topic["split"] == atlas.READER].head(1)
    seed = pretrain.RECIPES[registry.DEFAULT_MODEL].seed
    stated, questions = corpus.statements(fact, seed), corpus.answered_questions(read, seed)
    return {
        "question": fact["question"].item(),
        "answer": fact["object"].item(),
        "exposure": f"{fact['exposure'].item():,}",
        "stated": _block(stated),
        "asked": _block(questions),
    }


def _block(texts: list[str]) -> str:
    different = sorted(set(texts))[:SHOWN]
    return "\n".join(["```text", *(text.strip() for text in different), "```"])


def bundled() -> pd.DataFrame:
    """Return the bundled models on this machine: size, attention, text, loss (nats per token)."""
    entries = [entry for entry in registry.entries().values() if entry.bundled]
    return pd.DataFrame([_about(entry) for entry in entries if weights.available(entry)])


def _about(entry: registry.ModelEntry) -> dict[str, str]:
    """Return a row about a bundled model: its sizes, its text and its last loss."""
    folder = weights.locate(entry)
    counted = json.loads((folder / "data.json").read_text(encoding="utf-8"))
    recipe, loss = counted["recipe"], pd.read_csv(folder / "loss.csv")["loss"]
    return {
        "Model": entry.name,
        "Parameters": f"{counted['parameters']:,}",
        "Layers × width": f"{recipe['layers']} × {recipe['hidden']}",
        "Attention": entry.family,
        "Heads, key-value heads": f"{recipe['heads']}, {recipe['key_value_heads']}",
        "Tokens read, each once": f"{counted['tokens']:,}",
        "Last loss": f"{loss[-LAST:].mean():.3f}",
    }
