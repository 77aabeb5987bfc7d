"""The `repro` command: models and facts, studies, and the restoration tool."""

import os
import signal
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, cast

import typer
from typer.core import TyperCommand, TyperGroup

from repro import __version__
from repro.errors import ConfigError, ReproError

SETTINGS = """\
Settings: REPRO_MODEL and REPRO_PROFILE choose what notebooks show; REPRO_DATA
is a folder of EntityQuestions; REPRO_CACHE is where weights and records are
kept. README.md has the rest."""
#: What a command that was stopped in the middle has left behind.
AFTER_INTERRUPT = {
    "run": "the same command goes on where it stopped",
    "tasks": "the same command goes on where it stopped",
    "restore": "nothing was written",
}
INTERRUPTED, TERMINATED, PIPE_CLOSED = 130, 143, 141  # 128 + the number of the signal


class _Stopped(KeyboardInterrupt):
    """SIGTERM has come: the same end as Ctrl-C, with the status of SIGTERM."""


class _OutputError(ReproError):
    """Standard output cannot be written."""


# --- the command as a whole ---------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit status.

    Returns:
        0; 1 for an error that a user can mend, said in one line; 2 for a wrong command line;
        130 after Ctrl-C, 143 after SIGTERM, 141 where whoever reads the output has closed it.
    """
    # Loading prints one bar per weight file; the study's own bars say more.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if "_REPRO_COMPLETE" in os.environ:
        return app(prog_name="repro")
    _write_any_character()
    words = sys.argv[1:] if arguments is None else arguments
    name = next((word for word in words if not word.startswith("-")), "")
    try:
        with _signals_raise():
            return _invoke(words)
    except typer.TyperException as error:
        return _usage(error)
    except _OutputError as error:
        return _complain(str(error), 1)
    except ReproError as error:
        return _complain(f"{type(error).__name__}: {error}", 1)
    except KeyboardInterrupt as stop:
        status = TERMINATED if isinstance(stop, _Stopped) else INTERRUPTED
        after = f"; {AFTER_INTERRUPT[name]}" if name in AFTER_INTERRUPT else ""
        return _complain(f"interrupted{after}", status)
    except BrokenPipeError:
        _forget_output()
        return PIPE_CLOSED
    except OSError as error:
        _forget_output()
        place = f"{error.filename}: " if error.filename else ""
        return _complain(f"{type(error).__name__}: {place}{error.strerror or error}", 1)


def _invoke(words: list[str]) -> int:
    """Run the command that the words name; return 0, or what a help text or --version ends with."""
    command = typer.main.get_command(app)
    try:
        with command.make_context("repro", list(words)) as context:
            command.invoke(context)
    except typer.Exit as end:
        return end.exit_code
    finally:
        if sys.stdout is not None:  # None: the shell has closed it
            sys.stdout.flush()
    return 0


def _usage(error: Any) -> int:
    """Print how a command is used and what was wrong with it; return the exit status."""
    context = getattr(error, "ctx", None)
    with suppress(OSError):
        if context is not None:
            print(context.get_usage().replace("Usage:", "usage:", 1), file=sys.stderr)
        message = " ".join(error.format_message().split())
        print(f"{context.command_path if context else 'repro'}: {message}", file=sys.stderr)
    return error.exit_code


def _complain(text: str, status: int) -> int:
    with suppress(OSError):
        print(f"repro: {text}", file=sys.stderr)
    return status


def _forget_output() -> None:
    # Python writes what is left of standard output when it ends, and would complain a second time.
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _write_any_character() -> None:
    """Escape characters that the terminal's encoding lacks, rather than fail on a path."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _say(*lines: object) -> None:
    """Print lines at once, so that an output which cannot be written ends the command here."""
    try:
        print(*lines, sep="\n", flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        _forget_output()
        raise _OutputError(f"cannot write standard output: {error.strerror}") from None


@contextmanager
def _signals_raise() -> Iterator[None]:
    """Within the block, Ctrl-C and SIGTERM raise, wherever they arrive."""

    # Python drops a Ctrl-C that arrives inside a destructor, such as a progress bar's, and the
    # study would go on. It tells this hook so, and a moment later the interrupt is raised again.
    def dropped(unraisable: Any) -> None:
        if unraisable.exc_type is KeyboardInterrupt and hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, signal.default_int_handler)
            signal.setitimer(signal.ITIMER_REAL, 0.01)
        else:
            sys.__unraisablehook__(unraisable)

    hook_before, sys.unraisablehook = sys.unraisablehook, dropped
    term_before = _on_terminate(_stop)
    try:
        yield
    finally:
        sys.unraisablehook = hook_before
        _on_terminate(term_before)


