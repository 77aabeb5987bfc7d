"""The model switch: which models and pages it offers, where they lie, and how it is used."""

import re
from pathlib import Path

import nbformat
import pytest
from visit import Visit

from repro.book import execution, extension, model_pages
from repro.study import open_study

ROOT = Path(__file__).parents[2]
CELLS = """\
# %% [markdown]
# # A page
#
# See [another](02_two) and [the last](03_three).

# %% tags=["parameters"]
model = "default"
profile = "default"

# %%
print(model, profile)
"""
STEMS = ["05_restore", "06_tasks", "07_strategies", "09_layers", "10_claims", "12_exposure"]


@pytest.fixture
def books(tmp_path, monkeypatch):
    """Return a book of three small notebooks, and another model with two of them."""
    monkeypatch.setenv("REPRO_RESULTS", str(tmp_path / "results"))
    (tmp_path / "notebooks").mkdir()
    for name in ("01_one", "02_two", "03_three"):
        (tmp_path / f"notebooks/{name}.py").write_text(CELLS)
    own = execution.Book(tmp_path, "micro-m", "full")
    stems = ("01_one", "02_two")
    return own, execution.OtherModel(tmp_path, "smollm2-135m", "quick", stems)


def test_only_complete_models_and_pages_with_results_are_offered():
    found = model_pages.others(open_study("micro-m", "full"), STEMS)
    assert "micro-m" not in found and {"micro-s", "micro-l", "smollm2-135m"} <= set(found)
    assert found["micro-l"]["profile"] == "medium"  # of `full` it has mastery alone
    assert found["smollm2-135m"] == {"profile": "quick", "stems": ["05_restore", "06_tasks"]}
    assert found["micro-s"]["stems"] == [s for s in STEMS if s not in ("06_tasks", "10_claims")]
    assert set(model_pages.NEEDS) <= {s.stem for s in extension.chosen(ROOT).sources()}


def test_pages_of_other_models_lie_beside_and_link_to_each_other(books):
    own, other = books
    execution.refresh(own, lambda text: None, [other])
    one, _, three = own.sources()
    names = sorted(p.name for p in (own.root / "book/notebooks").iterdir())
    assert names == [
        *("01_one-smollm2-135m.ipynb", "01_one.ipynb"),
        *("02_two-smollm2-135m.ipynb", "02_two.ipynb", "03_three.ipynb"),
    ]
    page = nbformat.read(other.page(one), as_version=4)
    assert page.metadata["orphan"] and page.metadata["nosearch"]
    assert page.cells[-1].outputs[0].text == "smollm2-135m quick\n"
    text = page.cells[0].source
    assert text.startswith("# A page (smollm2-135m)\n")
    assert "](02_two-smollm2-135m)" in text and "](03_three)" in text
    mine = nbformat.read(own.page(one), as_version=4)
    assert "orphan" not in mine.metadata and "](02_two)" in mine.cells[0].source
    switches = [mine.cells[1].source, page.cells[1].source]
    links = [re.findall(r'href="([\w.-]+)"', switch) for switch in switches]
    assert links == [["01_one.html", "01_one-smollm2-135m.html"]] * 2
    current = [re.findall(r'href="([^"]+)"[^>]*aria-current="page"', text) for text in switches]
    assert current == [["01_one.html"], ["01_one-smollm2-135m.html"]]
    alone = nbformat.read(own.page(three), as_version=4)
    assert not [c for c in alone.cells if "model-switch" in c.source]


def test_a_model_that_is_offered_no_more_loses_its_pages(books):
    own, other = books
    execution.refresh(own, lambda text: None, [other])
    execution.refresh(own, lambda text: None)
    assert not list((own.root / "book/notebooks").glob("*-smollm2*"))


# --- the built site ---------------------------------------------------------------------------


@pytest.mark.browser
@pytest.mark.parametrize("how", ["served", "file"])
def test_the_switch_changes_the_model_and_keeps_the_page(site, address, browser, how):
    visit = Visit(browser, address if how == "served" else site.as_uri())
    page = visit.open("notebooks/05_restore.html")
    switch = page.get_by_role("navigation", name="Model", exact=True)
    assert switch.locator("[aria-current=page]").inner_text() == "micro-m"
    for link in switch.get_by_role("link").all()[1:]:
        title, target = link.inner_text(), link.get_attribute("href")
        assert (site / "notebooks" / target).is_file()
        link.focus()
        page.keyboard.press("Enter")
        page.wait_for_url(f"**/{target}")
        assert title in page.locator(".repro-findings").first.inner_text()
        assert switch.locator("[aria-current=page]").inner_text() == title
        foot = page.locator(".extra_footer").inner_text()
        assert f"Model {target[len('05_restore-') : -len('.html')]}," in foot
        page.go_back()
    assert visit.trouble == []


@pytest.mark.browser
def test_other_models_are_in_no_search_and_no_contents(site, address, browser):
    visit = Visit(browser, address)
    others = extension.other_models(extension.chosen(ROOT))
    stems = {other.page(source).stem for other in others for source in other.sources()}
    page = visit.open("index.html")
    links = page.eval_on_selector_all("nav.bd-links a", "all => all.map(a => a.pathname)")
    assert links and not [link for link in links if any(stem in link for stem in stems)]
    page = visit.open("search.html?q=restoration")
    finished = "/found \\d+ pages?/.test(document.querySelector('.search-summary')?.innerText)"
    page.wait_for_function(finished)
    found = page.eval_on_selector_all("#search-results li a", "all => all.map(a => a.pathname)")
    assert found and not [link for link in found if any(stem in link for stem in stems)]
