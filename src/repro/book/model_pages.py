"""The other models of the book, and the pages that have results of them."""

from collections.abc import Callable

from repro.claims import by_model
from repro.models import registry
from repro.study import Study, task_study

# Pages on the paper, on all models together, or on none: they have no model to switch.
OF_NO_MODEL = ("10_claims", "13_speed", "15_across_models")


def _has_tasks(study: Study) -> bool:
    return bool(task_study.TaskStudy(study.model, study.profile).results.means().size)


# The results that a page needs. A page without an entry needs only those of every complete study.
NEEDS: dict[str, Callable[[Study], bool]] = {
    "06_tasks": _has_tasks,
    "07_strategies": lambda study: study.profile.mixed_samples > 0,
    "09_layers": lambda study: bool(study.requests.layer_groups()),
    "11_controls": lambda study: bool(study.profile.controls),
    "12_exposure": lambda study: study.model.facts == "atlas",
}


def others(first: Study, stems: list[str]) -> dict[str, dict]:
    """Return the other models whose committed records are complete, and the pages that show them.

    A model whose records are complete under several profiles is shown under the last one.

    Returns:
        {model: {profile, stems}}, where `stems` are the given notebooks that have results of it.
    """
    studies = {study.model.name: study for study in by_model.last_of_others(first)}
    return {
        name: {"profile": studies[name].profile.name, "stems": _pages(studies[name], stems)}
        for name in registry.entries()
        if name in studies
    }


def _pages(study: Study, stems: list[str]) -> list[str]:
    return [
        stem
        for stem in stems
        if stem not in OF_NO_MODEL and (stem not in NEEDS or NEEDS[stem](study))
    ]
