"""The speed of mastery, answers, fine-tuning and scores, from the committed benchmarks.

`repro.report.larger_models` estimates from it what larger models would take.
"""

import json
import statistics
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from repro import files
from repro.models import registry
from repro.models.devices import FORMATS
from repro.report.style import COLOURS, STYLE, closed, panels, say_if_empty

KEYS = ["model", "processor"]  # columns that identify a run, in which two programs are compared


def benchmark_records(name: str, folder: Path | None = None) -> list[dict]:
    """Return the benchmark records of one name, with the model and the processor.

    They are `results/MODEL/benchmarks/NAME.json` and, if a ratio depends on the processor,
    `NAME.PROCESSOR.json`.
    """
    root = folder or files.results_dir()
    paths = [path for end in ("", ".*") for path in root.glob(f"*/benchmarks/{name}{end}.json")]
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(paths)}
    return [_named(path.parts[-3], json.loads(text)) for path, text in texts.items()]


def _named(model: str, record: dict) -> dict:
    origin = record["provenance"]  # in old records the processor is part of the machine
    processor = origin.get("processor") or origin["machine"].rpartition(", ")[2]
    return record | {"model": model, "processor": processor}


def runs(name: str, folder: Path | None = None) -> pd.DataFrame:
    """Return one row per model, processor and number format of a benchmark.

    DataFrame[model, processor, dtype, …].
    """
    rows = [
        {"model": registry.entry(record["model"]).title, "processor": record["processor"], **run}
        for record in benchmark_records(name, folder)
        for run in record["runs"]
    ]
    return pd.DataFrame(rows)


def sampling(folder: Path | None = None) -> pd.DataFrame:
    """Return the seconds per fact of mastery with `generate` and with ours, and the work avoided.

    *Work avoided* is the share of the requested tokens whose forward pass was not needed. *Of the
    products* is the speed as a share of that of the matrix products alone. *At most* is how many
    times faster than `generate` it would be at the speed of the products.
    """
    rows = []
    for run in runs("mastery", folder).to_dict("records"):
        tokens_asked, work = run["tokens_asked"], run["work"]
        rows.append(
            {
                "Model": run["model"],
                "Processor": run["processor"],
                "Numbers": run["dtype"],
                "generate, s per fact": run["seconds_per_fact"]["generate"],
                "ours, s per fact": run["seconds_per_fact"]["ours"],
                "times faster": run["ratio"],
                "tokens per s": run["tokens_per_second"],
                "of the products, %": 100
                * run["tokens_per_second"]
                / run["products_tokens_per_second"],
                "work avoided, %": 100 * (1 - work["computed"] / tokens_asked),
                "at most, times": run["ratio"]
                * run["products_tokens_per_second"]
                / run["tokens_per_second"],
            }
        )
    return pd.DataFrame(rows)


def avoided(folder: Path | None = None) -> pd.DataFrame:
    """Return the shares of the protocol's tokens that are not computed, and the limit that is left.

    Some tokens are never drawn, because their sample had *ended or answered* before, or because *no
    name* could be reached any more. Some are drawn without a forward pass of their own: their
    sample was so far the *same as another*, or they are the last token of it. All others are
    *computed*. The *limit* is the time per fact, in seconds, of the matrix products of the computed
    tokens alone.
    """
    rows = []
    for run in benchmark_records("together", folder):
        work, percent = run["work"], run["tokens_asked"] / 100
        to_the_end = run["work_to_the_end"]["tokens"]
        share = run["tokens_per_second"] / run["products_tokens_per_second"]
        seconds = run["seconds"] / run["facts"]
        rows.append(
            {
                "Model": registry.entry(run["model"]).title,
                "Processor": run["processor"],
                "Numbers": run["dtype"],
                "ended or answered, %": 100 - to_the_end / percent,
                "no name in reach, %": (to_the_end - work["tokens"]) / percent,
                "same as another's, or last, %": (work["tokens"] - work["computed"]) / percent,
                "computed, %": work["computed"] / percent,
                "s per fact": seconds,
                "limit, s per fact": seconds * share,
                "of the products, %": 100 * share,
            }
        )
    return pd.DataFrame(rows)


def time_shares(folder: Path | None = None) -> pd.DataFrame:
    """Return what the time of mastery goes to, in percent of the time of one core.

    *Products* are those of the linear layers, with as many rows as there are open samples. *Other*
    is what PyTorch and Python do between these steps: residuals, copies, calls.
    """
    return pd.DataFrame(
        {
            "Model": registry.entry(run["model"]).title,
            "Processor": run["processor"],
            "Numbers": run["dtype"],
            **{f"{stage}, %": 100 * share for stage, share in run["shares_of_time"].items()},
        }
        for run in benchmark_records("together", folder)
    )


