"""The labels of the list of references: the name and year by which the text cites an entry.

sphinxcontrib-bibtex writes "Ye et al. [2025]" in the text, and its own list says "[YYN+25]".
"""

from collections import Counter
from collections.abc import Iterator

from pybtex.database import Entry
from pybtex.plugin import register_plugin
from pybtex.style.formatting.unsrt import Style
from pybtex.style.labels import BaseLabelStyle

NAME = "author_year"


class AuthorYearLabels(BaseLabelStyle):
    """Labels such as "Ye et al., 2025", with a letter where two would be the same."""

    def format_labels(self, sorted_entries: list[Entry]) -> Iterator[str]:
        """Yield the label of each entry, in their order."""
        labels = [label(entry) for entry in sorted_entries]
        total, seen = Counter(labels), Counter()
        for text in labels:
            letter = chr(ord("a") + seen[text]) if total[text] > 1 else ""
            seen[text] += 1
            yield text + letter


class AuthorYearStyle(Style):
    """The usual list of references, sorted by author and year, with author and year as labels."""

    default_sorting_style = "author_year_title"
    default_label_style = AuthorYearLabels


def label(entry: Entry) -> str:
    """Return one author, two with "and", or the first with "et al.", and the year."""
    names = [" ".join(person.last_names) for person in entry.persons.get("author", [])]
    who = names[0] + " et al." if len(names) > 2 else " and ".join(names)
    return ", ".join(filter(None, [who or entry.key, entry.fields.get("year")]))


def register() -> None:
    """Let `bibtex_default_style` find the style by its name."""
    register_plugin("pybtex.style.formatting", NAME, AuthorYearStyle)
