"""The reports that `repro rank` and `repro restore` print."""

import json
import sys
from argparse import Namespace
from contextlib import contextmanager
from dataclasses import asdict

import pandas as pd
from tqdm import tqdm

from repro.errors import ConfigError
from repro.restoration import checkpoint_pair, concentration, restore_folder, tensor_pairs

# Columns of the table of `repro rank` → their headings.
HEADINGS = {
    "top_percent": "top %",
    "share_of_change_percent": "change %",
    "without_zero_base_percent": "without zeros %",
    "k": "k",
    "threshold": "threshold",
    "moved": "moved",
}
PASSES = 2  # over the region: one to count the scores, one to use the thresholds


def rank(options: Namespace) -> str:
    """Rank two models and return the report, as text or JSON.

    `options` are those of `repro rank`. Raises ConfigError and ModelError as `ranking.rank`.
    """
    settings = _settings(options)
    models = checkpoint_pair.Models(options.base, options.tuned)
    with _work(options, models, settings) as work:
        ranked = models.rank(settings, work, options.percent)
        table = concentration.concentration(ranked, options.percent)
        tensors = concentration.by_tensor(ranked, options.percent)
    report = {
        **models.names,
        "settings": asdict(settings),
        "renamed": models.renamed(),
        "left_as_they_are": tensor_pairs.left_as_they_are(ranked.pair),
        "n": ranked.size,
        "zero_base": ranked.zero_base,
        "unchanged": ranked.unchanged,
        "concentration": table.astype(object).where(table.notna(), None).to_dict("records"),
        "modules": shares(tensors, "module").to_dict("records"),
        "layers": shares(tensors, "layer").to_dict("records"),
    }
    return json.dumps(report, indent=1) if options.json else _rank_text(report, len(tensors))


def restore(options: Namespace) -> str:
    """Restore (with --dry-run, write nothing) and return the report, as text or JSON.

    `options` are those of `repro restore`. Raises errors as `restore_folder.restore`.
    """
    if options.out is None and not options.dry_run:
        raise ConfigError("give OUT, the folder to write, or --dry-run")
    settings, out = _settings(options), None if options.dry_run else options.out
    models = checkpoint_pair.Models(options.base, options.tuned)
    with _work(options, models, settings) as work:
        reports = restore_folder.restore(
            models, out, options.percent, settings, work, options.overwrite
        )
    return json.dumps(reports, indent=1) if options.json else _restore_text(reports, out)


def _settings(options: Namespace) -> checkpoint_pair.Settings:
    seed = getattr(options, "seed", 0)
    return checkpoint_pair.Settings(
        options.strategy, options.region, options.layers, options.score_dtype, seed
    )


@contextmanager
def _work(options: Namespace, models: checkpoint_pair.Models, settings: checkpoint_pair.Settings):
    """Yield how the work is done: the number of threads, and on a terminal a progress bar."""
    if options.threads is not None and options.threads < 1:
        raise ConfigError(f"{options.threads} threads: give 1 or more")
    region = models.region(settings)
    region_bytes = sum(w[n].nbytes for n in region.shapes for w in (models.base, models.tuned))
    bar_options = {"total": PASSES * region_bytes, "unit": "B", "unit_scale": True, "delay": 1}
    with tqdm(**bar_options, desc="reading", disable=not sys.stderr.isatty()) as bar:
        yield checkpoint_pair.Work(options.threads, progress=bar.update)


def shares(tensors: pd.DataFrame, by: str) -> pd.DataFrame:
    """Add up `concentration.by_tensor` by layer or module.

    Returns:
        DataFrame[by, n_percent, change_percent, one column per percentage]: shares (%) of all
        parameters, of all change, and of the chosen parameters. If a part's share of the chosen is
        above its n_percent, its parameters were chosen more often than average.
    """
    percents = [c for c in tensors if isinstance(c, float)]
    grouped = tensors.assign(**{by: tensors[by].fillna(-1).replace(-1, "outside")})
    sums = grouped.groupby(by, sort=False)[["n", "change_percent", *percents]].sum()
    for column in ("n", *percents):
        sums[column] = 100 * sums[column] / max(sums[column].sum(), 1)
    return sums.rename(columns={"n": "n_percent"}).rename(columns=_label).reset_index()


def _label(column) -> str:
    return f"top_{column:g}_percent" if isinstance(column, float) else column


def _short(column: str) -> str:
    return {"n_percent": "all"}.get(column, column.removesuffix("_percent").replace("_", " "))


def _rank_text(report: dict, tensors: int) -> str:
    """Return the report of `repro rank` as text, with its two tables."""
    n, zero, unchanged = report["n"], report["zero_base"], report["unchanged"]
    table = pd.DataFrame(report["concentration"])[list(HEADINGS)].rename(columns=HEADINGS)
    modules = pd.DataFrame(report["modules"]).rename(columns=_short)
    return "\n".join(
        [
            f"{n:,} parameters in {tensors:,} tensors, {_describe(report['settings'])}",
            f"{zero:,} ({100 * zero / n:.2f} %) were zero before,"
            f" {unchanged:,} ({100 * unchanged / n:.2f} %) did not change",
            *_differences(report),
            "",
            _text(table),
            "",
            "Shares in %: of all parameters (all), of all change (change), of the chosen (top)",
            _text(modules),
        ]
    )


def _restore_text(reports: list[dict], out: str | None) -> str:
    """Return the reports of `repro restore` as text, one row of a table for each percentage."""
    first = reports[0]
    columns = ("k", "differ", "rounded", "threshold", "change_restored_percent")
    rows = [{"%": r["settings"]["percent"], **{c: r[c] for c in columns}} for r in reports]
    ending = "nothing written (dry run)" if out is None else f"written to {out}"
    if out is not None and len(reports) > 1:
        ending += ": one folder per percentage"
    return "\n".join(
        [
            f"{first['n']:,} parameters in {len(first['tensors']):,} tensors,"
            f" {_describe(first['settings'])}",
            *_differences(first),
            _text(pd.DataFrame(rows).rename(columns={"change_restored_percent": "change %"})),
            ending,
        ]
    )


def _differences(report: dict) -> list[str]:
    """Return a line for each way in which names or shapes differ between the models."""
    lines = [f"{which.upper()}: compared {text}" for which, text in report["renamed"].items()]
    texts = {
        "only_tuned": "only TUNED has, kept as they are",
        "only_base": "only BASE has, left out",
        "shapes": "outside the region with different shapes, kept as TUNED has them",
    }
    for kind, text in texts.items():
        if names := report["left_as_they_are"][kind]:
            rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
            lines.append(f"{len(names)} tensors {text}: {', '.join(names[:3])}{rest}")
    return lines


def _describe(settings: dict) -> str:
    layers = f", layers {settings['layers']}" if settings["layers"] else ""
    chosen = f"{settings['strategy']} in {settings['score_dtype']}"
    return f"region {settings['region']}{layers}, {chosen}"


def _text(table: pd.DataFrame) -> str:
    """Format a table: integers with thousands separators, others with five digits."""
    return table.map(_cell).to_string(index=False)


def _cell(value: object) -> str:
    if pd.isna(value):
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.5g}" if isinstance(value, float) else str(value)
