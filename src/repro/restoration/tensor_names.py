"""Matches the tensors of two models whose names differ by a prefix.

`torch.compile` and data parallel training put a prefix before every name. A model with an image
encoder keeps its language model under another prefix. The names of a model without an output matrix
lack the outermost level. The part after the prefix is the same in both models.
"""

import re
from collections import Counter
from collections.abc import Iterable

WRAPPERS = re.compile(r"(?<![^.])(?:_orig_mod|module)\.")
LANGUAGE_MODEL = re.compile(r"(?<![^.])language_model\.")
MAX_PREFIX_LEVELS = 3


def common_names(base: Iterable[str], tuned: Iterable[str]) -> tuple[dict, dict]:
    """Return the stored names of two models by the names under which they are compared.

    If most names are the same in both models, all are compared as stored. Otherwise the prefixes
    in which the models differ are removed; a name keeps its prefix where two tensors would get the
    same name.

    Args:
        base: names of the tensors before fine-tuning.
        tuned: names of the tensors after fine-tuning.

    Returns:
        Two dictionaries, {compared name: stored name}, one for each model.
    """
    stored_names = list(base), list(tuned)
    compared = [_as_stored(names) for names in stored_names]
    for pattern in (WRAPPERS, LANGUAGE_MODEL):
        if not _alike(*compared):
            compared = [_without(pattern, names) for names in compared]
    if not _alike(*compared):
        compared = _without_prefix(*compared)
    if not _alike(*compared):
        compared = [_as_stored(names) for names in stored_names]
    return compared[0], compared[1]


def _as_stored(names: Iterable[str]) -> dict[str, str]:
    return {name: name for name in names}


def _alike(base: dict[str, str], tuned: dict[str, str]) -> bool:
    """Tell whether most names of the smaller model are names of the other."""
    return 2 * len(base.keys() & tuned.keys()) > min(len(base), len(tuned))


def _without(pattern: re.Pattern, names: dict[str, str]) -> dict[str, str]:
    return _renamed(names, {name: pattern.sub("", name) for name in names})


def _renamed(names: dict[str, str], new: dict[str, str]) -> dict[str, str]:
    """Return stored names by new names; a name keeps its old form if two tensors would share it."""
    uses = Counter(new.values())
    return {new[n] if uses[new[n]] == 1 else n: stored for n, stored in names.items()}


def _without_prefix(base: dict[str, str], tuned: dict[str, str]) -> list[dict[str, str]]:
    """Remove from one model the prefix whose removal makes most names those of the other."""
    best = max(
        ((_matches(names, names_of_other, prefix), index, prefix)
         for index, (names, names_of_other) in enumerate([(base, tuned), (tuned, base)])
         for prefix in _prefixes(names)),
        default=(0, 0, ""),
    )  # fmt: skip
    _, index, prefix = best
    models = [base, tuned]
    models[index] = _renamed(models[index], {n: n.removeprefix(prefix) for n in models[index]})
    return models


def _prefixes(names: Iterable[str]) -> set[str]:
    """Return all prefixes of at most `MAX_PREFIX_LEVELS` levels, such as `model.decoder.`."""
    parts = (name.split(".")[:-1][:MAX_PREFIX_LEVELS] for name in names)
    return {".".join(p[:n]) + "." for p in parts for n in range(1, len(p) + 1)}


def _matches(names: dict[str, str], names_of_other: dict[str, str], prefix: str) -> int:
    """Return how many names are names of the other model once the prefix is removed."""
    return sum(n.startswith(prefix) and n.removeprefix(prefix) in names_of_other for n in names)
