"""The Sphinx extension: runs the notebooks, fills in computed text, and adds MathJax."""

import json
import os
import re
import shutil
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util import logging

from repro import provenance
from repro.book import citations, dependencies, execution, icons, other_models, pdf
from repro.errors import ConfigError, ReproError
from repro.files import write_atomic
from repro.models import registry
from repro.study import profiles

CARD = "_static/book.png"  # shown beside a link to the site
MATHJAX = "tex-svg-full.js"  # one file: it draws glyphs itself and needs no fonts

SEARCH_SCRIPT = re.compile(
    r'\s*<script src="(?:\.\./)*(?:_static/)?'
    r'(?:searchtools|language_data|searchindex)\.js"></script>'
)

DESCRIPTION = (
    "Every table and figure of an EMNLP 2025 paper on fine-tuning and model knowledge, repeated"
    " on several models, with the code that made them."
)

# On every page: where a reader goes first, whatever page a search has brought them to.
SHORTCUTS = {
    "every claim, checked": "notebooks/10_claims",
    "what we add": "index#what-we-add",
    "use it on your models": "index#use-it-on-your-models",
    "how to cite": "index#how-to-cite",
}

log = logging.getLogger(__name__)


def root_of(folder: Path) -> Path:
    """Return the repository's folder: the nearest one above that has the notebooks and the book.

    A page that is built alone, such as book/notebooks/05_restore.ipynb, lies deeper than the book.

    Raises:
        ConfigError: there is none, or it is the folder that is built.
    """
    for place in folder.parents:
        if (place / "notebooks").is_dir() and (place / "book").is_dir():
            return place
    raise ConfigError(f"the pages are in the folder book/: jupyter-book build {folder / 'book'}")


def computed_text(book: execution.Book) -> dict[str, object]:
    """Return the value of every `{{ name }}` of the pages, computed again only after a change."""
    code = dependencies.files_of(Path(__file__).with_name("pages.py"))
    tool_page = book.root / "book" / "restore_tool.md"
    from_records = [*code, *execution.result_files(), *filter(Path.is_file, [tool_page])]
    executed = [book.executed(source) for source in book.sources()]
    return {
        **_stored_or_computed(book, "values_from_records", from_records),
        **_stored_or_computed(book, "values_from_runs", [*code, *executed]),
    }


def models_beside(book: execution.Book) -> list[execution.OtherModel]:
    """Return the models with complete committed records, and which pages show results of them."""
    code = dependencies.files_of(Path(__file__).with_name("model_pages.py"))
    inputs = [*code, *execution.result_files(), *book.sources()]
    models = _stored_or_computed(book, "other_models", inputs)
    return [
        execution.OtherModel(book.root, name, shown["profile"], tuple(shown["stems"]))
        for name, shown in models.items()
    ]


def _stored_or_computed(book: execution.Book, name: str, inputs: list[Path]) -> dict[str, Any]:
    """Return the result of the function `name` of `pages`, from disk if its inputs are the same."""
    stored = book.root / "book" / "_executed" / book.name / f"{name}.json"
    stamp = f"{book.parameters()} {dependencies.content_hash(inputs)}"
    record = json.loads(stored.read_text(encoding="utf-8")) if stored.is_file() else {}
    if record.get("stamp") == stamp:
        return record["values"]
    # Imported on use: it loads pandas and PyTorch, and a book without a change needs neither.
    from repro.book import pages

    values = getattr(pages, name)(book)
    write_atomic(stored, json.dumps({"stamp": stamp, "values": values}, ensure_ascii=False))
    return values


def chosen(root: Path) -> execution.Book:
    """Return what to build: `REPRO_MODEL` and `REPRO_PROFILE`, else the defaults.

    A profile that is not named is the model's own.
    """
    model = registry.entry()
    profile = profiles.profile(model_profile=model.profile)
    return execution.Book(root, str(model.folder or model.name), profile.name)


def prepare(app: Sphinx, config: Config) -> None:
    """Before Sphinx reads a page: run the notebooks, then fill in the computed text."""
    try:
        book = chosen(root_of(Path(app.srcdir)))
        others = models_beside(book)
        execution.refresh(book, lambda text: log.info(text), others)
        config.myst_substitutions = computed_text(book)
        config.html_theme_options["extra_footer"] = footer(book)
        config.html_baseurl = site_address()
        config.html_context[other_models.PAGES] = other_models.described(others, footer)
    except ReproError as error:
        # Sphinx and jupyter-book would bury an exception in three traces.
        raise SystemExit(f"The book cannot be built: {error}") from None


def site_address() -> str:
    """Return the address that the site will be served under (REPRO_SITE), empty if it is not set.

    Raises:
        ConfigError: it is not a web address.
    """
    address = os.environ.get("REPRO_SITE", "")
    if not address:
        return ""
    if not re.fullmatch(r"https?://[^\s\"'<>]+", address):
        raise ConfigError(
            f"REPRO_SITE is {address!r}: give an address such as https://site.org/book/"
        )
    return address.rstrip("/") + "/"


def footer(book: execution.Book) -> str:
    """Return the foot of every page: what it was built from, its licence, the paper."""
    commit = (provenance.git_commit() or "")[:10]
    built = f" Built from commit <code>{commit}</code>." if commit else ""
    run = max(execution.run_date(book, source) for source in book.sources())
    return (
        f"<p>Model {escape(book.name)}, profile {escape(book.profile)}, run on {run}.{built}"
        " Text CC BY 4.0, code MIT."
        ' <a href="https://arxiv.org/abs/2509.16596">The paper</a>: cite it for its findings.'
        "</p>"
    )


