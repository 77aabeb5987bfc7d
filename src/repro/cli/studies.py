"""The commands of a study: `plan`, `run`, `tasks`, `check` and `export`."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from repro.cli.application import STUDY, command
from repro.cli.options import (
    AllResults,
    CheckedModel,
    Engine,
    Facts,
    GpuMemory,
    Gpus,
    HostMemory,
    Model,
    NumberFormat,
    OnlyMissing,
    PartOfStudy,
    ProfileName,
    Rate,
    Repair,
    RepairWorkers,
    TaskExamples,
    Workers,
)
from repro.cli.output import say
from repro.errors import ConfigError

if TYPE_CHECKING:  # loading it takes longer than help may take
    from repro.study.study import Study


def _open_study(
    model: str,
    profile: str,
    data: Path | None,
    learning_rate: float | None,
    dtype: str | None,
    engine: str = "auto",
) -> "Study":
    """Open the study that the options of a command name."""
    from repro.study import open_study

    return open_study(model, profile, data, learning_rate, dtype, engine)


@command(
    STUDY,
    "show what a study would compute, and how long it would take",
    "repro plan micro-m --profile full",
    "repro plan smollm2-135m --profile quick --data FOLDER",
    "repro plan llama-3-8b --profile full --gpus 1 --gpu-memory 80G",
)
def plan(
    model: Model,
    profile: ProfileName = "default",
    data: Facts = None,
    learning_rate: Rate = None,
    dtype: NumberFormat = None,
    gpus: Gpus = None,
    gpu_memory: GpuMemory = "80G",
    host_memory: HostMemory = None,
) -> None:
    """Show which records of a study are missing, and what they would cost. Computes no record.

    With --gpus: what each stage of a whole study of one of the paper's models takes on GPUs.
    """
    if gpus is not None:
        say(_gpu_plan(model, profile, gpus, gpu_memory, host_memory))
    else:
        study = _open_study(model, profile, data, learning_rate, dtype)
        say(f"{study.model.title}, profile {study.profile.name}: {study.profile.about}")
        say(*_study_plan(study))


def _study_plan(study: "Study") -> tuple[str, str]:
    """Return the table of a study's records by kind, and what the missing ones would cost."""
    from repro.study import plan

    table = plan.plan(study)
    if table["missing"].any():  # else nothing need be timed, nor PyTorch be loaded
        from repro.study import calibration

        table = plan.plan(study, calibration.calibrate(study))
    summary = f"missing: {table['missing'].sum():,} of {table['records'].sum():,} records"
    if table["missing"].any():
        seconds, size = table["seconds"].sum(), table["bytes"].sum() + plan.model_bytes(study)
        summary += f", {table['tokens'].sum():,} tokens, {seconds / 60:.1f} min,"
        summary += f" {plan.memory(study) / 1e9:.1f} GB of memory, {size / 1e6:,.0f} MB of disk"
    return table.to_string(index=False, float_format="{:,.0f}".format), summary


def _gpu_plan(model: str, profile: str, gpus: int, memory: str, host: str | None) -> str:
    """Return what each stage of a study takes on so many GPUs, each with this memory."""
    from repro.models import registry
    from repro.study import gpu_plan, profiles

    entry = registry.entry(model)
    chosen = profiles.profile(profile, entry.profile)
    host_bytes = gpu_plan.parse_memory(host) if host else None
    machine = gpu_plan.Machine(gpus, gpu_plan.parse_memory(memory), host_bytes)
    return gpu_plan.summary(entry, chosen, machine)


@command(
    STUDY,
    "compute the missing records of a study; safe to interrupt and to repeat",
    "repro run micro-m --profile full",
    "repro run micro-m --profile full --workers 2",
    "repro run micro-m --profile full --part 2/4",
    "repro run micro-m --profile full --missing",
    "accelerate launch --multi_gpu --num_processes 2 -m repro.cli run MODEL",
    "accelerate launch --use_fsdp --fsdp_version 2 --num_processes 8 -m repro.cli run MODEL",
)
def run(
    model: Model,
    profile: ProfileName = "default",
    data: Facts = None,
    learning_rate: Rate = None,
    dtype: NumberFormat = None,
    engine: Engine = "auto",
    workers: Workers = None,
    part: PartOfStudy = None,
    missing: OnlyMissing = False,
) -> None:
    """Compute the missing records of a study. After an interruption, run it again to go on."""
    from repro.study import plan, requests, schedule

    if not missing:
        plan.check_fits(model)  # before anything is read or downloaded
    study = _open_study(model, profile, data, learning_rate, dtype, engine)
    computed = 0 if missing else study.run(workers, schedule.parse_part(part) if part else None)
    absent = requests.missing(study.all_requests()) if missing or part else []
    # Only if something was computed, or a launcher says so, can there be several processes.
    if not (computed or "WORLD_SIZE" in os.environ) or _is_first_process():
        say(f"{study.model.name} {study.profile.name}: {_progress(computed, absent, missing)}")
    if missing and absent:
        raise typer.Exit(1)


