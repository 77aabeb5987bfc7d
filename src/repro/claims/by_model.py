"""The comparisons of all phenomena and findings by model: from the paper's tables, or records."""

from collections.abc import Iterable

import pandas as pd

from repro.claims import claims, phenomena
from repro.claims.sources import LLM, SHARE, of_paper
from repro.report import divergence
from repro.statistics import summary
from repro.study import Study, profiles

TITLES = {
    "rises": "Fewer than 240 facts are worse",
    "falls": "More than 240 facts are worse",
    "level": "Level 0 is worse, and falls more",
    "helps": f"Restoring {SHARE} % helps",
    "gains": "More facts, or level 0, gain more",
    "kl_falls": "Divergence falls up to 240 facts",
    "kl_rises": "Divergence rises beyond 240 facts",
}
IN_NATS = ("kl_falls", "kl_rises")  # phenomena in nats; the others are in points of accuracy
Rows = dict[str, pd.DataFrame]  # comparisons by the name of the phenomenon


def of_study(study: Study) -> Rows:
    """Return the comparisons of every phenomenon for a study, in domain."""
    accuracy, answers = study.results.accuracy(), study.results.answers()
    means, kl_sums = summary.means(accuracy), study.results.divergence()
    restored = summary.means(summary.restored(accuracy))
    restored_answers = summary.restored(answers)
    kl, topics = divergence.means(kl_sums), divergence.topic_units(kl_sums)
    return {
        "rises": phenomena.accuracy_rises(means, "test", answers),
        "falls": phenomena.accuracy_falls(means, "test", answers),
        "level": phenomena.level_0_is_worst(means, "test", answers),
        "helps": phenomena.restoring_helps(restored, SHARE, "test", restored_answers),
        "gains": phenomena.larger_gain(restored, restored_answers),
        "kl_falls": phenomena.divergence_falls(kl, topics),
        "kl_rises": phenomena.divergence_rises(kl, topics),
    }


def names(studies: Iterable[Study]) -> list[str]:
    """Return the title of each study's model, with its profile if the model has several studies."""
    studies = list(studies)
    titles = [study.model.title for study in studies]
    return [
        f"{title}, {study.profile.name}" if titles.count(title) > 1 else title
        for title, study in zip(titles, studies, strict=True)
    ]


def of_papers_models() -> dict[str, Rows]:
    """Return the comparisons that the paper's tables allow, by model.

    Tables 2 and 4 hold in-domain accuracies at 240 and 1,920 facts; the 70B model is in Table 2
    only. The intervals are those of rounding, and by Student's t if a spread is printed.
    """
    frames = of_paper().frames
    accuracies = frames["acc"]
    large = accuracies[accuracies["llm"] != LLM]
    small = accuracies[(accuracies["llm"] == LLM) & (accuracies["source"] == "Table 4")]
    comparisons_by_model = {
        LLM: {
            "falls": phenomena.accuracy_falls(small),
            "level": phenomena.level_0_is_worst(small),
            "helps": phenomena.restoring_helps(frames["restored"], SHARE),
        }
    }
    for name, rows in large.groupby("llm", sort=False):
        comparisons_by_model[name] = {"level": phenomena.level_0_is_worst(rows)}
    return comparisons_by_model


def of_models(studies: Iterable[Study]) -> dict[str, Rows]:
    """Return the comparisons of the paper's models and of studies, by title and profile."""
    return of_papers_models() | {_label(study): of_study(study) for study in studies}


def last(studies: Iterable[Study]) -> list[Study]:
    """Return the last study of each model, that of the later profile in `profiles.yaml`.

    The order of the studies is kept.
    """
    studies = list(studies)
    ordered = sorted(studies, key=lambda study: profiles.PROFILES.index(study.profile.name))
    last_of_model = {study.model.name: study for study in ordered}
    return [study for study in studies if last_of_model[study.model.name] is study]


def last_of_others(first: Study) -> list[Study]:
    """Return the last complete study in `results/` of every model but that of `first`."""
    return last(study for study in claims.others(first) if study.model.name != first.model.name)


def repeated(studies: Iterable[Study]) -> set[str]:
    """Return the studies of models that have a later study, by title and profile.

    So that a model counts once, only its last study is counted.
    """
    studies = list(studies)
    return {_label(study) for study in studies} - {_label(study) for study in last(studies)}


def _label(study: Study) -> str:
    return f"{study.model.title}, {study.profile.name}"
