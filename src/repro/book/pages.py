"""The numbers and tables in the text of the book's pages, as MyST substitutions.

A page writes `{{ paper.train_facts }}` for a number and `{{ topics }}` for a whole section.
"""

import html
from collections.abc import Iterable

import nbformat
import pandas as pd

from repro import paper
from repro.book import (
    atlas_pages,
    demonstration,
    front_page,
    model_pages,
    overview,
    profile_page,
    substitutions,
)
from repro.book.execution import Book
from repro.measures import divergence
from repro.models import registry, weights
from repro.study import Study, gpu_plan, open_study, pools, profiles, task_study

LONG = 30  # characters of a cell from which its text may wrap


def values_from_runs(book: Book) -> dict[str, object]:
    """Return the values that depend on the executed notebooks, by name."""
    return {"status_notebooks": status_notebooks(book)}


def other_models(book: Book) -> dict[str, object]:
    """Return the models of the model switch: {model: {profile, stems of its pages}}."""
    stems = [source.stem for source in book.sources()]
    return model_pages.others(open_study(book.model, book.profile), stems)


def values_from_records(book: Book) -> dict[str, object]:
    """Return the value of every other `{{ name }}` in the book's Markdown, by name."""
    measured = open_study(book.model, book.profile)
    return {
        **_substitutions(book, measured),
        **_atlas(),
        **_status(book, measured),
        "tool": demonstration.outputs(book),
        "found": overview.findings(measured),
        "cards": front_page.cards(measured),
        "measured_models": front_page.models(measured),
        "overview": paper_against_ours(overview.overview(measured)),
        "gpu_plans": gpu_plans(),
        "topics": "\n\n".join(topic(entry) for entry in paper.TOPICS.values()),
        "build_command": build_command(book),
        "profiles_table": html_table(profile_page.table()),
    }


def _substitutions(book: Book, measured: Study) -> dict[str, object]:
    """Return the numbers within sentences, by group."""
    return {
        "paper": substitutions.of_paper(),
        "full": substitutions.of_profile("full"),
        "used": substitutions.of_profile(book.profile),
        "ours": substitutions.of_study(measured),
        "method": {"near": divergence.NEAR, "enough": pools.ENOUGH},
        "rounding": substitutions.of_rounding(),
        "spellings": substitutions.of_spellings(),
        "restore_benchmark": substitutions.of_restore_benchmark(),
        "model": registry.entry(book.model).title,
        "profile": book.profile,
        "default_profile": profiles.DEFAULT_PROFILE,
    }


def _atlas() -> dict[str, object]:
    """Return the numbers and tables of the page on atlas."""
    return {
        "atlas": {**atlas_pages.numbers(), **atlas_pages.example()},
        "atlas_splits": html_table(atlas_pages.splits()),
        "atlas_exposures": html_table(atlas_pages.exposures()),
        "atlas_models": html_table(atlas_pages.bundled()),
    }


def _status(book: Book, measured: Study) -> dict[str, object]:
    """Return the tables of the page on records: the model, its records, versions of packages."""
    records = measured.records()
    tasks = task_study.TaskStudy(measured.model, measured.profile).records()
    return {
        "status_model": status_model(book, records),
        "status_records": status_records(pd.concat([records, tasks])),
        "status_versions": status_versions(records),
    }


def html_table(frame: pd.DataFrame, code: Iterable[str] = (), title: str = "") -> str:
    """Return a frame as an HTML table in a box that scrolls by itself; `code` columns as code.

    The box can have the focus of the keyboard, so that the arrow keys scroll it. A screen reader
    reads its `title`, by default the names of its columns.
    """
    cells = frame.map(lambda value: "–" if pd.isna(value) else html.escape(str(value)))
    for name in code:
        cells[name] = cells[name].map(lambda text: f"<code>{text}</code>" if text else "")
    # The style sheet lets long text wrap and keeps a date or a number on one line.
    cells = cells.map(lambda text: f"<span>{text}</span>" if len(text) > LONG else text)
    text = cells.to_html(index=False, border=0, escape=False, classes="generated")
    label = html.escape("Table: " + (title or ", ".join(map(str, frame.columns))), quote=True)
    return f'<div class="wide" tabindex="0" role="region" aria-label="{label}">\n{text}\n</div>'


