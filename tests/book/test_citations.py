"""Labels in the list of references."""

from pathlib import Path

from pybtex.database import parse_file, parse_string

from repro.book import citations

BOOK = Path(__file__).parents[2] / "book"
TWICE = """
@article{one, title={A}, author={Ada Lovelace}, year={1843}}
@article{two, title={B}, author={Ada Lovelace}, year={1843}}
@article{pair, title={C}, author={Kullback, S. and Leibler, R. A.}, year={1951}}
"""


def labels(database):
    return list(citations.AuthorYearLabels().format_labels(list(database.entries.values())))


def test_one_two_and_equal_labels():
    assert labels(parse_string(TWICE, "bibtex")) == [
        "Lovelace, 1843a",
        "Lovelace, 1843b",
        "Kullback and Leibler, 1951",
    ]


def test_the_book_cites_by_name_and_year():
    found = labels(parse_file(BOOK / "references.bib"))
    assert "Ye et al., 2025" in found and len(set(found)) == len(found) > 10


def test_the_style_is_found_by_its_name():
    from pybtex.plugin import find_plugin

    citations.register()
    assert find_plugin("pybtex.style.formatting", citations.NAME) is citations.AuthorYearStyle
