"""A small study of the tiny model whose facts are chosen by score."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from repro.study import Study, open_study

CHOOSE = {
    "templates": [0, 3],
    "edges": [-4.5],
    "candidates": {"train": "all", "test": 30},
}
FACTS = {"train": [8, 10], "dev": 6, "test": [6, 6], "testood": 8}


@contextmanager
def study(folder: Path, model: Path, data: Path) -> Iterator[Study]:
    """Open the study, with cache and results in a folder as long as it is open."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRO_CACHE", str(folder / "cache"))
        patch.setenv("REPRO_RESULTS", str(folder / "results"))
        opened = open_study(model, "smoke", data, learning_rate=1e-3)
        yield replace(opened, profile=replace(opened.profile, choose=CHOOSE, facts=FACTS))