def against_the_fastest(folder: Path | None = None) -> pd.DataFrame:
    """Return how many times faster ours is, each program in the number format that suits it.

    There is one row for each kind of work, model and processor. The last two columns compare both
    programs in the same format. If the other program is slow in it, this ratio makes ours look
    better than it is.
    """
    tables = [
        _against_the_fastest(work, runs(name, folder), seconds)
        for work, name, seconds in (
            ("mastery, against generate", "mastery", _of_sampling),
            ("evaluation, against generate", "evaluation", _of_answering),
            ("fine-tuning, against TRL", "finetuning", _of_tuning),
            ("scores, against a padded forward", "scores", _of_scoring),
        )
    ]
    return pd.concat(tables, ignore_index=True)


def results(folder: Path | None = None) -> dict[str, str]:
    """Return how many times faster ours is, in words by work: the least and the most."""
    texts = {}
    for work, rows in against_the_fastest(folder).groupby("Work", sort=False):
        least, most = (f"{times:.1f}" for times in rows["times faster"].agg(["min", "max"]))
        times = least if least == most else f"{least} to {most}"
        models = " and ".join(rows["Model"].unique())
        texts[work] = f"{times} times as fast, each in its faster format, on {models}"
    return texts


def _against_the_fastest(work: str, raced: pd.DataFrame, seconds: Callable) -> pd.DataFrame:
    """Return the rows of `against_the_fastest` for one kind of work.

    `seconds` returns the seconds of ours and of theirs from the record of a run.
    """
    rows = []
    for (model, processor), group in raced.groupby(KEYS, sort=False) if len(raced) else ():
        seconds_by_format = pd.DataFrame(
            {run["dtype"]: seconds(run) for run in group.to_dict("records")}
        ).T
        ours, theirs = seconds_by_format["ours"].idxmin(), seconds_by_format["theirs"].idxmin()
        row = {"Work": work, "Model": model, "Processor": processor, "ours in": ours}
        row |= {
            "theirs in": theirs,
            "times faster": seconds_by_format["theirs"].min() / seconds_by_format["ours"].min(),
        }
        within = (seconds_by_format["theirs"] / seconds_by_format["ours"]).reindex(FORMATS)
        rows.append(row | {f"both in {name}": ratio for name, ratio in within.items()})
    return pd.DataFrame(rows)


def _of_sampling(run: dict) -> dict[str, float]:
    return {
        "ours": run["seconds_per_fact"]["ours"],
        "theirs": run["seconds_per_fact"]["generate"],
    }


def _of_answering(run: dict) -> dict[str, float]:
    return {
        "ours": statistics.median(run["seconds"]["ours"]),
        "theirs": statistics.median(run["seconds"]["generate"]),
    }


def _of_scoring(run: dict) -> dict[str, float]:
    return {
        "ours": run["seconds_per_fact"]["ours"],
        "theirs": run["seconds_per_fact"]["padded"],
    }


def _of_tuning(run: dict) -> dict[str, float]:
    speeds = run["samples_per_second"]
    return {"ours": 1 / speeds["repro"], "theirs": 1 / speeds["trl"]}


def scoring(folder: Path | None = None) -> pd.DataFrame:
    """Return the seconds per fact of scores, with a padded forward pass and with ours.

    *Of the products* is the time of the matrix products of all used tokens and targets, as a share
    of our time. *Rows used* is the same as a share of the products of whole rows, which are filled
    up to one size.
    """
    rows = []
    for run in runs("scores", folder).to_dict("records"):
        ours = sum(run["seconds"]["ours"])
        rows.append(
            {
                "Model": run["model"],
                "Processor": run["processor"],
                "Numbers": run["dtype"],
                "padded, ms per fact": 1e3 * run["seconds_per_fact"]["padded"],
                "ours, ms per fact": 1e3 * run["seconds_per_fact"]["ours"],
                "times faster": run["ratio"],
                "of the products, %": 100 * run["products_seconds"] / ours,
                "rows used, %": 100 * run["products_seconds"] / run["rows_seconds"],
                "largest difference of a score": run["apart"],
            }
        )
    return pd.DataFrame(rows)


