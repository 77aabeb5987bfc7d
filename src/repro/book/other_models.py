"""Tells Sphinx which pages of other models there are, and gives them their foot and sidebar.

The table of contents names only the pages of the book's own model, so the sidebar of a page of
another model would lead back to the first model. Here its links are changed to the pages of its own
model, where such pages exist.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config

from repro.book import execution

PAGES = "pages_of_other_models"  # name in `html_context`


def described(
    others: list[execution.OtherModel], footer: Callable[[execution.Book], str]
) -> dict[str, dict[str, Any]]:
    """Return the foot and the sidebar of every page of another model, by the page's name.

    The sidebar is {link that the table of contents has: link of the same model}.
    """
    pages = {}
    for other in others:
        text, sources = footer(other), other.sources()
        links = {f"{source.stem}.html": f"{other.page(source).stem}.html" for source in sources}
        for source in sources:
            page = f"notebooks/{other.page(source).stem}"
            pages[page] = {"footer": text, "links": links, "stands_for": f"{source.stem}.html"}
    return pages


def read_pages(app: Sphinx, config: Config) -> None:
    """Let Sphinx read the pages of the other models, which the table of contents does not name.

    The configuration excludes every such file. Those that are no page of the book stay excluded.
    """
    if (Path(app.srcdir) / "notebooks").is_dir():  # there is none if one page is built alone
        pages = {f"{name}.ipynb" for name in config.html_context.get(PAGES, ())}
        config.exclude_patterns = [name for name in config.exclude_patterns if name not in pages]


def keep_model(app: Sphinx, page: str, template: str, context: dict, doctree: Any) -> None:
    """Put the foot of its own model under a page of another model, and its own links beside it."""
    about = context.get(PAGES, {}).get(page)
    if about:
        context["theme_extra_footer"] = about["footer"]
        contents = context["generate_toctree_html"]
        context["generate_toctree_html"] = lambda *args, **options: _lead_on(
            contents(*args, **options), about
        )


def _lead_on(contents: Any, about: dict[str, Any]) -> Any:
    """Return the contents, a BeautifulSoup, with the links of a model and with its page marked.

    It is marked as the theme does it: the classes are `current` and `active`, and each part of the
    contents that contains the page is unfolded.
    """
    for link in contents.select("a[href]"):
        stands_for = link["href"] == about["stands_for"]
        link["href"] = about["links"].get(link["href"], link["href"])
        if stands_for:
            link["class"] = ["current", *link.get("class", [])]
            for above in link.find_parents(["li", "details"]):
                if above.name == "details":
                    above["open"] = "open"
                else:
                    above["class"] = [*above.get("class", []), "current", "active"]
    return contents
