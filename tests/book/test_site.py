"""The book: what is run and when, and the built site in a real browser without a network."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urljoin

import axe
import nbformat
import pytest
from small_notebook import CELLS
from visit import Visit

from repro import paper
from repro.book import atlas_pages, execution, extension, pages, substitutions
from repro.data import atlas
from repro.errors import ReproError
from repro.models import registry, weights
from repro.study import profiles

ROOT = Path(__file__).parents[2]
COMMAND = str(Path(sys.executable).with_name("jupyter-book"))
REMOTE = re.compile(r"""<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=["'](?:https?:)?//""")


@pytest.fixture
def book(tmp_path, monkeypatch):
    """Return a book of one small notebook in a folder of its own."""
    monkeypatch.setenv("REPRO_RESULTS", str(tmp_path / "results"))
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks/01_one.py").write_text(CELLS.format(code="print(model, profile)"))
    return execution.Book(tmp_path, "micro-m", "smoke")


def refresh(book):
    said = []
    execution.refresh(book, said.append)
    return [line for line in said if "running" in line]


def test_a_notebook_runs_once_and_is_published(book):
    (line,) = refresh(book)
    assert line == "[1/1] notebooks/01_one.py: running on micro-m, profile smoke ..."
    executed = nbformat.read(book.executed(book.sources()[0]), as_version=4)
    assert executed.cells[-1].outputs[0].text == "micro-m smoke\n"
    page = book.root / "book/notebooks/01_one.ipynb"
    note = nbformat.read(page, as_version=4).cells[1].source
    assert "papermill notebooks/01_one.py -p model micro-m -p profile smoke" in note
    before = page.stat().st_mtime_ns
    assert refresh(book) == []
    assert page.stat().st_mtime_ns == before


def test_what_makes_a_notebook_stale(book):
    (source,) = book.sources()
    stamps = {execution.digest(book, source)}
    source.write_text(CELLS.format(code="from repro.report import tasks"))
    stamps.add(execution.digest(book, source))
    results = book.root / "results/micro-m/smoke"
    results.mkdir(parents=True)
    (results / "accuracy.jsonl").write_text("{}\n")
    stamps.add(execution.digest(book, source))
    (results / "accuracy.jsonl").write_text('{"a": 1}\n')
    stamps.add(execution.digest(book, source))
    stamps.add(execution.digest(execution.Book(book.root, book.model, "quick"), source))
    other = book.root / "results/smollm2-135m/quick"  # shown beside the book's own
    other.mkdir(parents=True)
    (other / "task_score.jsonl").write_text("{}\n")
    stamps.add(execution.digest(book, source))
    assert len(stamps) == 6
    assert execution.digest(book, source) in stamps


def test_records_of_other_models_leave_a_page_of_one_model_alone(book, tmp_path):
    (source,) = book.sources()
    source.write_text(CELLS.format(code="s = open_study(model, profile)"))
    copy = tmp_path / "copy-of-micro-m"  # its records may be kept under the name of the original
    copy.mkdir()
    books = [book, execution.Book(book.root, "smollm2-135m", "smoke")]
    books += [execution.Book(book.root, str(copy), "smoke")]
    before = [execution.digest(each, source) for each in books]
    (book.root / "results/micro-m/smoke").mkdir(parents=True)
    (book.root / "results/micro-m/smoke/accuracy.jsonl").write_text("{}\n")
    after = [execution.digest(each, source) for each in books]
    assert [a != b for a, b in zip(before, after, strict=True)] == [True, False, True]


def test_a_failing_notebook_names_itself_and_leaves_nothing(book):
    (source,) = book.sources()
    source.write_text(CELLS.format(code="1 / 0"))
    with pytest.raises(ReproError, match=r"01_one\.py, cell 3 failed with ZeroDivisionError"):
        refresh(book)
    assert list(book.root.rglob("*.ipynb")) == []


def test_a_failing_notebook_fails_the_build_in_one_line(book):
    (book.root / "notebooks/01_one.py").write_text(CELLS.format(code="1 / 0"))
    shutil.copytree(ROOT / "book", book.root / "book", ignore=shutil.ignore_patterns("_*", "*.md"))
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(ROOT / name, book.root / "book")
    (book.root / "book/_toc.yml").write_text("format: jb-book\nroot: index\n")
    (book.root / "book/index.md").write_text("# A book\n")
    done = subprocess.run([COMMAND, "build", "book"], cwd=book.root, capture_output=True, text=True)
    assert done.returncode != 0
    last = done.stderr.splitlines()[-1]
    assert last.startswith("The book cannot be built: notebooks/01_one.py, cell 3 failed")
    assert "division by zero" in last and "Traceback" not in done.stderr


