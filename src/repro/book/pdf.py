"""Prints the built book as one PDF: `python -m repro.book.pdf`, which `make pdf` calls.

Chromium prints, because it draws the pages as a reader of the site sees them: coloured tables,
vector figures, formulas. The site links to the PDF only if it was printed from the current pages.
"""

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

from repro.book import single_page
from repro.errors import ConfigError, ReproError
from repro.files import write_atomic

NAME = "fine-tuning-and-model-knowledge.pdf"
LINK_SCRIPT = "pdf-link.js"  # a file of the site; it is empty if there is no PDF
PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDTH, HEIGHT = 680, 980  # of a page's text in pixels: A4 less its margins, at 96 to the inch
LINK = """for (const place of document.querySelectorAll(".pdf-link")) {{
  const link = document.createElement("a");
  link.href = (document.documentElement.dataset.content_root ?? "./") + "_static/{name}";
  link.textContent = place.dataset.text ?? "this book as a PDF";
  place.append(link);
}}
// {digest}
"""
# Before printing: wait for formulas, make each table as narrow as the page, and keep a table that
# fits on a page in one piece.
FIT_TABLES = """async ([width, height]) => {
  await window.MathJax?.startup?.promise;
  await document.fonts.ready;
  for (const table of document.querySelectorAll("table")) {
    const room = Math.min(width, table.parentElement.clientWidth || width);
    if (table.scrollWidth > room) table.style.zoom = room / table.scrollWidth;
    if (table.getBoundingClientRect().height < height) table.style.breakInside = "avoid";
  }
}"""


def main() -> None:
    """Print the PDF of the site in the current folder's book, and print its path."""
    site = Path("book", "_build", "html")
    try:
        path = write(site)
    except ReproError as error:
        sys.exit(f"Error: {error}")
    print(f"{path.resolve()} ({path.stat().st_size / 1e6:.1f} MB)")


def write(site: Path) -> Path:
    """Print the pages of a built site as one PDF among its files, link to it, return its path.

    Raises:
        ConfigError: there is no site, no Chromium, or no package that drives it.
    """
    html = single_page.assemble(site, "../html/_static")
    page = site.parent / "print" / "index.html"
    write_atomic(page, html)
    path = site / "_static" / NAME
    partial = path.with_suffix(".partial")
    _print(page, partial)
    partial.replace(path)
    write_atomic(_stamp_file(site), json.dumps({"pages": digest(site)}))
    link(site)
    return path


def link(site: Path) -> bool:
    """Let the pages link to the PDF if it was printed from them; return whether it was."""
    stamp = _stamp_file(site)
    printed = json.loads(stamp.read_text(encoding="utf-8")) if stamp.is_file() else {}
    fresh = (site / "_static" / NAME).is_file() and printed.get("pages") == digest(site)
    script = LINK.format(name=NAME, digest=printed["pages"]) if fresh else ""
    target = site / "_static" / LINK_SCRIPT
    if not target.is_file() or target.read_text(encoding="utf-8") != script:
        write_atomic(target, script)
    return fresh


def digest(site: Path) -> str:
    """Return a hash of the text of the book's pages, in the order of the contents."""
    total = hashlib.sha256()
    for address in ["index.html", *(chapter.address for chapter in single_page.contents(site))]:
        total.update((site / address).read_bytes().partition(b"<article")[2])
    return total.hexdigest()


def _stamp_file(site: Path) -> Path:
    return site.parent / "print" / "printed.json"


def _print(page: Path, path: Path) -> None:
    """Let Chromium print an HTML file as a PDF with bookmarks."""
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        raise ConfigError("the PDF needs a package more: pip install -e '.[pdf]'") from None
    with sync_playwright() as driver:
        program = next(filter(None, map(shutil.which, PROGRAMS)), None)
        program = program or driver.chromium.executable_path
        if not Path(program).is_file():
            raise ConfigError(
                "the PDF is printed by Chromium, and none is here. Install it (Debian and Ubuntu:"
                " apt-get install chromium; macOS: brew install --cask chromium; elsewhere:"
                " playwright install chromium), then repeat the command"
            )
        # As root, as in a container, Chromium starts only without its sandbox.
        flags = ["--no-sandbox"] if getattr(os, "geteuid", lambda: 1)() == 0 else []
        chromium = driver.chromium.launch(executable_path=program, args=flags)
        sheet = chromium.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        sheet.emulate_media(media="print")
        sheet.goto(page.absolute().as_uri(), wait_until="load")
        sheet.evaluate(FIT_TABLES, [WIDTH, 0.7 * HEIGHT])
        sheet.pdf(
            path=path, prefer_css_page_size=True, print_background=True, outline=True, tagged=True
        )
        chromium.close()


if __name__ == "__main__":
    main()
