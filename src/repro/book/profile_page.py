"""What each profile runs, as a table of the book, from `profiles.yaml`."""

from collections.abc import Callable, Iterable, Mapping

import pandas as pd

from repro.paper import LEVELS, SPLITS
from repro.study import profiles
from repro.study.profiles import Profile

ABSENT = "–"
TASKS = {"gsm8k": "GSM8K", "xsum": "XSum"}


def table() -> pd.DataFrame:
    """Return a table with one row for each setting of a profile, one column for each profile."""
    chosen = [profiles.profile(name) for name in profiles.PROFILES]
    rows = {
        title: {profile.name: describe(profile) for profile in chosen}
        for title, describe in _DESCRIBED.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("What").reset_index()


def _facts(profile: Profile) -> str:
    """Return the numbers of measured facts by split, summed over score bands, as text."""
    counts = {split: _amount(profile.number_of_facts(split)) for split in SPLITS}
    chosen = ", chosen by score" if profile.choose else ""
    return ", ".join(f"{split} {count}" for split, count in counts.items()) + chosen


def _amount(value: int | str) -> str:
    """Return a number of facts or examples, with separators of thousands."""
    return value if isinstance(value, str) else f"{value:,}"


def _mastery(profile: Profile) -> str:
    draws = "one draw" if profile.draws == 1 else f"{profile.draws} draws"
    return (
        f"{profile.templates} templates, {draws} of each, {profile.max_new_tokens} tokens at most"
    )


def _fine_tuning(profile: Profile) -> str:
    return f"{_list(profile.sizes)} facts of each level, {_times(profile.samples)}"


def _rates(profile: Profile) -> str:
    if not profile.rates:
        return "the default, not compared"
    low, high = min(profile.rates), max(profile.rates)
    runs = f"{profile.rate_size} facts, {_times(profile.rate_samples)}"
    return f"{len(profile.rates)} from {low:g} to {high:g}, on {runs}"


def _restoration(profile: Profile) -> str:
    shares = f"{_list(profile.percents)} %"
    return f"{shares}, of runs on {_runs(profile.restore_sizes, profile.restore_samples)}"


def _controls(profile: Profile) -> str:
    levels = "all levels" if len(profile.control_levels) == len(LEVELS) else "level "
    levels += "" if levels == "all levels" else _list(profile.control_levels)
    return (
        f"{_list(profile.controls)}, at {_list(profile.control_percents)} %, of runs on"
        f" {_runs(profile.control_sizes, profile.control_samples)} of {levels}"
    )


def _layers(profile: Profile) -> str:
    if not profile.layer_blocks:
        return ABSENT
    runs = _runs(profile.layer_sizes, profile.layer_samples)
    return f"in {profile.layer_blocks} blocks, of runs on {runs}"


def _tasks(profile: Profile) -> str:
    parts = [
        f"{title}: {_amount(profile.tasks[name]['train'])} examples to train on,"
        f" {_amount(profile.tasks[name]['test'])} to test with"
        for name, title in TASKS.items()
    ]
    return "; ".join(parts) + f"; {_list(profile.tasks['percents'])} % restored"


def _strategies(profile: Profile) -> str:
    if not profile.mixed_samples:
        return ABSENT
    lora = f", and {profile.lora_samples} with LoRA of rank {profile.lora_rank}"
    return (
        f"facts of all levels mixed, {_times(profile.mixed_samples)}"
        f"{lora if profile.lora_samples else ''}"
    )


def _runs(sizes: Iterable, samples: int) -> str:
    return f"{_list(sizes)} facts, {_times(samples)}"


def _times(samples: int) -> str:
    return "one sample" if samples == 1 else f"{samples} samples"


def _list(values: Iterable) -> str:
    return ", ".join(f"{v:,}" if isinstance(v, int) else str(v) for v in values)


_DESCRIBED: Mapping[str, Callable[[Profile], str]] = {
    "What for": lambda profile: profile.about,
    "Facts of each split": _facts,
    "Mastery (Section 3.3)": _mastery,
    "Learning rates compared": _rates,
    "Fine-tuning (Tables 2 and 4)": _fine_tuning,
    "Restored shares (Section 5)": _restoration,
    "Controls": _controls,
    "Layers (Table 11)": _layers,
    "Other strategies (Table 7)": _strategies,
    "Other tasks (Table 5)": _tasks,
}
