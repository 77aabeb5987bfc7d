"""The three cards of the front page: the paper's number beside those of every measured model."""

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

import pandas as pd

from repro import paper
from repro.claims import by_model
from repro.claims.sources import SHARE
from repro.paper.quotes import quoted
from repro.statistics import verdicts
from repro.study import Study

WIDTH, ROW = 240, 18  # of a card's plot, in pixels; ROW for each model


@dataclass(frozen=True)
class Line:
    """One line of a card: a model, the compared runs, points of accuracy, and the count."""

    model: str
    runs: str
    estimate: float
    low: float = float("nan")
    high: float = float("nan")
    count: str = ""


@dataclass(frozen=True)
class Card:
    """A claim of the paper: its number first, then ours."""

    title: str
    claim: str
    link: str
    lines: list[Line]


def cards(first: Study) -> str:
    """Return the three cards as HTML, for the book's study and the last of each other model."""
    return f'<div class="cards">{"".join(_html(card) for card in _cards(_studies(first)))}</div>'


def models(first: Study) -> str:
    """Return the titles of the measured models in a row, the book's own first."""
    return ", ".join(by_model.names(_studies(first)))


def _studies(first: Study) -> list[Study]:
    """Return the study of the book, and the last complete study of each other model."""
    return [first, *by_model.last_of_others(first)]


def _cards(studies: list[Study]) -> Iterator[Card]:
    """Yield the cards on Phenomenon 1 and 2 (§3.4) and on restoration (Finding 1 of §5.2)."""
    said = quoted().set_index("name")["value"]
    measured = [by_model.of_study(study) for study in studies]
    titles = by_model.names(studies)
    for name, title, claim, link, value, runs in (
        (
            "falls",
            "More data hurts",
            "Beyond 240 training facts, accuracy falls.",
            "notebooks/02_scale.html",
            said["level_0"],
            "level 0, 240 to 1,920 facts",
        ),
        (
            "level",
            "Which facts matter",
            "Training on facts the model did not know (level 0) leaves the lowest accuracy.",
            "notebooks/03_levels.html",
            said["gap"],
            "level 0 against level 2, 1,920 facts",
        ),
        (
            "helps",
            "Undoing helps",
            f"Setting {SHARE} % of the parameters back raises accuracy.",
            "notebooks/05_restore.html",
            _gain_of_paper(),
            "level 0, 1,920 facts",
        ),
    ):
        ours = [_line(model, rows[name]) for model, rows in zip(titles, measured, strict=True)]
        lines = [Line("LLaMA-3-8B (paper)", runs, value), *filter(None, ours)]
        yield Card(title, claim, link, lines)


def _gain_of_paper() -> float:
    """Return the gain of LLaMA-3-8B from restoring a fifth, 1,920 facts of level 0 (Table 4)."""
    run = paper.table("restore").query(
        "split == 'test' and train_size == 1920 and train_level == 0"
    )
    accuracy = run.set_index("restored_percent")["accuracy"]
    return float(accuracy[SHARE] - accuracy[0])


def _line(model: str, rows: pd.DataFrame) -> Line | None:
    """Return the line of a model; None if it has no such run.

    Its estimate is that of the comparison most similar to the paper's: level 0, the largest sampled
    size, and against level 2 if two levels are compared.
    """
    rows = rows[rows["estimate"].notna()]
    sampled = rows[rows["claim"].str.contains("evel 0") & ~rows["claim"].str.contains("all ")]
    against = sampled[sampled["claim"].str.endswith("worse than level 2")]
    chosen = against if len(against) else sampled
    if chosen.empty:
        return None
    row, (supported, of) = chosen.iloc[-1], verdicts.count(rows)
    opposite = int((rows["verdict"] == verdicts.CONTRADICTED).sum())
    count = f"holds in {supported} of {of}" + (f", the opposite in {opposite}" if opposite else "")
    return Line(model, row["claim"], row["estimate"], row["low"], row["high"], count)


def _html(card: Card) -> str:
    """Return a card as HTML: the claim, the paper's number, a plot, and a row for each model."""
    paper_line = card.lines[0]
    rows = "".join(_row(line) for line in card.lines)
    return (
        f'<section class="claim-card"><h2><a href="{card.link}">{escape(card.title)}</a></h2>'
        f"<p>{escape(card.claim)}</p>"
        f'<p class="big">{_points(paper_line.estimate)}<span> points in the paper'
        f" ({escape(paper_line.runs)})</span></p>"
        f"{_plot(card)}<table>{rows}</table>"
        f'<p><a href="{card.link}">Every comparison, with its interval</a></p></section>'
    )


def _row(line: Line) -> str:
    interval = "" if pd.isna(line.low) else f" [{_points(line.low)}, {_points(line.high)}]"
    note = f"<small>{escape(line.count)}</small>" if line.count else ""
    return (
        f'<tr title="{escape(line.runs, quote=True)}"><th scope="row">{escape(line.model)}</th>'
        f"<td>{_points(line.estimate)}<small>{interval}</small>{note}</td></tr>"
    )


def _plot(card: Card) -> str:
    """Draw a dot and an interval for each line on one scale, with zero marked."""
    ends = [0.0, *(x for line in card.lines for x in (line.estimate, line.low, line.high))]
    numbers = [x for x in ends if not pd.isna(x)]
    low, high = min(numbers), max(numbers)

    def at(value: float) -> float:
        return 6 + (WIDTH - 12) * (value - low) / (high - low)

    height, marks = ROW * len(card.lines), []
    for place, line in enumerate(card.lines):
        y = ROW * place + ROW / 2
        if not pd.isna(line.low):
            span = f'x1="{at(line.low):.1f}" x2="{at(line.high):.1f}" y1="{y}" y2="{y}"'
            marks.append(f'<line {span} stroke="currentColor" stroke-width="2"/>')
        fill = "none" if not place else "currentColor"
        dot = f'cx="{at(line.estimate):.1f}" cy="{y}" r="4.5" fill="{fill}"'
        marks.append(f'<circle {dot} stroke="currentColor" stroke-width="1.5"/>')
    zero = f'x1="{at(0):.1f}" x2="{at(0):.1f}" y1="0" y2="{height}"'
    label = f"{card.title}: the paper (ring) and our models (dots), points of accuracy"
    return (
        f'<svg role="img" aria-label="{escape(label, quote=True)}" width="{WIDTH}"'
        f' height="{height}" viewBox="0 0 {WIDTH} {height}">'
        f'<line {zero} stroke="currentColor" stroke-dasharray="2 3" opacity="0.6"/>'
        f"{''.join(marks)}</svg>"
    )


def _points(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")
