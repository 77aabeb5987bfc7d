"""The book's page on the tool shows what the real commands print."""

import json

import pytest

from repro import files
from repro.book import demonstration
from repro.book.execution import Book


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """Return a book of the page alone."""
    root = tmp_path_factory.mktemp("root")
    (root / "book").mkdir()
    (root / "book" / demonstration.PAGE).write_text("{{ tool.rank }}")
    return Book(root, "micro-m", "smoke")


@pytest.fixture(scope="module")
def shown(book):
    """Return what the page is given."""
    return demonstration.outputs(book)


def test_each_command_and_its_output_is_shown(shown):
    for name, command in demonstration.COMMANDS.items():
        assert shown[name].startswith(f"```text\n$ {command}\n")
        assert ("Error" in shown[name]) == (name == "again")
    assert "737,280 parameters in 28 tensors" in shown["rank"]
    assert "nothing written" in shown["dry"] and "written to restored" in shown["restore"]
    assert "restored/20/restore.json" in shown["files"]
    assert "model.safetensors.index.json" in shown["files"]


def test_what_was_shown_is_kept_until_something_changes(book, shown):
    record_path = book.root / "book" / "_executed" / "restore_tool.json"
    record = json.loads(record_path.read_text())
    record_path.write_text(json.dumps(record | {"outputs": {"rank": "kept"}}))
    assert demonstration.outputs(book) == {"rank": "kept"}


def test_the_page_uses_all_of_it(shown):
    text = (files.REPOSITORY / "book" / demonstration.PAGE).read_text()
    assert all(f"{{{{ tool.{name} }}}}" in text for name in shown)