def answering(folder: Path | None = None) -> pd.DataFrame:
    """Return the seconds for the same questions with `generate` and with ours."""
    rows = []
    for run in runs("evaluation", folder).to_dict("records"):
        seconds = _of_answering(run)
        rows.append(
            {
                "Model": run["model"],
                "Processor": run["processor"],
                "Numbers": run["dtype"],
                "Questions": run["questions"],
                "generate, s": seconds["theirs"],
                "ours, s": seconds["ours"],
                "times faster": run["ratio"],
                "answers that differ": run["different"],
            }
        )
    return pd.DataFrame(rows)


def tuning(folder: Path | None = None) -> pd.DataFrame:
    """Return samples per second with TRL and with ours, and the difference of their losses.

    In bfloat16, the difference of each from its own losses in float32 shows the effect of rounding.
    """
    rows, raced = [], runs("finetuning", folder).to_dict("records")
    exact = {_race(run): run["loss"] for run in raced if run["dtype"] == "float32"}
    for run in raced:
        losses = run["loss"]
        row = {
            "Model": run["model"],
            "Processor": run["processor"],
            "Numbers": run["dtype"],
            "TRL, samples per s": run["samples_per_second"]["trl"],
            "ours, samples per s": run["samples_per_second"]["repro"],
            "times faster": run["ratio"],
            "largest difference of a loss": _apart(losses["trl"], losses["repro"]),
        }
        for way, name in (("trl", "TRL"), ("repro", "ours")):
            row[f"{name} from its float32"] = _apart(losses[way], exact[_race(run)][way])
        rows.append(row)
    return pd.DataFrame(rows)


def _race(run: dict) -> tuple[str, ...]:
    return tuple(run[key] for key in KEYS)


def _apart(first: list[float], second: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(first, second, strict=True))


def curves(folder: Path | None = None) -> pd.DataFrame:
    """Return both loss curves of each fine-tuning benchmark.

    DataFrame[model, processor, dtype, way, step, loss].
    """
    names = {"trl": "TRL", "repro": "ours"}
    return pd.DataFrame(
        {key: run[key] for key in (*KEYS, "dtype")} | {"way": names[way], "step": i + 1, "loss": x}
        for run in runs("finetuning", folder).to_dict("records")
        for way, losses in run["loss"].items()
        for i, x in enumerate(losses)
    )


def planned(folder: Path | None = None) -> pd.DataFrame:
    """Return the estimates of `repro plan` for studies, and what the studies then took."""
    rows = []
    for record in benchmark_records("plan", folder):
        for quantity, unit, scale in (("seconds", "min", 60), ("memory", "GB", 1e9)):
            said, took = record["planned"][quantity] / scale, record["taken"][quantity] / scale
            row = {"Model": registry.entry(record["model"]).title, "Profile": record["profile"]}
            row |= {"What": f"{quantity}, {unit}".replace("seconds", "time"), "planned": said}
            rows.append({**row, "taken": took, "planned / taken": said / took})
    return pd.DataFrame(rows)


def machines(folder: Path | None = None) -> pd.DataFrame:
    """Return machine, date, versions and command of each benchmark."""
    rows = []
    for name in ("mastery", "together", "scores", "evaluation", "finetuning", "restore", "plan"):
        for record in benchmark_records(name, folder):
            origin = record["provenance"]
            versions = origin["versions"] | ({"trl": record["trl"]} if "trl" in record else {})
            rows.append(
                {
                    "Command": record.get(
                        "command", f"python benchmarks/{name}.py {record['model']}"
                    ),
                    "Machine": origin["machine"],
                    "Processor": record["processor"],
                    "Date": origin["date"][:10],
                    "Commit": (origin["git_commit"] or "–")[:10],
                    "Versions": ", ".join(f"{k} {v}" for k, v in versions.items()),
                }
            )
    return pd.DataFrame(rows)


@plt.rc_context(STYLE)
def loss_figure(frame: pd.DataFrame) -> Figure:
    """Draw the losses of TRL and of ours on the same batches, a panel per model and format.

    `frame` comes from `curves`. The curve of TRL is wide and pale, ours is thin and on top of it.
    """
    groups = list(frame.groupby([*KEYS, "dtype"], sort=False)) if len(frame) else []
    figure, axes = panels(max(1, len(groups)))
    for axis, ((model, processor, dtype), rows) in zip(axes, groups, strict=False):
        for way, style in (("TRL", {"lw": 6, "alpha": 0.35}), ("ours", {"lw": 1.2})):
            curve = rows[rows["way"] == way]
            axis.plot(curve["step"], curve["loss"], color=COLOURS[1], label=way, **style)
        axis.set(
            title=f"{model}, {dtype},\n{processor}",
            xlabel="Step",
            ylabel="Loss (nats per answer token)",
        )
    say_if_empty(axes[0], frame)
    if groups:
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return closed(figure)
