"""Leaves only the icons that the site shows in the icon library which the theme brings along.

The theme ships every Font Awesome icon, 1.5 MB of a page's first load, and shows some twenty.
"""

import re
from pathlib import Path

from repro.files import write_atomic

LIBRARY = Path("_static/scripts/fontawesome.js")
STYLES = Path("_static/styles/pydata-sphinx-theme.css")
# The letter of an icon in the icon font. A script draws the icons, and no such font is loaded.
LETTER = re.compile(r'(?:\.fa-[\w-]+:before,?)+\{content:"\\[0-9a-f]+"\}')
# An icon is `name: [width, height, [aliases], "code point", "path"]`; one in two tones has two.
ICON = re.compile(
    r'(?:"(?P<quoted>[\w-]+)"|(?P<plain>[\w$]+)):\[\d+,\d+,\[(?P<aliases>[^\]]*)\],"[0-9a-f]+",'
    r'(?:"[^"]*"|\["[^"]*","[^"]*"\])\],?'
)
NAMED = re.compile(r"\bfa-([a-z0-9]+(?:-[a-z0-9]+)*)")


def shrink(site: Path) -> None:
    """Rewrite the icon library and the theme's styles of a finished site."""
    library, styles = site / LIBRARY, site / STYLES
    if library.is_file():
        code = subset(library.read_text(encoding="utf-8"), names_in(site))
        write_atomic(library, code)
    if styles.is_file():
        write_atomic(styles, LETTER.sub("", styles.read_text(encoding="utf-8")))


def names_in(site: Path) -> set[str]:
    """Return the names of the icons that the pages and scripts of a site mention.

    Not the styles: the theme's name every icon.
    """
    texts = [path for path in site.rglob("*") if path.suffix in {".html", ".js"}]
    library_folder = site / LIBRARY
    return {
        name
        for path in texts
        if path != library_folder and "fontawesome" not in path.parts
        for name in NAMED.findall(path.read_text(encoding="utf-8", errors="replace"))
    }


def subset(library: str, names: set[str]) -> str:
    """Return the library's code with the icons of these names, or aliases, alone."""

    def wanted(icon: re.Match) -> str:
        aliases = set(re.findall(r'"([^"]+)"', icon["aliases"]))
        return icon[0] if names & {icon["quoted"] or icon["plain"], *aliases} else ""

    return ICON.sub(wanted, library)
