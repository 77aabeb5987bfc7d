"""The book: run `.py` notebooks through papermill, and feed what they show to Sphinx.

`repro.book.papermill_handler` lets papermill read the notebooks of this repository.
`repro.book.execution` executes what is missing or stale, `repro.book.pages` and
`repro.book.substitutions` write what must not be typed by hand, and `setup` joins them to Sphinx.
"""

from typing import Any

from repro.book.parameter_checks import check_parameters, fraction

__all__ = ["check_parameters", "fraction", "setup"]


def setup(app: Any) -> dict[str, bool]:
    """Register the Sphinx extension; Sphinx calls this once with its application."""
    # Imported here: papermill loads this package at every start and must not wait for Sphinx.
    from repro.book import extension

    return extension.setup(app)
