"""The site's icon library holds what the site shows, and little else."""

import importlib.util
from pathlib import Path

import pytest

from repro.book import icons


@pytest.fixture(scope="module")
def library():
    theme = Path(importlib.util.find_spec("pydata_sphinx_theme").origin).parent
    script = theme / "theme/pydata_sphinx_theme/static/scripts/fontawesome.js"
    return script.read_text(encoding="utf-8")


def test_what_is_named_is_kept_by_name_or_alias(library):
    smaller = icons.subset(library, {"search", "github", "bars"})
    names = {icon["quoted"] or icon["plain"] for icon in icons.ICON.finditer(smaller)}
    assert {"magnifying-glass", "github", "bars"} <= names
    assert len(names) == 3
    assert len(smaller) < len(library) / 5
    # The code around the icons is as it was.
    assert icons.ICON.sub("", smaller) == icons.ICON.sub("", library)


def test_names_are_those_of_the_pages(tmp_path):
    (tmp_path / "index.html").write_text('<i class="fa-solid fa-circle-half-stroke"></i>')
    (tmp_path / "_static/scripts").mkdir(parents=True)
    (tmp_path / icons.LIBRARY).write_text('"fa-not-shown"')
    (tmp_path / "_static/a.js").write_text('e.classList.add("fa-spinner")')
    assert icons.names_in(tmp_path) == {"solid", "circle-half-stroke", "spinner"}


def test_a_site_is_shrunk_in_place(tmp_path, library):
    for file in (icons.LIBRARY, icons.STYLES):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "index.html").write_text('<i class="fa-solid fa-bars"></i>')
    (tmp_path / icons.LIBRARY).write_text(library, encoding="utf-8")
    rule = '.fa-crop:before{content:"\\f125"}.fa-a:before,.fa-b:before{content:"\\f103"}'
    (tmp_path / icons.STYLES).write_text("p{color:red}" + rule + ".fa-lg{aspect-ratio:1/1}")
    icons.shrink(tmp_path)
    assert (tmp_path / icons.STYLES).read_text() == "p{color:red}.fa-lg{aspect-ratio:1/1}"
    assert (tmp_path / icons.LIBRARY).stat().st_size < 100_000
