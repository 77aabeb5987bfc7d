"""What the pages of the book list."""

from repro import paper
from repro.book import pages


def test_every_topic_has_all_its_templates():
    for entry in paper.TOPICS.values():
        text = pages.topic(entry)
        assert text.count("\n1. ") == 21 and entry.question in text