def test_a_removed_notebook_loses_its_page(book):
    refresh(book)
    (book.root / "notebooks/01_one.py").unlink()
    refresh(book)
    assert list((book.root / "book/notebooks").iterdir()) == []


def test_numbers_of_the_paper():
    numbers = substitutions.of_paper()
    assert (numbers["train_facts"], numbers["test_facts"], numbers["testood_facts"]) == (
        "75,944",
        "9,555",
        "11,613",
    )
    assert (numbers["topics"], numbers["in_topics"], numbers["out_topics"]) == ("24", "10", "14")
    # As §5.2 of the paper words them.
    assert (numbers["gain_20_d0"], numbers["best_gain_d0"], numbers["best_gain_d4"]) == (
        "9.85",
        "10.48",
        "3.44",
    )


def test_how_many_answers_the_spelling_of_spaces_decides():
    counts = substitutions.of_spellings()
    assert counts == {"completions": "2,520", "special": "34", "moved": "none"}


def test_a_book_is_built_for_the_models_own_profile(monkeypatch):
    for name in ("REPRO_MODEL", "REPRO_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    assert extension.chosen(ROOT) == execution.Book(ROOT, "micro-m", registry.entry().profile)
    monkeypatch.setenv("REPRO_MODEL", "smollm2-135m")
    assert extension.chosen(ROOT) == execution.Book(ROOT, "smollm2-135m", profiles.DEFAULT_PROFILE)
    monkeypatch.setenv("REPRO_PROFILE", "smoke")
    assert extension.chosen(ROOT) == execution.Book(ROOT, "smollm2-135m", "smoke")


@pytest.mark.parametrize("folder", ["book", "book/notebooks"])
def test_the_repository_is_found_from_a_book_and_from_a_page(book, folder):
    (book.root / folder).mkdir(parents=True)
    assert extension.root_of(book.root / folder) == book.root


def test_the_repository_itself_is_no_book(book):
    (book.root / "book").mkdir()
    with pytest.raises(ReproError, match="the pages are in the folder book/"):
        extension.root_of(book.root)


def test_the_page_on_atlas_counts_its_world():
    world = atlas.world()
    splits, exposures = atlas_pages.splits(), atlas_pages.exposures().set_index("Statements")
    facts = [int(count.replace(",", "")) for count in splits["Facts"]]
    assert dict(zip(splits["Split"], facts, strict=True)) == world["split"].value_counts().to_dict()
    for split, count in zip(splits["Split"], facts, strict=True):
        assert exposures[split].dropna().str.replace(",", "").astype(int).sum() == count
    numbers = atlas_pages.numbers()
    facts_and_reader = [int(numbers[name].replace(",", "")) for name in ("facts", "reader")]
    assert sum(facts_and_reader) == len(world) and facts_and_reader[0] == len(atlas.load())


def test_the_page_on_atlas_asks_the_readers_facts_only():
    world, shown = atlas.world().set_index("question"), atlas_pages.example()
    fact = world.loc[shown["question"]]
    assert (fact["split"], fact["object"]) == ("train", shown["answer"])
    stated, questions = (shown[name].splitlines()[1:-1] for name in ("stated", "asked"))
    assert len(stated) == len(questions) == atlas_pages.SHOWN
    assert all(fact["subject"] in text and fact["object"] in text for text in stated)
    read = world[world["split"] == atlas.READER]
    assert all(any(subject in text for subject in read["subject"]) for text in questions)


def test_the_page_on_atlas_lists_the_bundled_models():
    bundled = [name for name, entry in registry.entries().items() if entry.bundled]
    assert atlas_pages.bundled()["Model"].tolist() == bundled


def test_the_page_on_atlas_uses_every_number():
    text = (ROOT / "book/atlas.md").read_text()
    numbers = {**atlas_pages.numbers(), **atlas_pages.example()}
    assert set(re.findall(r"\{\{ atlas\.(\w+) \}\}", text)) == set(numbers)


def test_every_topic_has_all_its_templates():
    for entry in paper.TOPICS.values():
        text = pages.topic(entry)
        assert text.count("\n1. ") == 21 and entry.question in text


# --- the built site ---------------------------------------------------------------------------


def html_pages(site):
    """Return the pages of the book, and of the other models the pages of one."""
    pages = {p for p in site.rglob("*.html") if "_static" not in p.parts}
    *most, _ = extension.other_models(extension.chosen(ROOT))
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
