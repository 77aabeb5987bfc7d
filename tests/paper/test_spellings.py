"""How many facts a special space, dash or apostrophe concerns, as the page on decisions says."""

import re
from pathlib import Path

from repro import paper
from repro.data import facts

PAGE = Path(__file__).resolve().parents[2] / "book" / "decisions.md"


def test_the_page_says_how_many_facts_have_special_characters(real_data):
    names = facts.load(real_data)["object"]
    special = names.map(lambda name: paper.plain(name) != name)
    marks = set(" -'")
    possible = names.map(lambda name: bool(marks & set("".join(paper.names(name)))))
    counts = len(names), special.sum(), (special | possible).sum()
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    numbers = re.search(r"Of the ([\d,]+) facts .*?, ([\d,]+) have a name.*?for ([\d,]+) a", text)
    assert [int(number.replace(",", "")) for number in numbers.groups()] == list(counts)
