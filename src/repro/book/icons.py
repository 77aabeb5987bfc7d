"""Removes the icons that the site does not use from the icon library of the theme.

The theme loads every Font Awesome icon, 1.5 MB at the first page, and uses about twenty.
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

    The styles are not read, because those of the theme name every icon.
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
    """Return the code of the library with only the icons of these names or aliases."""

    def wanted(icon: re.Match) -> str:
        aliases = set(re.findall(r'"([^"]+)"', icon["aliases"]))
        return icon[0] if names & {icon["quoted"] or icon["plain"], *aliases} else ""

    return ICON.sub(wanted, library)