def _stop(*_: object) -> NoReturn:
    raise _Stopped


def _on_terminate(handler: Any) -> Any:
    try:
        return signal.signal(signal.SIGTERM, signal.SIG_DFL if handler is None else handler)
    except ValueError:  # only the main thread of a program may set one
        return None


# --- help and the reading of words --------------------------------------------------------------


class _Command(TyperCommand):
    """A command whose examples are printed as written, and whose --percent takes many values."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Print the examples, one a line, without wrapping them."""
        if self.epilog:
            with formatter.section("Examples"):
                lines = (f"{'':{formatter.current_indent}}{x}\n" for x in self.epilog.splitlines())
                formatter.write("".join(lines))

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Name the arguments as the help does: OUT in brackets, for it may be left out."""
        arguments = [x for x in self.params if not x.opts[0].startswith("-")]
        return ["[options]", *(str(x.metavar) for x in arguments)]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words; `--percent 5 20 OTHER` means `--percent 5 --percent 20 OTHER`."""
        return super().parse_args(ctx, _each_percent(args))


def _each_percent(words: list[str]) -> list[str]:
    """Return the words with `--percent` before every number that follows it.

    The first word that is not a number ends the list: a folder whose name is a number is `./20`.
    """
    spelled: list[str] = []
    following = False
    for place, word in enumerate(words):
        if word == "--":
            return spelled + words[place:]
        if following and _is_number(word):
            spelled += ["--percent", word]
        else:
            following = word == "--percent"
            # What follows is left to its own --percent; without any number, typer says so.
            if not following or not _is_number(words[place + 1] if words[place + 1 :] else ""):
                spelled.append(word)
    return spelled


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


