"""Arguments and options of the commands, with their help texts.

Each is a type with typer's description attached; a command's parameter is annotated with it.
"""

from pathlib import Path
from typing import Annotated, Literal

import typer


def model_names(incomplete: str) -> list[str]:
    """Return the models of the registry that a word may become, for the Tab key of the shell."""
    from repro.models import registry

    return [name for name in registry.entries() if name.startswith(incomplete)]


# --- models and facts ---------------------------------------------------------------------------

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A name from `repro models`, such as micro-m, a folder, or owner/name on the Hub.",
        autocompletion=model_names,
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
World = Annotated[
    # The worlds of `repro.data.facts`, written out because that module loads pandas.
    Literal["entityquestions", "atlas"],
    typer.Argument(
        metavar="[WORLD]",
        help="entityquestions (the default), or the invented atlas of the micro models.",
        show_default=False,
    ),
]

# --- a study ------------------------------------------------------------------------------------

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
Engine = Annotated[
    Literal["auto", "cpu", "transformers", "vllm"],
    typer.Option(
        help="What answers the questions. auto: the CPU engine where it computes the model, else"
        " the layers of transformers. vllm needs pip install 'repro[vllm]'; its records name it and"
        " its version, and only this engine finds them."
    ),
]
Gpus = Annotated[
    int | None,
    typer.Option(metavar="N", help="Estimate for this number of GPUs instead; needs no weights."),
]
GpuMemory = Annotated[str, typer.Option(metavar="80G", help="Memory of each GPU, with --gpus.")]
HostMemory = Annotated[
    str | None, typer.Option(metavar="128G", help="Memory of each host, with --gpus.")
]
Workers = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Number of processes that share the runs of a small model. By default one for each"
        " core.",
    ),
]
PartOfStudy = Annotated[
    str | None,
    typer.Option(
        "--part",
        metavar="I/N",
        help="Compute only share I of N. Machines that share a cache take one share each.",
    ),
]
OnlyMissing = Annotated[
    bool,
    typer.Option(
        "--missing",
        help="Compute nothing. Count what is missing, and exit with status 1 if anything is.",
    ),
]
TaskExamples = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="FOLDER|hub",
        help="Folder with gsm8k/ and xsum/, or hub to download both. By default REPRO_TASKS,"
        " else hub.",
    ),
]
CheckedModel = Annotated[
    str | None,
    typer.Argument(
        metavar="[MODEL]",
        help="A model, as for `repro run`. Leave it out with --results.",
        autocompletion=model_names,
        show_default=False,
    ),
]
AllResults = Annotated[
    bool,
    typer.Option("--results", help="Check every record in results/ instead of those of one study."),
]
Repair = Annotated[
    bool, typer.Option("--repair", help="Delete the damaged records and compute them again.")
]
RepairWorkers = Annotated[
    int | None, typer.Option(metavar="N", help="Number of processes, as for `repro run`.")
]

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
RankStrategy = Annotated[
    Literal["top", "absolute"],
    typer.Option(help="Rank by relative change (top, as the paper does) or by absolute change."),
]
RestoreStrategy = Annotated[
    Literal["top", "bottom", "random", "absolute", "interpolate"],
    typer.Option(
        help="Which parameters to restore: top is the paper's choice, the rest are controls."
    ),
]
Out = Annotated[
    str | None,
    typer.Argument(
        metavar="[OUT]",
        help="Folder to write. With several percentages, it gets a folder for each.",
        show_default=False,
    ),
]
Seed = Annotated[int, typer.Option(metavar="N", help="Seed of the strategy random.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the report and write nothing.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace OUT, if this command wrote it.")
]
