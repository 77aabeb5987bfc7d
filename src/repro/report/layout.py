"""The parts of a page around tables: findings, tabs, and figures with number and caption.

Everything works without scripts and without a network, in a notebook and on a page of the book.
"""

import hashlib
import html
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from repro.report import style
from repro.report.html import GREEN, RED, Html
from repro.statistics.verdicts import (
    CONTRADICTED,
    EXCEPTIONS,
    HOLDS,
    SUPPORTED,
    UNDECIDED,
    overall,
)

SIGNS = {HOLDS: "✓", EXCEPTIONS: "◐", CONTRADICTED: "✗", UNDECIDED: "?"}
FINDING_CSS = f"""
.repro-findings{{border-left:.25rem solid rgba(128,128,128,.6);padding:.2em 0 .2em 1em;
  margin:0 0 1em}}
.repro-findings p{{margin:.15em 0}}
.repro-findings .result{{font-size:1.1em;font-weight:bold}}
.repro-findings div+div{{margin-top:.8em}}
.repro-findings .verdict{{padding:0 .4em;border-radius:.3em;white-space:nowrap}}
.repro-findings .holds{{background:rgba({",".join(map(str, GREEN))},.22)}}
.repro-findings .contradicted{{background:rgba({",".join(map(str, RED))},.28);font-weight:bold}}
.repro-findings .undecided{{border:1px solid rgba(128,128,128,.6)}}
"""
TAB_CSS = """
.repro-tabs{margin:0 0 1em}
.repro-tabs>label{display:inline-block;padding:.2em .8em;cursor:pointer;
  border-bottom:.2em solid transparent}
.repro-tabs>input{position:absolute;opacity:0}
.repro-tabs>input:checked+label{border-bottom-color:currentColor;font-weight:bold}
.repro-tabs>input:focus-visible+label{outline:2px solid}
.repro-tabs>.panel{display:none;padding-top:.4em}
@media print{.repro-tabs>.panel{display:block!important}.repro-tabs>label{display:none}}
"""
FIGURE_CSS = """
.repro-figure{margin:0 0 1.2em;max-width:42rem}
.repro-figure svg{width:100%;height:auto;fill:var(--c-000000,#000)}
.repro-figure svg text{fill:var(--c-000000,#000)}
.repro-figure figcaption{font-size:.9em;line-height:1.35;text-align:left;color:inherit}
.repro-figure figcaption p{margin:0}
.repro-figure button{font:inherit;font-size:.8em;float:right;background:none;color:inherit;
  border:1px solid rgba(128,128,128,.6);border-radius:.3em;cursor:pointer}
.repro-figure:fullscreen{max-width:none;padding:1em;overflow:auto;
  background:var(--pst-color-background,var(--jp-layout-color0,Canvas))}
.repro-figure:fullscreen svg{max-height:85vh}
"""
LARGER = "this.closest('figure').requestFullscreen()"


@dataclass(frozen=True)
class Finding:
    """A statement of the paper (or another `source`), and the comparisons that test it.

    `rows` are comparisons (`verdicts.COLUMNS`). `holds` and `fails` say in words what a supported
    and a contradicted comparison shows: `more facts hurt`, `more facts help`.
    """

    name: str
    claim: str
    rows: pd.DataFrame
    holds: str
    fails: str
    source: str = "the paper"

    def text(self) -> str:
        """Return what the comparisons show: the direction, and their numbers."""
        if self.rows.empty:
            return "Nothing to compare in this profile"
        number = len(self.rows)
        holds, fails = ((self.rows["verdict"] == v).sum() for v in (SUPPORTED, CONTRADICTED))
        # The more frequent direction comes first, whatever the paper says.
        words, most, least = (self.holds, holds, fails)
        if fails > holds:
            words, most, least = (self.fails, fails, holds)
        plural = "" if number == 1 else "s"
        of = f"all {number}" if most == number > 1 else f"{most} of {number}"
        text = f"{words[0].upper()}{words[1:]} in {of} comparison{plural}"
        rest = {"the opposite": least, "undecided": number - holds - fails}
        others = [f"{name} in {count}" for name, count in rest.items() if count]
        return text + (f"; {', '.join(others)}" if others else "")


def findings(model: str, rows: Iterable[Finding]) -> Html:
    """Return the first block of a page: each finding in words, then the claim and the verdict."""
    parts = []
    for finding in rows:
        verdict = overall(finding.rows) if len(finding.rows) else UNDECIDED
        kind = verdict.split(" ")[0]  # `holds with exceptions` looks like `holds`
        chip = f'<span class="verdict {kind}">{SIGNS[verdict]} {verdict}</span>'
        claim = (
            f"<p>{html.escape(finding.name)}, {finding.source}: <i>{html.escape(finding.claim)}</i>"
        )
        claim += f" On {html.escape(model)}: {chip}</p>"
        parts.append(f'<div><p class="result">{html.escape(finding.text())}.</p>{claim}</div>')
    text = f'<style>{FINDING_CSS}</style><div class="repro-findings">{"".join(parts)}</div>'
    return Html(text, "Findings")


def statement(result: str, claim: str) -> Html:
    """Return the first block of a page whose result is not a comparison: result and question."""
    text = f'<p class="result">{html.escape(result)}</p><p>{html.escape(claim)}</p>'
    block = f'<div class="repro-findings"><div>{text}</div></div>'
    return Html(f"<style>{FINDING_CSS}</style>{block}", "Result")


def statements(results: Mapping[str, str]) -> Html:
    """Return the first block of a page with many results: the subject and the text of each."""
    parts = [
        f"<p><b>{html.escape(name)}</b>: {html.escape(text)}.</p>" for name, text in results.items()
    ]
    block = f'<div class="repro-findings">{"".join(parts) or "<p>Nothing is measured.</p>"}</div>'
    return Html(f"<style>{FINDING_CSS}</style>{block}", "Results")


def tabs(parts: Mapping[str, Html], title: str) -> Html:
    """Return several tables as tabs; on a printed page all of them are visible."""
    names = "".join(parts) + title + "".join(part.html for part in parts.values())
    name = "tabs-" + hashlib.sha256(names.encode()).hexdigest()[:8]
    heads, panels, rules = "", "", ""
    for place, (label, part) in enumerate(parts.items()):
        panel_id, state = f"{name}-{place}", "" if place else " checked"
        heads += f'<input type="radio" name="{name}" id="{panel_id}"{state}>'
        heads += f'<label for="{panel_id}">{html.escape(label)}</label>'
        panels += f'<div class="panel {panel_id}">{part.html}</div>'
        rules += f"#{panel_id}:checked~.{panel_id}{{display:block}}"
    legend = f'role="group" aria-label="{html.escape(title)}"'
    text = f'<div class="repro-tabs" {legend}>{heads}{panels}</div>'
    return Html(f"<style>{TAB_CSS}{rules}</style>{text}", title)


def figure(drawn: Figure, number: str, caption: str, alt: str) -> Html:
    """Return a figure as SVG with number and caption; `alt` describes it for blind readers.

    Its colours follow the light or dark mode of the page. A button shows it on the whole screen.
    """
    svg, dark = style.svg(drawn, alt, number)
    rules = f"<style>{FIGURE_CSS}{dark}</style>"
    button = f'<button type="button" onclick="{LARGER}" aria-label="Enlarge figure">⤢</button>'
    text = f"<figcaption>{button}<b>Figure {number}.</b> {html.escape(caption)}</figcaption>"
    return Html(f'{rules}<figure class="repro-figure">{svg}{text}</figure>', f"Figure {number}")
