"""The command line: `repro models | data | plan | run | tasks | export | rank | restore`."""

import argparse
import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

from repro import __version__
from repro.errors import ReproError

EPILOG = "REPRO_DATA: folder of EntityQuestions. REPRO_CACHE: where weights and records are kept."
FOLDER = "folder of EntityQuestions with train/, dev/ and test/; not for models studied on atlas"


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit status: 0, 1 for a user's error, 130 if interrupted."""
    # Loading prints one bar per weight file; the study's own bars say more.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    options = _parser().parse_args(arguments)
    try:
        with _interrupts_heard():
            return options.command(options) or 0
    except ReproError as error:
        print(f"repro: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        left = {_run: "the same command goes on where it stopped", _restore: "nothing was written"}
        after = f"; {left[options.command]}" if options.command in left else ""
        print(f"repro: interrupted{after}", file=sys.stderr)
        return 130


@contextmanager
def _interrupts_heard():
    # Python drops a Ctrl-C that arrives inside a destructor, such as a progress bar's, and the
    # study would go on. It tells this hook so, and a moment later the interrupt is raised again.
    def dropped(told) -> None:
        if told.exc_type is KeyboardInterrupt and hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, signal.default_int_handler)
            signal.setitimer(signal.ITIMER_REAL, 0.01)
        else:
            sys.__unraisablehook__(told)

    before, sys.unraisablehook = sys.unraisablehook, dropped
    try:
        yield
    finally:
        sys.unraisablehook = before


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="repro", description=__doc__, epilog=EPILOG)
    parser.add_argument("--version", action="version", version=f"repro {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add(commands, "models", _models, "list the models, and which are here")
    data = _add(commands, "data", _data, "find or download the facts, check them and count them")
    worlds = ["entityquestions", "atlas"]  # those of `repro.data.facts`, which loads pandas
    world = "entityquestions (the default), or the invented atlas of the micro models"
    data.add_argument(
        "world", metavar="WORLD", nargs="?", choices=worlds, default=worlds[0], help=world
    )
    data.add_argument("--data", type=Path, help=FOLDER)
    for name, command, text in (
        ("plan", _plan, "say what a study would compute, and how long it would take"),
        ("run", _run, "compute what is missing of a study; safe to interrupt and to repeat"),
        ("export", _export, "copy a study's records to the repository's results/"),
    ):
        study = _add(commands, name, command, text)
        study.add_argument(
            "model",
            metavar="MODEL",
            help="a name from `repro models`, such as micro-m, or a folder",
        )
        profile = "smoke, quick, medium or full; else REPRO_PROFILE, else the model's own"
        study.add_argument("--profile", default="default", help=profile)
        study.add_argument("--data", type=Path, help=FOLDER)
        study.add_argument("--learning-rate", type=float, help="instead of the model's own")
        if name == "run":
            text = "processes that share a small model's runs; by default one for each core"
            study.add_argument("--workers", type=int, metavar="N", help=text)
    _add_tasks(commands)
    _add_tool(commands)
    return parser


def _add_tasks(commands) -> None:
    text = "fine-tune on GSM8K and XSum and restore (Table 5); safe to interrupt and to repeat"
    command = _add(commands, "tasks", _tasks, text)
    command.add_argument("model", metavar="MODEL", help="such as smollm2-135m, or a folder")
    command.add_argument("--profile", default="default", help="sizes; else as for run")
    where = "folder with gsm8k/ and xsum/, or hub; else REPRO_TASKS, else hub"
    command.add_argument("--data", help=where)


def _add_tool(commands) -> None:
    rank = _add(commands, "rank", _rank, "rank the parameters that fine-tuning changed most")
    restore = _add(commands, "restore", _restore, "write a model with a share of them set back")
    for command, percents, strategies in (
        (rank, [1.0, 3.0, 5.0, 10.0, 20.0, 40.0, 60.0], ["top", "absolute"]),
        (restore, None, ["top", "bottom", "random", "absolute", "interpolate"]),
    ):
        for name, text in (("BASE", "before fine-tuning"), ("TUNED", "after fine-tuning")):
            help = f"model {text}: a folder, a name from `repro models`, owner/name on the Hub"
            command.add_argument(name.lower(), metavar=name, help=help)
        many = {"type": float, "nargs": "+", "default": percents, "required": percents is None}
        command.add_argument("--percent", **many, metavar="X", help="shares of the parameters")
        command.add_argument("--strategy", choices=strategies, default="top")
        region = "transformer, attention, mlp, embedding, all, or a regular expression"
        command.add_argument("--region", default="transformer", help=region)
        command.add_argument("--layers", default="", metavar="0-3", help="only these layers")
        command.add_argument("--score-dtype", choices=["float32", "bfloat16"], default="float32")
        command.add_argument("--threads", type=int, help="by default as many as PyTorch uses")
        command.add_argument("--json", action="store_true", help="print JSON")
    restore.add_argument("out", metavar="OUT", nargs="?", help="folder to write")
    restore.add_argument("--seed", type=int, default=0, help="of random")
    restore.add_argument("--dry-run", action="store_true", help="report, and write nothing")
    restore.add_argument("--overwrite", action="store_true", help="replace what this has written")


def _add(commands, name: str, command, text: str) -> argparse.ArgumentParser:
    added = commands.add_parser(name, help=text, description=text.capitalize() + ".", epilog=EPILOG)
    added.set_defaults(command=command)
    return added


def _open(options):
    from repro.study import study

    return study.open(options.model, options.profile, options.data, options.learning_rate)


def _models(options) -> None:
    from repro.models import registry, weights

    for entry in registry.entries().values():
        absent = entry.get or ("missing" if entry.bundled else "from the Hub, with its licence")
        here = "here" if weights.available(entry) else absent
        mark = "*" if entry.name == registry.DEFAULT_MODEL else " "
        millions = entry.parameters / 1e6
        size = f"{millions:,.{0 if millions >= 10 else 1}f} M"
        print(f"{mark} {entry.name:20} {size:>9}  {entry.title:30} {here}")
    print("* default. A folder of safetensors is a model too. REPRO_MODELS: a folder of folders.")


def _data(options) -> None:
    from repro import paper
    from repro.data import facts

    loaded = facts.load(options.data, world=options.world)
    for split in paper.SPLITS:
        print(f"{split:8} {(loaded['split'] == split).sum():7,d} facts")
    print(f"hash     {facts.data_hash(options.data, options.world)[:16]}")


def _plan(options) -> None:
    from repro.study import plan

    study = _open(options)
    print(f"{study.model.title}, profile {study.profile.name}: {study.profile.about}")
    table = plan.plan(study, plan.calibrate(study))
    print(table.to_string(index=False, float_format="{:,.0f}".format))
    seconds, size = table["seconds"].sum(), table["bytes"].sum() + plan.model_bytes(study)
    print(f"missing: {table['missing'].sum():,} of {table['records'].sum():,} records,", end=" ")
    print(f"{table['tokens'].sum():,} tokens, {seconds / 60:.1f} min,", end=" ")
    print(f"{plan.memory(study) / 1e9:.1f} GB of memory, {size / 1e6:,.0f} MB of disk")


def _run(options) -> None:
    from repro.models.devices import processes

    study = _open(options)
    made = study.run(options.workers)
    launched = made or "WORLD_SIZE" in os.environ  # else nothing need load what knows of others
    if not launched or processes().is_main_process:
        print(f"{study.model.name} {study.profile.name}: {made} new records, all are there")


def _tasks(options) -> None:
    from repro.data import task_examples
    from repro.models.devices import processes
    from repro.study import task_study

    data = options.data or task_examples.source() or task_examples.HUB
    trial = task_study.open(options.model, options.profile, data)
    made = trial.run()
    if processes().is_main_process:
        print(f"{trial.model.name} {trial.profile.name}: {made} new records, all are there")


def _export(options) -> None:
    from repro.study import task_study

    study = _open(options)
    for path in [*study.export(), *task_study.Trial(study.model, study.profile).export()]:
        print(path)


def _rank(options) -> None:
    from repro.restoration import restore_report

    print(restore_report.rank(options))


def _restore(options) -> None:
    from repro.restoration import restore_report

    print(restore_report.restore(options))


if __name__ == "__main__":
    sys.exit(main())