def _is_first_process() -> bool:
    """Tell whether this process prints for all processes of the launch. Loads PyTorch."""
    from repro.models.devices import processes

    return processes().is_main_process


def _progress(computed: int, absent: Sequence[Any], only_counted: bool) -> str:
    """Return what a run has done, and what is left for other parts of it.

    Args:
        computed: the number of new records.
        absent: the requests that have no record, where they were looked up.
        only_counted: nothing was to be computed (`--missing`).
    """
    if not absent:
        return "nothing is missing" if only_counted else f"{computed} new records, all are there"
    if absent[0].kind == "mastery":
        rest = "mastery is missing, and all that depends on it"
    else:
        rest = f"{len(absent):,} records are missing"
    return rest if only_counted else f"{computed} new records of this part; of the others, {rest}"


@command(
    STUDY,
    "fine-tune on GSM8K and XSum and restore (Table 5); safe to interrupt and to repeat",
    "repro tasks smollm2-135m --data FOLDER",
    "repro tasks smollm2-135m --data hub",
)
def tasks(
    model: Model,
    profile: ProfileName = "default",
    data: TaskExamples = None,
    dtype: NumberFormat = None,
) -> None:
    """Fine-tune on GSM8K and on XSum, restore, and score (the paper's Table 5)."""
    from repro.data import task_examples
    from repro.study import task_study

    source = data or task_examples.source() or task_examples.HUB
    study = task_study.open_task_study(model, profile, source, dtype)
    computed = study.run()
    if _is_first_process():
        say(f"{study.model.name} {study.profile.name}: {_progress(computed, [], False)}")


@command(
    STUDY,
    "find damaged records of a study, or of results/; compute them again",
    "repro check micro-m --profile full",
    "repro check micro-m --profile full --repair",
    "repro check --results",
)
def check(
    model: CheckedModel = None,
    profile: ProfileName = "default",
    data: Facts = None,
    learning_rate: Rate = None,
    dtype: NumberFormat = None,
    results: AllResults = False,
    repair: Repair = False,
    workers: RepairWorkers = None,
) -> None:
    """Find damaged records: compare each with its digest and with what its study asks for."""
    if bool(model) == results:
        raise ConfigError("give a model, to check its records, or --results, to check results/")
    study = _open_study(model, profile, data, learning_rate, dtype) if model else None
    damage_by_study = _damage_by_study(study)
    for damages in damage_by_study.values():
        say(*(damage.error for damage in damages))
    if not damage_by_study:
        say("every record is as it was written")
    elif not repair:
        raise typer.Exit(1)
    for (name, profile_name), damages in damage_by_study.items():
        damaged_study = study or _open_study(name, profile_name, None, None, None)
        _repair(damaged_study, damages, workers)


def _damage_by_study(study: "Study | None") -> dict[tuple[str, str], list]:
    """Return the damaged records by (model, profile): of one study, or None: of results/."""
    from repro.study import integrity

    if study is None:
        return integrity.check_results()
    damages = [*integrity.check_study(study), *integrity.check_tasks()]
    return {(study.model.name, study.profile.name): damages} if damages else {}


def _repair(study: "Study", damages: list, workers: int | None) -> None:
    """Compute the damaged records of a study again, and print how many they were."""
    from repro.study import integrity

    repaired = integrity.repair(study, damages, workers)
    say(f"{study.model.name} {study.profile.name}: {repaired} records computed again")


@command(
    STUDY,
    "copy a study's records to the repository's results/",
    "repro export micro-m --profile full",
)
def export(
    model: Model,
    profile: ProfileName = "default",
    data: Facts = None,
    learning_rate: Rate = None,
    dtype: NumberFormat = None,
    engine: Engine = "auto",
) -> None:
    """Copy a study's records from the cache to results/, and print the files written."""
    from repro.study import task_study

    study = _open_study(model, profile, data, learning_rate, dtype, engine)
    written = [*study.export(), *task_study.TaskStudy(study.model, study.profile).export()]
    for path in dict.fromkeys(written):  # the digests are written for both
        say(path)
