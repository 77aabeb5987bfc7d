"""The whole book as one HTML page for print, made from the pages of the built site.

Parts that are useful only on a screen are removed: navigation, folded code, buttons, downloads.
Links between pages become links within the page, so they work in a PDF too.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path, PurePosixPath
from posixpath import normpath
from urllib.parse import urlsplit

from bs4 import BeautifulSoup, Tag

from repro.errors import ConfigError

# CSS selectors of parts that are useful only on a screen: `hide` is folded code, `fine` a download
# or a box.
# The rows of a claim, hundreds of comparisons each, would be half of all pages of the PDF.
SCREEN_ONLY = (
    "script, noscript, .headerlink, details.hide, .cell_input, .pdf-link, .no-print, form, button,"
    " .repro-table .fine, input, .repro-tabs > label, .copybtn, .sd-summary-state-marker,"
    " .repro-claims .rows"
)
RUN_THIS_PAGE = "Run this page"
HEADING = re.compile(r"h[1-6]")
# Attributes that hold the id of another element of the same page.
ID_LISTS = ("for", "headers", "aria-labelledby", "aria-describedby")
STYLES = ("pygments.css", "sphinx-design.min.css", "book.css")  # of the site


@dataclass(frozen=True)
class Chapter:
    """A page of the book: its address in the site, title, depth in the contents, and part."""

    address: str
    title: str
    depth: int
    part: str

    @property
    def anchor(self) -> str:
        """Return the id of the page within the one page."""
        return re.sub(r"[^a-z0-9]+", "-", self.address.removesuffix(".html").lower())


def contents(site: Path) -> list[Chapter]:
    """Return the pages of a built site in the order of its table of contents, without the front.

    Raises:
        ConfigError: there is no site.
    """
    front = site / "index.html"
    if not front.is_file():
        raise ConfigError(f"there is no site at {site}: build it first, with `make book`")
    navigation = _read(front).select_one("nav.bd-links")
    chapters, part = [], ""
    for element in navigation.select("p.caption, a.reference.internal"):
        if element.name == "p":
            part = element.get_text(strip=True)
            continue
        item = element.find_parent("li")
        (level,) = (name for name in item["class"] if name.startswith("toctree-l"))
        depth = int(level.removeprefix("toctree-l"))
        chapters.append(Chapter(element["href"], element.get_text(strip=True), depth, part))
    return chapters


def assemble(site: Path, static: str) -> str:
    """Return the book as one HTML page; `static` is the address of the site's `_static` from it."""
    chapters = contents(site)
    anchors = {chapter.address: chapter.anchor for chapter in chapters} | {"index.html": "front"}
    styles: set[str] = set()
    front = _chapter(site, Chapter("index.html", "", 1, ""), anchors, styles)
    bodies = [_chapter(site, chapter, anchors, styles) for chapter in chapters]
    index = _read(site / "index.html")
    title = index.select_one("article h1").find(string=True).strip()
    foot = index.select_one(".extra_footer > p:not(.shortcuts)")
    body = f"{front}{foot or ''}{_table_of_contents(chapters)}{''.join(bodies)}"
    return (
        f'<!DOCTYPE html><html lang="en" data-theme="light">{_head(site, static, title)}'
        f'<body class="bd-article">{body}</body></html>'
    )


def _head(site: Path, static: str, title: str) -> str:
    """Return the head of the page: title, style sheets of the site and of print, and MathJax."""
    links = "".join(
        f'<link rel="stylesheet" href="{static}/{name}"/>'
        for name in STYLES
        if (site / "_static" / name).is_file()
    )
    return (
        f'<head><meta charset="utf-8"/><title>{escape(title)}</title>{links}'
        f"<style>{Path(__file__).with_name('print.css').read_text(encoding='utf-8')}</style>"
        '<script>window.MathJax = {options: {processHtmlClass: "math"}}</script>'
        f'<script defer src="{static}/mathjax/tex-svg-full.js"></script></head>'
    )


