"""The built site, in a real browser without a network; `make test-site` runs these."""

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urljoin

import axe
import nbformat
import pytest
from visit import Visit

from repro.book import extension
from repro.models import registry, weights

ROOT = Path(__file__).parents[2]
COMMAND = str(Path(sys.executable).with_name("jupyter-book"))
REMOTE = re.compile(r"""<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=["'](?:https?:)?//""")
pytestmark = pytest.mark.site


def html_pages(site):
    """Return the pages of the book, and of the other models the pages of one."""
    pages = {p for p in site.rglob("*.html") if "_static" not in p.parts}
    *most, _ = extension.models_beside(extension.chosen(ROOT))
    return sorted(pages - {html_page(site, other, s) for other in most for s in other.sources()})


def html_page(site, book, source):
    return site / "notebooks" / f"{book.page(source).stem}.html"


def one_of_each(site):
    """Return every page of the contents, and of other models one page for each notebook."""
    of_contents = set(re.findall(r"(?:file|root): (\S+)", (ROOT / "_toc.yml").read_text()))
    kept = {}
    for path in html_pages(site):
        name = path.relative_to(site).with_suffix("").as_posix()
        of_other_model = name.startswith("notebooks/") and name not in of_contents
        kept.setdefault(f"other {path.name[:2]}" if of_other_model else name, path)
    return kept.values()


def published():
    chosen = extension.chosen(ROOT)
    return [(source, chosen.page(source)) for source in chosen.sources()]