class _Commands(TyperGroup):
    """The commands by what they are for, like a table of contents."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Print the commands first, then the few options that stand before one."""
        self.format_commands(ctx, formatter)
        _Command.format_options(cast(Any, self), ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Print each group of commands under its title."""
        width = max(len(name) for name in self.commands)
        groups: dict[str | None, list] = {}
        for name, command in self.commands.items():
            row = (f"{name:{width}}", command.short_help)
            groups.setdefault(cast(_Command, command).rich_help_panel, []).append(row)
        for title, rows in groups.items():
            with formatter.section(title), formatter.indentation():
                formatter.write_dl(rows)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Print the settings, as written."""
        formatter.write(f"\n{SETTINGS}\n")


app = typer.Typer(
    name="repro",
    cls=_Commands,
    rich_markup_mode=None,
    subcommand_metavar="COMMAND ...",
    options_metavar="[options]",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Study what fine-tuning does to a model's knowledge, and undo part of it.",
    epilog=SETTINGS,
)


def _command(group: str, summary: str, *examples: str) -> Callable[[Any], Any]:
    """Return a decorator that adds a function as a command of a group, with its examples."""
    return app.command(
        cls=_Command,
        rich_help_panel=group,
        short_help=summary,
        options_metavar="[options]",
        epilog="\n".join(examples),
    )


def _version(requested: bool) -> None:
    if requested:
        _say(f"repro {__version__}")
        raise typer.Exit


@app.callback()
def _any_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Read what stands before the command."""


def _model_names(incomplete: str) -> list[str]:
    """Return the registry's models for the shell's Tab key."""
    from repro.models import registry

    return [name for name in registry.entries() if name.startswith(incomplete)]


LOOK, STUDY, TOOL = "Models and facts", "A study", "The restoration tool"
Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A name from `repro models`, such as micro-m, a folder, or owner/name on the Hub.",
        autocompletion=_model_names,
        show_default=False,
    ),
]
Facts = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="FOLDER",
        help="Folder of EntityQuestions, with train/, dev/ and test/. By default REPRO_DATA, else"
        " it is downloaded. Not for a model that is studied on atlas.",
    ),
]
ProfileName = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="Size of the study: smoke, quick, medium, full or real. By default REPRO_PROFILE,"
        " else the model's own.",
        show_default=False,
    ),
]
Rate = Annotated[
    float | None,
    typer.Option(metavar="RATE", help="Learning rate. By default the model's own."),
]
NumberFormat = Annotated[
    Literal["float32", "bfloat16"] | None,
    typer.Option(
        "--dtype",
        help="Number format. By default that of the study's first record; for a study without"
        " records, the faster one on this machine.",
    ),
]


# --- models and facts ---------------------------------------------------------------------------


@_command(LOOK, "list the models, and which are on this machine", "repro models")
def models() -> None:
    """List the models that have a name, their sizes, and which are on this machine."""
    from repro.models import registry, weights

    for entry in registry.entries().values():
        absent = entry.get or ("missing" if entry.bundled else "from the Hub, with its licence")
        here = "here" if weights.available(entry) else absent
        mark = "*" if entry.name == registry.DEFAULT_MODEL else " "
        millions = (entry.parameters or 0) / 1e6
        size = f"{millions:,.{0 if millions >= 10 else 1}f} M"
        _say(f"{mark} {entry.name:20} {size:>9}  {entry.title:30} {here}")
    _say("* default. A folder of safetensors is a model too, and so is owner/name on the Hub.")


@_command(
    LOOK,
    "find or download the facts, check them and count them",
    "repro data atlas",
    "repro data --data FOLDER",
)
def data(
    # Those of `repro.data.facts`, which loads pandas.
    world: Annotated[
        Literal["entityquestions", "atlas"],
        typer.Argument(
            metavar="[WORLD]",
            help="entityquestions (the default), or the invented atlas of the micro models.",
            show_default=False,
        ),
    ] = "entityquestions",
    data: Facts = None,
) -> None:
    """Find or download the facts, check their checksums, and count them by split."""
    from repro import paper
    from repro.data import facts

    loaded = facts.load(data, world=world)
    for split in paper.SPLITS:
        _say(f"{split:8} {(loaded['split'] == split).sum():7,d} facts")
    _say(f"hash     {facts.data_hash(data, world)[:16]}")


# --- a study ------------------------------------------------------------------------------------


def _open(
    model: str, profile: str, data: Path | None, learning_rate: float | None, dtype: str | None
) -> Any:
    from repro.study import open_study

    return open_study(model, profile, data, learning_rate, dtype)


@_command(
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
    gpus: Annotated[
        int | None,
        typer.Option(metavar="N", help="Reckon for so many GPUs instead; needs no weights."),
    ] = None,
    gpu_memory: Annotated[
        str, typer.Option(metavar="80G", help="Memory of each GPU, with --gpus.")
    ] = "80G",
    host_memory: Annotated[
        str | None, typer.Option(metavar="128G", help="Memory of each host, with --gpus.")
    ] = None,
) -> None:
    """Show which records of a study are missing, and what they would cost. Computes no record.

    With --gpus: what each stage of a whole study of one of the paper's models takes on GPUs.
    """
    from repro.study import plan

    if gpus is not None:
        _say(_plan_for_gpus(model, profile, gpus, gpu_memory, host_memory))
        return
    study = _open(model, profile, data, learning_rate, dtype)
    _say(f"{study.model.title}, profile {study.profile.name}: {study.profile.about}")
    table = plan.plan(study)
    if table["missing"].any():  # else nothing need be timed, nor PyTorch be loaded
        from repro.study import calibration

        table = plan.plan(study, calibration.calibrate(study))
    _say(table.to_string(index=False, float_format="{:,.0f}".format))
    summary = f"missing: {table['missing'].sum():,} of {table['records'].sum():,} records"
    if table["missing"].any():
        seconds, size = table["seconds"].sum(), table["bytes"].sum() + plan.model_bytes(study)
        summary += f", {table['tokens'].sum():,} tokens, {seconds / 60:.1f} min,"
        summary += f" {plan.memory(study) / 1e9:.1f} GB of memory, {size / 1e6:,.0f} MB of disk"
    _say(summary)


def _plan_for_gpus(model: str, profile: str, gpus: int, memory: str, host: str | None) -> str:
    from repro.models import registry
    from repro.study import gpu_plan, profiles

    entry = registry.entry(model)
    chosen = profiles.profile(profile, entry.profile)
    host_bytes = gpu_plan.parse_memory(host) if host else None
    machine = gpu_plan.Machine(gpus, gpu_plan.parse_memory(memory), host_bytes)
    return gpu_plan.summary(entry, chosen, machine)


@_command(
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
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Number of processes that share the runs of a small model. By default one for each"
            " core.",
        ),
    ] = None,
    part: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Compute only share I of N. Machines that share a cache take one share each.",
        ),
    ] = None,
    missing: Annotated[
        bool,
        typer.Option(
            "--missing",
            help="Compute nothing. Count what is missing, and exit with status 1 if anything is.",
        ),
    ] = False,
) -> None:
    """Compute the missing records of a study. After an interruption, run it again to go on."""
    from repro.models.devices import processes
    from repro.study import plan, requests, schedule

    if not missing:
        plan.check_fits(model)  # before anything is read or downloaded
    study = _open(model, profile, data, learning_rate, dtype)
    made = 0 if missing else study.run(workers, schedule.parse_part(part) if part else None)
    left = requests.missing(study.all_requests()) if missing or part else []
    launched = made or "WORLD_SIZE" in os.environ  # else nothing need load what knows of others
    if not launched or processes().is_main_process:
        _say(f"{study.model.name} {study.profile.name}: {_progress(made, left, missing)}")
    if missing and left:
        raise typer.Exit(1)


def _progress(made: int, left: list, only_counted: bool) -> str:
    """Return what a run has done, and what is left for other parts of it."""
    if not left:
        return "nothing is missing" if only_counted else f"{made} new records, all are there"
    if left[0].kind == "mastery":
        rest = "mastery is missing, and all that depends on it"
    else:
        rest = f"{len(left):,} records are missing"
    return rest if only_counted else f"{made} new records of this part; of the others, {rest}"


@_command(
    STUDY,
    "fine-tune on GSM8K and XSum and restore (Table 5); safe to interrupt and to repeat",
    "repro tasks smollm2-135m --data FOLDER",
    "repro tasks smollm2-135m --data hub",
)
def tasks(
    model: Model,
    profile: ProfileName = "default",
    data: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER|hub",
            help="Folder with gsm8k/ and xsum/, or hub to download both. By default REPRO_TASKS,"
            " else hub.",
        ),
    ] = None,
    dtype: NumberFormat = None,
) -> None:
    """Fine-tune on GSM8K and on XSum, restore, and score (the paper's Table 5)."""
    from repro.data import task_examples
    from repro.models.devices import processes
    from repro.study import task_study

    examples = data or task_examples.source() or task_examples.HUB
    trial = task_study.open_task_study(model, profile, examples, dtype)
    made = trial.run()
    if processes().is_main_process:
        _say(f"{trial.model.name} {trial.profile.name}: {made} new records, all are there")


@_command(
    STUDY,
    "find damaged records of a study, or of results/; compute them again",
    "repro check micro-m --profile full",
    "repro check micro-m --profile full --repair",
    "repro check --results",
)
def check(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            help="A model, as for `repro run`. Leave it out with --results.",
            autocompletion=_model_names,
            show_default=False,
        ),
    ] = None,
    profile: ProfileName = "default",
    data: Facts = None,
    learning_rate: Rate = None,
    dtype: NumberFormat = None,
    results: Annotated[
        bool,
        typer.Option(
            "--results", help="Check every record in results/ instead of those of one study."
        ),
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Delete the damaged records and compute them again.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="Number of processes, as for `repro run`.")
    ] = None,
) -> None:
    """Find damaged records: compare each with its digest and with what its study asks for."""
    from repro.study import integrity

    if bool(model) == results:
        raise ConfigError("give a model, to check its records, or --results, to check results/")
    if results:
        damage = integrity.check_results()
    else:
        study = _open(str(model), profile, data, learning_rate, dtype)
        damages = [*integrity.check_study(study), *integrity.check_tasks()]
        damage = {(study.model.name, study.profile.name): damages} if damages else {}
    for each in (each for damages in damage.values() for each in damages):
        _say(each.error)
    if not damage:
        _say("every record is as it was written")
    elif not repair:
        raise typer.Exit(1)
    for names, damages in damage.items() if repair else ():
        study = _open(*names, None, None, None) if results else study
        repaired = integrity.repair(study, damages, workers)
        _say(f"{' '.join(names)}: {repaired} records computed again")


