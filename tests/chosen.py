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

# The profile `real` with few facts and runs, for micro-s.
SMALL_REAL = {
    "about": "as real, for tests",
    "choose": {
        "templates": [0, 3],
        "candidates": {"train": 400, "test": 200, "testood": 200},
        "edges": [-2.5],
    },
    "facts": {"train": [60, 160], "dev": 40, "test": [40, 80], "testood": [28, 28]},
    "templates": 21,
    "draws": 1,
    "max_new_tokens": 6,
    "sizes": [12, 24],
    "samples": 1,
    "percents": [0, 20],
    "restore_sizes": [24],
    "restore_samples": 1,
    "controls": ["interpolate"],
    "control_percents": [20],
    "control_levels": [0],
    "control_sizes": [24],
    "control_samples": 1,
    "layer_blocks": 0,
    "layer_sizes": [],
    "layer_samples": 0,
    "rates": [],
    "rate_size": 12,
    "rate_samples": 1,
    "tasks": {
        "percents": [0, 20],
        "gsm8k": {"train": 8, "test": 6, "new_tokens": 8},
        "xsum": {"train": 8, "test": 6, "document_tokens": 24, "new_tokens": 8},
    },
    "mixed_samples": 1,
    "lora_samples": 0,
    "lora_rank": 2,
}


@contextmanager
def study(folder: Path, model: Path, data: Path) -> Iterator[Study]:
    """Open the study, with cache and results in a folder as long as it is open."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRO_CACHE", str(folder / "cache"))
        patch.setenv("REPRO_RESULTS", str(folder / "results"))
        opened = open_study(model, "smoke", data, learning_rate=1e-3)
        yield replace(opened, profile=replace(opened.profile, choose=CHOOSE, facts=FACTS))
