"""The model switch: which models and pages it offers, where they lie, and how it is used."""

import re
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from visit import Visit

from repro.book import execution, extension, model_pages, other_models
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
    assert found["smollm2-135m"]["profile"] == "real"  # the larger one; of `quick` it has Table 5
    without_mastery_by_exposure = [s for s in STEMS if s not in ("10_claims", "12_exposure")]
    assert found["smollm2-135m"]["stems"] == without_mastery_by_exposure
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


CONTENTS = """
<ul><li class="toctree-l1"><a class="reference internal" href="../setup.html">Setup</a>
<details><ul><li class="toctree-l2"><a class="reference internal" href="01_one.html">One</a></li>
<li class="toctree-l2"><a href="02_two.html">Two</a></li></ul></details></li>
<li class="toctree-l1"><a class="reference internal" href="03_three.html">Three</a></li></ul>
"""


def test_the_contents_beside_a_page_of_another_model_lead_to_its_pages(books):
    described = other_models.described([books[1]], lambda book: f"<p>{book.name}</p>")
    assert set(described) == {f"notebooks/{name}-smollm2-135m" for name in ("01_one", "02_two")}

    def contents():
        return BeautifulSoup(CONTENTS, "html.parser")

    context = {other_models.PAGES: described, "generate_toctree_html": contents}
    other_models.keep_model(None, "notebooks/02_two-smollm2-135m", "page.html", context, None)
    assert context["theme_extra_footer"] == "<p>smollm2-135m</p>"
    shown = context["generate_toctree_html"]()
    links = {link.get_text(): link["href"] for link in shown.select("a")}
    assert links == {
        "Setup": "../setup.html",
        "One": "01_one-smollm2-135m.html",
        "Two": "02_two-smollm2-135m.html",
        "Three": "03_three.html",  # of which the model has no page
    }
    assert [link.get_text() for link in shown.select("a.current")] == ["Two"]
    marked = shown.select("li.current.active")
    assert [item.find("a").get_text() for item in marked] == ["Setup", "Two"]
    assert shown.find("details")["open"] == "open"
    own = {other_models.PAGES: described, "generate_toctree_html": contents}
    other_models.keep_model(None, "notebooks/02_two", "page.html", own, None)
    assert own["generate_toctree_html"] is contents and "theme_extra_footer" not in own


# --- the built site ---------------------------------------------------------------------------


def check_sidebar(page, site, model):
    """Check that the contents lead to the pages of a model, which there are, and mark this one."""
    stems = {path.name[: -len(f"-{model}.html")] for path in site.glob(f"notebooks/*-{model}.html")}
    links = page.eval_on_selector_all("nav.bd-links a", "all => all.map(a => a.pathname)")
    here = {Path(link).stem for link in links if "/notebooks/" in link}
    assert {f"{stem}-{model}" for stem in stems} <= here and not stems & here
    assert all((site / "notebooks" / f"{stem}.html").is_file() for stem in here)
    current = page.locator("nav.bd-links a.current")
    assert current.count() == 1 and current.is_visible()
    assert current.evaluate("a => a.pathname") == page.evaluate("location.pathname")


@pytest.mark.site
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
        model = target[len("05_restore-") : -len(".html")]
        assert f"Model {model}," in foot
        check_sidebar(page, site, model)
        page.go_back()
    assert visit.trouble == []


@pytest.mark.site
@pytest.mark.browser
def test_other_models_are_in_no_search_and_no_contents(site, address, browser):
    visit = Visit(browser, address)
    others = extension.models_beside(extension.chosen(ROOT))
    stems = {other.page(source).stem for other in others for source in other.sources()}
    page = visit.open("index.html")
    links = page.eval_on_selector_all("nav.bd-links a", "all => all.map(a => a.pathname)")
    assert links and not [link for link in links if any(stem in link for stem in stems)]
    page = visit.open("search.html?q=restoration")
    finished = "/found \\d+ pages?/.test(document.querySelector('.search-summary')?.innerText)"
    page.wait_for_function(finished)
    found = page.eval_on_selector_all("#search-results li a", "all => all.map(a => a.pathname)")
    assert found and not [link for link in found if any(stem in link for stem in stems)]
