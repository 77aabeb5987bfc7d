"""The Sphinx extension: run what is missing, write what is computed, bring MathJax along."""

import shutil
from importlib import resources
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util import logging

from repro.book import execution, pages
from repro.errors import ReproError
from repro.models import registry
from repro.study import profiles

MATHJAX = "tex-svg-full.js"  # one file: it draws glyphs itself and needs no fonts

log = logging.getLogger(__name__)


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
        book = chosen(Path(app.srcdir).parent)
        execution.refresh(book, lambda text: log.info(text))
        config.myst_substitutions = pages.substitution_values(book)
    except ReproError as error:
        # Sphinx and jupyter-book would bury an exception in three traces.
        raise SystemExit(f"The book cannot be built: {error}") from None


def copy_mathjax(app: Sphinx) -> None:
    """Put MathJax among the site's own files, so that formulas need no network."""
    if app.builder.format == "html":
        folder = Path(app.outdir) / "_static" / "mathjax"
        folder.mkdir(parents=True, exist_ok=True)
        with resources.as_file(resources.files("mathjax") / "static/mathjax/es5" / MATHJAX) as file:
            shutil.copyfile(file, folder / MATHJAX)


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
    app.connect("config-inited", prepare, priority=100)
    app.connect("builder-inited", copy_mathjax)
    app.connect("html-page-context", drop_live_code, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
