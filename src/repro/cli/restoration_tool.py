"""The restoration tool: the commands `rank` and `restore`."""

from argparse import Namespace

from repro.cli.application import TOOL, command
from repro.cli.options import (
    Base,
    DryRun,
    Json,
    Layers,
    Out,
    Overwrite,
    Percents,
    RankStrategy,
    Region,
    RestoreStrategy,
    ScoreDtype,
    Seed,
    Threads,
    Tuned,
)
from repro.cli.output import say


@command(
    TOOL,
    "rank the parameters that fine-tuning changed most",
    "repro rank BASE TUNED",
    "repro rank BASE TUNED --percent 1 5 20 --region mlp --json",
)
def rank(
    base: Base,
    tuned: Tuned,
    percent: Percents = [1.0, 3.0, 5.0, 10.0, 20.0, 40.0, 60.0],  # noqa: B006 (typer copies it)
    strategy: RankStrategy = "top",
    region: Region = "transformer",
    layers: Layers = "",
    score_dtype: ScoreDtype = "float32",
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Rank the parameters of two models by how much fine-tuning changed them (Table 3)."""
    options = Namespace(**locals())
    from repro.restoration import restore_report

    say(restore_report.rank(options))


@command(
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
    out: Out = None,
    strategy: RestoreStrategy = "top",
    region: Region = "transformer",
    layers: Layers = "",
    score_dtype: ScoreDtype = "float32",
    threads: Threads = None,
    json: Json = False,
    seed: Seed = 0,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
) -> None:
    """Write TUNED with its most changed parameters set back to their values in BASE (§5)."""
    options = Namespace(**locals())
    from repro.restoration import restore_report

    say(restore_report.restore(options))