def add_shortcuts(app: Sphinx, page: str, template: str, context: dict, doctree: Any) -> None:
    """Add links to the pages that readers look for, and to the PDF if it exists, to the foot."""
    pathto = context["pathto"]
    links = []
    for text, place in SHORTCUTS.items():
        name, _, part = place.partition("#")
        address = pathto(name) if name != page else ""
        links.append(f'<a href="{address}{"#" * bool(part or not address)}{part}">{text}</a>')
    links.append('<span class="pdf-link"></span>')
    shortcuts = f'<p class="shortcuts">{" ".join(links)}</p>'
    context["theme_extra_footer"] = shortcuts + context.get("theme_extra_footer", "")


def describe(app: Sphinx, page: str, template: str, context: dict, doctree: Any) -> None:
    """Add the description that another site or a messenger shows with a link to this site.

    A picture needs a complete address, and only REPRO_SITE has the start of it.
    """
    title = escape(re.sub("<[^>]*>", "", context.get("title") or app.config.html_title or ""))
    tags = {"og:title": title, "og:description": DESCRIPTION, "og:type": "website"}
    if app.config.html_baseurl:
        tags["og:url"] = context.get("pageurl") or app.config.html_baseurl
        tags["og:image"] = app.config.html_baseurl + CARD
        tags["og:image:alt"] = "The front page: three claims of the paper, and what we measured"
    lines = [
        f'<meta property="{name}" content="{escape(str(text), quote=True)}" />'
        for name, text in tags.items()
    ]
    lines += [f'<meta name="description" content="{DESCRIPTION}" />']
    lines += ['<meta name="twitter:card" content="summary_large_image" />']
    context["metatags"] = context.get("metatags", "") + "\n" + "\n".join(lines)


def drop_unused_mathjax(app: Sphinx, page: str, template: str, context: dict, doctree: Any) -> None:
    """Load MathJax, the largest file of the site, only on pages with a formula."""
    if 'class="math' in context.get("body", "") or "$" in context.get("body", ""):
        return
    scripts = context.get("script_files", [])
    context["script_files"] = [
        script
        for script in scripts
        if "mathjax" not in f"{script.filename} {script.attributes.get('body')}".lower()
    ]


def drop_unused_cell_styles(
    app: Sphinx, page: str, template: str, context: dict, doctree: Any
) -> None:
    """Load the styles of notebook cells only on pages that have cells."""
    if 'class="cell' not in context.get("body", ""):
        styles = context.get("css_files", [])
        context["css_files"] = [each for each in styles if "mystnb" not in str(each.filename)]


def drop_search_scripts(app: Sphinx, exception: Exception | None) -> None:
    """Load the index of the search on its own page alone.

    The theme loads it on every page, for a search while typing, which this book does not have.
    """
    if exception is None and app.builder.format == "html":
        for path in Path(app.outdir).rglob("*.html"):
            text = path.read_text(encoding="utf-8")
            lighter = SEARCH_SCRIPT.sub("", text)
            if path.name != "search.html" and lighter != text:
                write_atomic(path, lighter)


def copy_mathjax(app: Sphinx) -> None:
    """Put MathJax among the site's own files, so that formulas need no network."""
    if app.builder.format == "html":
        folder = Path(app.outdir) / "_static" / "mathjax"
        folder.mkdir(parents=True, exist_ok=True)
        with resources.as_file(resources.files("mathjax") / "static/mathjax/es5" / MATHJAX) as file:
            shutil.copyfile(file, folder / MATHJAX)


def drop_unused_icons(app: Sphinx, exception: Exception | None) -> None:
    """Shrink the theme's icon library to what the finished site shows."""
    if exception is None and app.builder.format == "html":
        icons.shrink(Path(app.outdir))


def link_pdf(app: Sphinx, exception: Exception | None) -> None:
    """Let the pages link to the PDF that `make pdf` printed, if it was printed from these pages."""
    if exception is None and app.builder.format == "html":
        pdf.link(Path(app.outdir))


def drop_live_code(app: Sphinx, page: str, template: str, context: dict, doctree: Any) -> None:
    """Leave out jupyter-book's script for live code, which is off and names a remote host."""
    scripts = context.get("script_files", [])
    context["script_files"] = [
        script
        for script in scripts
        if "THEBE" not in (script.attributes.get("body") or "")
        and "sphinx-thebe" not in str(script.filename)
    ]


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect to Sphinx, before the table of contents and MyST are read."""
    citations.register()
    app.add_js_file(pdf.LINK_SCRIPT, loading_method="defer")
    app.connect("config-inited", prepare, priority=100)
    app.connect("config-inited", other_models.read_pages, priority=950)  # after the contents
    app.connect("builder-inited", copy_mathjax)
    app.connect("build-finished", drop_unused_icons)
    app.connect("build-finished", drop_search_scripts)
    app.connect("build-finished", link_pdf)
    app.connect("html-page-context", drop_live_code, priority=900)
    app.connect("html-page-context", drop_unused_mathjax, priority=901)
    app.connect("html-page-context", drop_unused_cell_styles, priority=902)
    app.connect("html-page-context", other_models.keep_model, priority=800)
    app.connect("html-page-context", describe, priority=902)
    app.connect("html-page-context", add_shortcuts, priority=903)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
