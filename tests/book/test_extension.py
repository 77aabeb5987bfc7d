"""The Sphinx extension: which book is built, from where."""

from pathlib import Path

import pytest

from repro.book import execution, extension
from repro.errors import ReproError
from repro.models import registry
from repro.study import profiles

ROOT = Path(__file__).parents[2]


def test_a_book_is_built_for_the_models_own_profile(monkeypatch):
    for name in ("REPRO_MODEL", "REPRO_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    assert extension.chosen(ROOT) == execution.Book(ROOT, "micro-m", registry.entry().profile)
    monkeypatch.setenv("REPRO_MODEL", "smollm2-135m")
    assert extension.chosen(ROOT) == execution.Book(ROOT, "smollm2-135m", profiles.DEFAULT_PROFILE)
    monkeypatch.setenv("REPRO_PROFILE", "smoke")
    assert extension.chosen(ROOT) == execution.Book(ROOT, "smollm2-135m", "smoke")


@pytest.fixture
def root(tmp_path):
    """Return the folder of a repository with one notebook and no book yet."""
    (tmp_path / "notebooks").mkdir()
    return tmp_path


@pytest.mark.parametrize("folder", ["book", "book/notebooks"])
def test_the_repository_is_found_from_a_book_and_from_a_page(root, folder):
    (root / folder).mkdir(parents=True)
    assert extension.root_of(root / folder) == root


def test_the_repository_itself_is_no_book(root):
    (root / "book").mkdir()
    with pytest.raises(ReproError, match="the pages are in the folder book/"):
        extension.root_of(root)