def gpu_plans() -> dict[str, str]:
    """Return the estimates for the paper's models on GPUs as tables, and the assumed speed."""
    host = {"small": 128 * gpu_plan.GIB, "large": 2048 * gpu_plan.GIB, "largest": None}
    shown = {
        "small": ("llama-3-8b", 1),
        "large": ("llama-3-70b", 8),
        "largest": ("llama-3-70b", 16),
    }
    full, tables = profiles.profile("full"), {}
    for name, (model, gpus) in shown.items():
        machine = gpu_plan.Machine(gpus, 80 * gpu_plan.GIB, host[name])
        table = gpu_plan.table(registry.entry(model), full, machine)
        tables[name] = html_table(table, title=f"{registry.entry(model).title} on {gpus} GPUs")
    pace = {name: f"{gpu_plan.ASSUMED[name]:.1e}" for name in ("operations", "memory")}
    return {**tables, **pace, "rows": str(gpu_plan.ASSUMED["rows"])}


def paper_against_ours(frame: pd.DataFrame) -> str:
    """Return the status page's table: item, quantity, paper, ours, difference."""
    return html_table(frame.drop(columns="command").rename(columns=str.capitalize))


def topic(entry: paper.Topic) -> str:
    """Return one topic as a fold-out: its question and its mapping templates (Appendix F.2)."""
    domain = "in-domain" if entry.domain == "in" else "out-of-domain"
    templates = "\n".join(f"1. {text}" for text in entry.mappings)
    title = f"{entry.id} · {entry.question}"
    lead = f"{domain.capitalize()}, Table {entry.table} of the paper."
    return f":::{{dropdown}} {title}\n{lead}\n\n{templates}\n:::"


def status_model(book: Book, records: pd.DataFrame) -> str:
    """Return the table of the study: model, weights, data and seed."""
    model = registry.entry(book.model)
    rows = {
        "Model": f"{model.title} ({model.name})",
        "Weights": weights.weights_id(model),
        "Licence": model.license,
        "Profile": book.profile,
        "Data": _distinct(records["data"]),
        "Seed": _distinct(records["seed"]),
        "Device and number format": _distinct(records["device"] + ", " + records["dtype"]),
    }
    return html_table(pd.DataFrame(rows.items(), columns=["What", "Value"]))


def status_notebooks(book: Book) -> str:
    """Return the date and duration of each notebook, from the metadata of papermill."""
    rows = []
    for source in book.sources():
        run = nbformat.read(book.executed(source), as_version=4).metadata.papermill
        rows.append(
            {
                "Notebook": source.name,
                "Run at (UTC)": run.end_time[:16].replace("T", " "),
                "Seconds": f"{run.duration:.1f}",
                "papermill": run.version,
                "Command": book.command(source),
            }
        )
    return html_table(pd.DataFrame(rows), code=["Command"])


def status_records(records: pd.DataFrame) -> str:
    """Return the numbers and times of records, by kind."""
    rows = [
        {
            "Measurement": kind,
            "Records": len(group),
            "Minutes in all": f"{group['wall_seconds'].sum() / 60:.1f}",
            "Measured (UTC)": f"{group['date'].min()[:10]} to {group['date'].max()[:10]}",
            "Commit": _distinct(group["git_commit"].fillna("–").str[:10]),
        }
        for kind, group in records.groupby("kind", sort=True)
    ]
    return html_table(pd.DataFrame(rows))


def status_versions(records: pd.DataFrame) -> str:
    """Return the versions of packages that the records were computed with."""
    pairs = {pair for versions in records["versions"] for pair in dict(versions).items()}
    return html_table(pd.DataFrame(sorted(pairs), columns=["Package", "Version"]))


def build_command(book: Book) -> str:
    """Return the command that builds this book, as a block of code."""
    settings = f"REPRO_MODEL={book.model} REPRO_PROFILE={book.profile}"
    return f"```bash\n{settings} jupyter-book build book/\n```"


def _distinct(values: pd.Series) -> str:
    return "; ".join(sorted({str(value) for value in values.dropna()})) or "–"
