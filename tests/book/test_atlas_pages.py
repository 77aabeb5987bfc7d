"""The page on atlas: its counts, its example, and that it uses every number."""

import re
from pathlib import Path

from repro.book import atlas_pages
from repro.data import atlas
from repro.models import registry

ROOT = Path(__file__).parents[2]


def test_the_page_on_atlas_counts_its_world():
    world = atlas.world()
    splits, exposures = atlas_pages.splits(), atlas_pages.exposures().set_index("Statements")
    facts = [int(count.replace(",", "")) for count in splits["Facts"]]
    assert dict(zip(splits["Split"], facts, strict=True)) == world["split"].value_counts().to_dict()
    for split, count in zip(splits["Split"], facts, strict=True):
        assert exposures[split].dropna().str.replace(",", "").astype(int).sum() == count
    numbers = atlas_pages.numbers()
    facts_and_reader = [int(numbers[name].replace(",", "")) for name in ("facts", "reader")]
    assert sum(facts_and_reader) == len(world) and facts_and_reader[0] == len(atlas.load())


def test_the_page_on_atlas_asks_the_readers_facts_only():
    world, shown = atlas.world().set_index("question"), atlas_pages.example()
    fact = world.loc[shown["question"]]
    assert (fact["split"], fact["object"]) == ("train", shown["answer"])
    stated, questions = (shown[name].splitlines()[1:-1] for name in ("stated", "asked"))
    assert len(stated) == len(questions) == atlas_pages.SHOWN
    assert all(fact["subject"] in text and fact["object"] in text for text in stated)
    read = world[world["split"] == atlas.READER]
    assert all(any(subject in text for subject in read["subject"]) for text in questions)


def test_the_page_on_atlas_lists_the_bundled_models():
    bundled = [name for name, entry in registry.entries().items() if entry.bundled]
    assert atlas_pages.bundled()["Model"].tolist() == bundled


def test_the_page_on_atlas_uses_every_number():
    text = (ROOT / "book/atlas.md").read_text()
    numbers = {**atlas_pages.numbers(), **atlas_pages.example()}
    assert set(re.findall(r"\{\{ atlas\.(\w+) \}\}", text)) == set(numbers)
