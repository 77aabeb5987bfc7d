"""Which tensor of one model is which of the other, where the two do not name them alike.

`torch.compile` and data parallel training put a prefix before every name, a model with an image
encoder holds its language model under another one, and a model without an output matrix begins
its names one level lower. What follows the prefix is the same.
"""

import re
from collections import Counter
from collections.abc import Iterable

WRAPPERS = re.compile(r"(?<![^.])(?:_orig_mod|module)\.")
LANGUAGE_MODEL = re.compile(r"(?<![^.])language_model\.")
DEEPEST = 3  # levels of a prefix


def common_names(base: Iterable[str], tuned: Iterable[str]) -> tuple[dict, dict]:
    """Return the stored names of two models by the names under which they are compared.

    Names stay as they are where most are alike. Else they are compared without the prefixes in
    which the models differ; a name that would be that of two tensors then stays as it is.

    Args:
        base: names of the tensors before fine-tuning.
        tuned: names of those after.

    Returns:
        Two dictionaries, {compared name: stored name}, one for each model.
    """
    names = list(base), list(tuned)
    spelled = [_as_stored(side) for side in names]
    for pattern in (WRAPPERS, LANGUAGE_MODEL):
        if not _alike(*spelled):
            spelled = [_without(pattern, side) for side in spelled]
    if not _alike(*spelled):
        spelled = _without_prefix(*spelled)
    if not _alike(*spelled):
        spelled = [_as_stored(side) for side in names]
    return spelled[0], spelled[1]


def _as_stored(names: Iterable[str]) -> dict[str, str]:
    return {name: name for name in names}


def _alike(base: dict[str, str], tuned: dict[str, str]) -> bool:
    """Tell whether most names of the smaller model are names of the other."""
    return 2 * len(base.keys() & tuned.keys()) > min(len(base), len(tuned))


def _without(pattern: re.Pattern, names: dict[str, str]) -> dict[str, str]:
    return _renamed(names, {name: pattern.sub("", name) for name in names})


def _renamed(names: dict[str, str], new: dict[str, str]) -> dict[str, str]:
    """Return stored names by new names; where two tensors would share one, by the old names."""
    times = Counter(new.values())
    return {new[n] if times[new[n]] == 1 else n: stored for n, stored in names.items()}


def _without_prefix(base: dict[str, str], tuned: dict[str, str]) -> list[dict[str, str]]:
    """Return both without the prefix that makes most names of one those of the other."""
    best = max(
        ((_matches(one, other, prefix), place, prefix)
         for place, (one, other) in enumerate([(base, tuned), (tuned, base)])
         for prefix in _prefixes(one)),
        default=(0, 0, ""),
    )  # fmt: skip
    _, place, prefix = best
    both = [base, tuned]
    both[place] = _renamed(both[place], {n: n.removeprefix(prefix) for n in both[place]})
    return both


def _prefixes(names: Iterable[str]) -> set[str]:
    parts = (name.split(".")[:-1][:DEEPEST] for name in names)
    return {".".join(p[:n]) + "." for p in parts for n in range(1, len(p) + 1)}


def _matches(names: dict[str, str], others: dict[str, str], prefix: str) -> int:
    return sum(n.startswith(prefix) and n.removeprefix(prefix) in others for n in names)
