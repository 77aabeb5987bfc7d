"""Data shared by the tests: the real dataset where present, and a tiny made-up one."""

import json
import os
from pathlib import Path

import pytest

from repro import paper

REPOSITORY = Path(__file__).resolve().parents[1]
TINY_TOPICS = ("P17", "P19", "P36", "P26", "P50")
FIRST = ("Ova", "Brenn", "Cali", "Dor", "Esk", "Fimm", "Gal", "Hest", "Ilm", "Jorr", "Kesh", "Lunn")
LAST = {"train": "vale", "dev": "mere", "test": "wick"}
OBJECTS = ("Arvenia", "Bolstan", "Cordral", "Dunmark")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of EntityQuestions, or skip where there is none."""
    default = REPOSITORY.parent / "shared" / "data" / "entityquestions"
    folder = Path(os.environ.get("REPRO_DATA") or default)
    if not (folder / "train").is_dir():
        pytest.skip(f"EntityQuestions is not at {folder} (set REPRO_DATA to its folder)")
    return folder


def tiny_rows(topic: str, raw: str) -> list[dict]:
    """Return 14 raw rows: 12 facts, then one with two answers and one repeated question."""
    template = paper.TOPICS[topic].question
    rows = [
        {
            "question": template.format(subject=f"{name}{LAST[raw]} {topic}"),
            "answers": [OBJECTS[place % len(OBJECTS)]],
        }
        for place, name in enumerate(FIRST)
    ]
    two = {"question": template.format(subject=f"Twin{LAST[raw]}"), "answers": list(OBJECTS[:2])}
    return [*rows, two, dict(rows[0])]


@pytest.fixture
def tiny_data(tmp_path) -> Path:
    """Return a made-up dataset folder: 3 topics in and 2 out of domain, 12 facts per file."""
    folder = tmp_path / "tiny"
    for raw in LAST:
        (folder / raw).mkdir(parents=True)
        for topic in TINY_TOPICS:
            path = folder / raw / f"{topic}.{raw}.json"
            path.write_text(json.dumps(tiny_rows(topic, raw)), encoding="utf-8")
    return folder