def test_second_build_runs_nothing(site):
    words = [COMMAND, "build", "book/", "-W", "--keep-going"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and ": running on" not in done.stdout


def test_every_code_page_has_output(site):
    for source, page in published():
        cells = [c for c in nbformat.read(page, as_version=4).cells if c.cell_type == "code"]
        outputs = [output for cell in cells for output in cell.outputs]
        assert not [o for o in outputs if o.output_type == "error"], source
        text = (site / "notebooks" / f"{source.stem}.html").read_text()
        shown = text.count('class="cell_output')
        assert shown >= sum(any(o.output_type != "stream" for o in c.outputs) for c in cells) > 0
        assert "<table" in text or "<img" in text, source


def test_every_page_of_the_contents_is_built(site):
    named = re.findall(r"(?:file|root): (\S+)", (ROOT / "_toc.yml").read_text())
    assert [name for name in named if not (site / f"{name}.html").is_file()] == []
    assert {f"notebooks/{source.stem}" for source, _ in published()} <= set(named)


def test_nothing_is_left_unfilled(site):
    left = re.compile(r"\{\{ *[\w.]+ *\}\}")
    assert [page.name for page in html_pages(site) if left.search(page.read_text())] == []


def test_no_page_names_a_remote_file(site):
    assert [page.name for page in html_pages(site) if REMOTE.search(page.read_text())] == []
    styles = [path.read_text() for path in site.rglob("*.css")]
    assert not [s for s in styles if re.search(r"""(?:url\(|@import )["']?(?:https?:)?//""", s)]


def test_the_status_page_compares_with_the_paper(site):
    text = (site / "status.html").read_text()
    for word in ("Paper", "Ours", "Difference"):
        assert f"<th>{word}</th>" in text
    assert text.count("<code>papermill notebooks/") >= 5


def test_the_front_page_has_three_cards_with_every_model(site):
    text = (site / "index.html").read_text()
    assert text.count('class="claim-card"') == 3
    assert text.count("(paper)") == 3 and "micro-m" in text
    assert "https://arxiv.org/abs/2509.16596" in text and "@inproceedings" in text
    assert "og:description" in text and "favicon.svg" in text and "Model micro-m" in text


def test_claims_tools_and_citation_are_one_click_from_every_page(site):
    for path in html_pages(site):
        text, own = path.read_text(), path.relative_to(site).as_posix()
        links = set(re.findall(r'<p class="shortcuts">(.*?)</p>', text))
        assert len(links) == 1, path.name
        addresses = re.findall(r'href="([^"]*)"', links.pop())
        reached = {urljoin(own, "" if address == "#" else address) for address in addresses}
        for name, part in (("notebooks/10_claims.html", ""), ("index.html", "#what-we-add")):
            assert f"{name}{part}" in reached, own
        assert 'class="pdf-link"' in text


def test_the_text_and_the_list_cite_alike(site):
    assert ">2025</a>]" in (site / "introduction.html").read_text()
    text = re.sub("<[^>]*>", "", (site / "references.html").read_text())
    assert "[Ye et al., 2025]" in text and "[YYN" not in text


def test_the_front_page_is_light(site):
    """Counted are the page and what it loads: scripts, styles, images."""
    text = (site / "index.html").read_text()
    named = set(re.findall(r"""(?:src|href)=["']([^"'#?]+\.(?:js|css|svg|png))""", text))
    sizes = {name: (site / name).stat().st_size for name in named if (site / name).is_file()}
    assert len(sizes) > 5 and not [name for name in sizes if "mathjax" in name]
    assert len(text.encode()) + sum(sizes.values()) < 700_000, sizes


def test_no_page_weighs_more_than_two_megabytes(site):
    """Not counted are scripts and styles that all pages share, and the data that a page offers."""
    without = {p: re.sub(r'href="data:[^"]*"', "", p.read_text()) for p in html_pages(site)}
    assert [path.name for path, text in without.items() if len(text.encode()) > 2_000_000] == []


def test_status_names_every_notebook(site):
    text = (site / "status.html").read_text()
    assert [source for source, _ in published() if source.name not in text] == []
    assert weights.weights_id(registry.entry()) in text


@pytest.mark.browser
def test_pages_work_without_a_network(site, address, browser):
    visit, formulas, figures = Visit(browser, address), 0, 0
    for path in html_pages(site):
        page = visit.open(path.relative_to(site).as_posix())
        math = page.eval_on_selector_all(
            ".math", "all => all.map(m => !!m.querySelector('mjx-container svg'))"
        )
        assert all(math), f"{path.name}: a formula is not drawn"
        assert page.locator("mjx-merror, [data-mml-node=merror]").count() == 0, path.name
        drawn = "all => all.map(i => i.naturalWidth ?? i.getBoundingClientRect().width)"
        widths = page.eval_on_selector_all(
            "article img, article figure.repro-figure svg:visible", drawn
        )
        assert all(widths), f"{path.name}: a figure is not drawn"
        formulas, figures = formulas + len(math), figures + len(widths)
    assert visit.trouble == []
    assert formulas > 20 and figures >= 5


@pytest.mark.browser
def test_search_finds_restoration(address, browser):
    visit = Visit(browser, address)
    page = visit.open("search.html?q=restoration")
    finished = "/found \\d+ pages?/.test(document.querySelector('.search-summary')?.innerText)"
    page.wait_for_function(finished)  # results come one by one
    paths = page.eval_on_selector_all("#search-results li a", "all => all.map(a => a.pathname)")
    assert {"/parameter_level.html", "/notebooks/05_restore.html"} <= set(paths)
    assert visit.trouble == []


@pytest.mark.browser
def test_opened_as_a_file(site, browser):
    visit = Visit(browser, site.as_uri())
    page = visit.open("parameter_level.html")
    assert page.locator("mjx-container svg").count() > 0
    assert visit.trouble == []


# What a reader can use, on the site as it is served and as it lies in a folder.
HOW = pytest.mark.parametrize("how", ["served", "file"])


@pytest.fixture
def visit(site, address, browser, how):
    """Return a visit to the site; at its end nothing may have failed, nor left the site."""
    visit = Visit(browser, address if how == "served" else site.as_uri())
    yield visit
    visit.page.context.close()
    assert visit.trouble == []


@pytest.mark.browser
@HOW
def test_tabs_show_one_table_at_a_time(visit):
    page = visit.open("notebooks/03_levels.html")
    tabs = page.locator(".repro-tabs")
    assert tabs.count() > 0
    for group in tabs.all():
        panels, labels = group.locator("> .panel"), group.locator("> label").all()
        assert len(labels) == panels.count() > 1
        shown = set()
        for place, label in enumerate(labels):
            label.click()
            visible = [panel.is_visible() for panel in panels.all()]
            assert visible == [number == place for number in range(len(labels))]
            shown.add(panels.nth(place).inner_text())
        assert len(shown) == len(labels)  # each has something of its own
        page.keyboard.press("ArrowLeft")
        assert panels.nth(len(labels) - 2).is_visible()


@pytest.mark.browser
@HOW
def test_code_is_folded_until_a_reader_unfolds_it(visit):
    page = visit.open("notebooks/05_restore.html")
    folded = page.locator("article details.hide")
    assert folded.count() > 3
    for each in folded.all():
        assert not each.locator(".cell_input").is_visible()
    assert page.locator(".cell_input:visible").count() == 0
    folded.first.locator("summary").click()
    assert "open_study" in page.locator(".cell_input:visible").inner_text()
    command = page.locator("details.sd-dropdown", has_text="Run this page")
    assert not command.locator("pre").is_visible()
    command.locator("summary").click()
    assert command.locator("pre").inner_text().startswith("papermill notebooks/05_restore.py")


@pytest.mark.browser
@HOW
def test_figures_and_their_ground_change_colours_in_the_dark(visit):
    page = visit.open("notebooks/05_restore.html")
    seen = {}
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.wait_for_function(
            "scheme => document.documentElement.dataset.theme === scheme", arg=scheme
        )
        seen[scheme] = page.evaluate(FIGURE_COLOURS)
    assert len(seen["light"]) == len(seen["dark"]) > 2
    for light, dark in zip(seen["light"], seen["dark"], strict=True):
        assert light["ground"] != dark["ground"] and light["texts"] != dark["texts"]
        assert light["faintest"] >= 4.5 and dark["faintest"] >= 4.5


# Of each figure: the page's ground, the colours of its text, and the lowest contrast between them.
FIGURE_COLOURS = """() => {
  const parse = c => c.match(/[\\d.]+/g).map(Number);
  const light = c => parse(c).slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = getComputedStyle(document.body).backgroundColor;
  const contrast = c => {
    const [a, b] = [light(c), light(ground)].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  };
  return [...document.querySelectorAll("figure.repro-figure svg")].map(svg => {
    const texts = [...svg.querySelectorAll("text")].map(e => getComputedStyle(e).fill);
    return {ground, texts, faintest: Math.min(...texts.map(contrast))};
  });
}"""


@pytest.mark.browser
@HOW
@pytest.mark.parametrize("model", ["", "-micro-s", "-smollm2-135m"])
def test_the_explorer_follows_its_slider(visit, model):
    page = visit.open(f"notebooks/05_restore{model}.html")
    slider = page.get_by_role("slider", name="Share of the parameters that is set back")
    slider.focus()
    page.keyboard.press("Home")
    parts = ("p.says", "tr[aria-current] th", ".moving", "figure.restored .kept")
    states = []
    for _ in range(int(slider.get_attribute("max")) + 1):
        states.append(
            page.eval_on_selector_all(
                ", ".join(f".repro-explorer {part}" for part in parts),
                "all => all.map(e => e.getAttribute('transform') ?? e.getAttribute('d')"
                " ?? e.textContent)",
            )
        )
        page.keyboard.press("ArrowRight")
    assert len(states) > 3
    for part in zip(*states, strict=True):
        assert len(set(part)) == len(states)  # every part of it moves with every step


@pytest.mark.browser
@HOW
def test_the_chosen_claims_are_in_the_address(visit):
    page = visit.open("notebooks/10_claims.html")
    rows = page.locator("details.claim:visible")
    total = rows.count()
    page.locator('input[name="verdict"][value="all"]').focus()
    page.keyboard.press("ArrowRight")
    few = rows.count()
    assert 0 < few < total and "verdict=holds" in page.url
    page.reload()
    assert rows.count() == few
    page.get_by_role("button", name="Show all").click()
    assert rows.count() == total


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_legible_at_phone_width(site, address, browser, scheme):
    size = {"width": 390, "height": 844}
    visit = Visit(browser, address, viewport=size, color_scheme=scheme)
    for path in html_pages(site):
        page = visit.open(path.relative_to(site).as_posix())
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path.name
        assert page.evaluate("document.documentElement.dataset.theme") == scheme
        faint = page.evaluate(FAINT)
        assert faint == [], path.name


# Text whose contrast with the ground it stands on is below 3:1 (WCAG 2, large text).
FAINT = """() => {
  const parse = c => c.match(/[\\d.]+/g).map(Number);
  const light = c => c.slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = element => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor), a = c[3] ?? 1;
      if (a > 0) layers.push([c, a]);
      if (a === 1) break;
    }
    return layers.reverse().reduce(
      (below, [c, a]) => below.map((v, i) => a * c[i] + (1 - a) * v), [255, 255, 255]);
  };
  return [...document.querySelectorAll("article p, article td, article th, article pre, article a")]
    .filter(e => e.innerText?.trim() && e.offsetParent)
    .filter(e => {
      const [a, b] = [parse(getComputedStyle(e).color), ground(e)].map(light).sort((x, y) => y - x);
      return (a + 0.05) / (b + 0.05) < 3;
    })
    .map(e => e.innerText.trim().slice(0, 40));
}"""


@pytest.mark.browser
def test_every_page_can_be_used_by_all(site, address, browser):
    """By axe-core's rules, wide and narrow; in the dark, where only colours differ, by contrast."""
    visit, script, found = Visit(browser, address), axe.script(), {}
    for path in one_of_each(site):
        name = path.relative_to(site).as_posix()
        visit.page.emulate_media(color_scheme="light")
        page = visit.open(name)
        page.evaluate(script)
        for width in (1400, 390):
            page.set_viewport_size({"width": width, "height": 900})
            page.wait_for_timeout(450)  # the theme looks 300 ms after a resize what scrolls now
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)
                page.wait_for_function(
                    "scheme => document.documentElement.dataset.theme === scheme", arg=scheme
                )
                if hits := axe.violations(page, contrast_only=scheme == "dark"):
                    found[f"{name}, {width} pixels, {scheme}"] = hits
    assert found == {}


@pytest.mark.browser
def test_axe_finds_what_is_wrong(browser):
    """A page with three faults; the search button of the theme is not counted."""
    page = Visit(browser, "about:blank").page
    page.set_content(
        '<html lang="en"><title>A page</title><main><h1>A page</h1><img src="data:,">'
        '<p style="color:#bbb;background:#fff">faint</p><h4>Too deep</h4>'
        '<button class="search-button-field" aria-label="Search">Find</button></main></html>'
    )
    page.evaluate(axe.script())
    rules = {hit.partition(":")[0] for hit in axe.violations(page)}
    assert rules == {"image-alt", "color-contrast", "heading-order"}