def _read(page: Path) -> BeautifulSoup:
    return BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")


def _table_of_contents(chapters: list[Chapter]) -> str:
    lines, part = [], ""
    for chapter in chapters:
        if chapter.part != part:
            part = chapter.part
            lines.append(f'<p class="part">{escape(part)}</p>')
        link = f'<a href="#{chapter.anchor}">{escape(chapter.title)}</a>'
        lines.append(f'<p class="depth{chapter.depth}">{link}</p>')
    return f'<nav class="print-contents"><h1>Contents</h1>{"".join(lines)}</nav>'


def _chapter(site: Path, chapter: Chapter, anchors: dict[str, str], styles: set[str]) -> str:
    """Return the article of one page for the one page; `styles` are those that it already has."""
    article = _read(site / chapter.address).select_one("article")
    _drop_screen_only(article)
    _drop_known_styles(article, styles)
    _rename_ids(article, chapter.anchor if chapter.title else "front")
    _turn_links(article, chapter, anchors)
    _lower_headings(article, chapter.depth - 1)
    for folded in article.select("details"):
        folded["open"] = ""
    start = f'<section class="chapter depth{chapter.depth}" id="{anchors[chapter.address]}">'
    return f"{start}{article.decode_contents()}</section>"


def _drop_screen_only(article: Tag) -> None:
    """Remove the parts of an article that are useful only on a screen, and empty cells."""
    for folded in article.select("details.sd-dropdown"):
        if RUN_THIS_PAGE in folded.summary.get_text():
            folded.decompose()
    for element in article.select(SCREEN_ONLY):
        if not element.decomposed:
            element.decompose()
    # A cell of code that showed nothing leaves an empty box.
    for cell in article.select("div.cell"):
        if not cell.get_text(strip=True) and not cell.select("svg, img, table"):
            cell.decompose()


def _drop_known_styles(article: Tag, styles: set[str]) -> None:
    """Remove each style sheet that an earlier table or figure already has."""
    for sheet in article.select("style"):
        text = sheet.get_text()
        if text in styles:
            sheet.decompose()
        styles.add(text)


def _rename_ids(article: Tag, anchor: str) -> None:
    """Put the anchor of the page before every id that is a target of links, to make them unique.

    Ids within drawings, and ids of tables and tabs that style sheets use, are made from their
    content and do not change.
    """
    for element in _with_own_ids(article):
        element["id"] = f"{anchor}--{element['id']}"
    for name in ID_LISTS:
        for element in article.select(f"[{name}]"):
            del element[name]


def _with_own_ids(article: Tag) -> Iterator[Tag]:
    for element in article.select("[id]"):
        in_table = str(element["id"]).startswith(("T_", "tabs-"))
        if not in_table and element.find_parent("svg") is None and element.name != "svg":
            yield element


def _turn_links(article: Tag, chapter: Chapter, anchors: dict[str, str]) -> None:
    """Turn links between pages into links within the page; keep remote ones, remove all others."""
    folder = PurePosixPath(chapter.address).parent
    for link in article.select("a[href]"):
        parts = urlsplit(link["href"])
        if parts.scheme in ("http", "https", "mailto"):
            continue
        page = normpath(str(folder / parts.path)) if parts.path else chapter.address
        if page not in anchors:
            link.unwrap()
            continue
        anchor = anchors[page]
        link["href"] = f"#{anchor}--{parts.fragment}" if parts.fragment else f"#{anchor}"
    for picture in article.select("img[src]"):
        if not urlsplit(picture["src"]).scheme:
            picture["src"] = "../html/" + normpath(str(folder / picture["src"]))


def _lower_headings(article: Tag, steps: int) -> None:
    """Lower the headings of a page, so that the outline of the PDF has the order of the book."""
    for heading in article.find_all(HEADING):
        heading.name = f"h{min(6, int(heading.name[1]) + steps)}"