@_command(
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
) -> None:
    """Copy a study's records from the cache to results/, and print the files written."""
    from repro.study import task_study

    study = _open(model, profile, data, learning_rate, dtype)
    written = [*study.export(), *task_study.TaskStudy(study.model, study.profile).export()]
    for path in dict.fromkeys(written):  # the digests are written for both
        _say(path)


# --- the restoration tool -----------------------------------------------------------------------


Base = Annotated[
    str,
    typer.Argument(
        metavar="BASE",
        help="The model before fine-tuning: a folder, a name from `repro models`, or owner/name"
        " on the Hub.",
        show_default=False,
    ),
]
Tuned = Annotated[
    str,
    typer.Argument(
        metavar="TUNED",
        help="The model after fine-tuning, named in the same way.",
        show_default=False,
    ),
]
Percents = Annotated[
    list[float],
    typer.Option(
        "--percent",
        metavar="X ...",
        help="Shares of the parameters, in percent.",
        show_default=False,
    ),
]
Region = Annotated[
    str,
    typer.Option(
        metavar="REGION",
        help="Parameters to rank: transformer, attention, mlp, embedding, all, or a regular"
        " expression that their names match.",
    ),
]
Layers = Annotated[
    str, typer.Option(metavar="0-3", help="Only these layers. By default all.", show_default=False)
]
ScoreDtype = Annotated[
    Literal["float32", "bfloat16"],
    typer.Option(help="Number format in which scores are computed. The authors used bfloat16."),
]
Threads = Annotated[
    int | None,
    typer.Option(metavar="N", help="Number of threads. By default as many as PyTorch uses."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@_command(
    TOOL,
    "rank the parameters that fine-tuning changed most",
    "repro rank BASE TUNED",
    "repro rank BASE TUNED --percent 1 5 20 --region mlp --json",
)
def rank(
    base: Base,
    tuned: Tuned,
    percent: Percents = [1.0, 3.0, 5.0, 10.0, 20.0, 40.0, 60.0],  # noqa: B006 (typer copies it)
    strategy: Annotated[
        Literal["top", "absolute"],
        typer.Option(
            help="Rank by relative change (top, as the paper does) or by absolute change."
        ),
    ] = "top",
    region: Region = "transformer",
    layers: Layers = "",
    score_dtype: ScoreDtype = "float32",
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Rank the parameters of two models by how much fine-tuning changed them (Table 3)."""
    options = Namespace(**locals())
    from repro.restoration import restore_report

    _say(restore_report.rank(options))


@_command(
    TOOL,
    "write a model with a share of its parameters set back",
    "repro restore BASE TUNED OUT --percent 20",
    "repro restore BASE TUNED OUT --percent 5 20 40",
    "repro restore BASE TUNED --percent 20 --dry-run",
)
def restore(
    base: Base,
    tuned: Tuned,
    percent: Percents,
    out: Annotated[
        str | None,
        typer.Argument(
            metavar="[OUT]",
            help="Folder to write. With several percentages, it gets a folder for each.",
            show_default=False,
        ),
    ] = None,
    strategy: Annotated[
        Literal["top", "bottom", "random", "absolute", "interpolate"],
        typer.Option(
            help="Which parameters to restore: top is the paper's choice, the rest are controls."
        ),
    ] = "top",
    region: Region = "transformer",
    layers: Layers = "",
    score_dtype: ScoreDtype = "float32",
    threads: Threads = None,
    json: Json = False,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the strategy random.")] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the report and write nothing.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace OUT, if this command wrote it.")
    ] = False,
) -> None:
    """Write TUNED with its most changed parameters set back to their values in BASE (§5)."""
    options = Namespace(**locals())
    from repro.restoration import restore_report

    _say(restore_report.restore(options))
