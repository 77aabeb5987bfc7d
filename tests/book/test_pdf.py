"""The book as one page for print: links, ids, what is left out; and the PDF of a small site."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from bs4 import BeautifulSoup
from conftest import CHROMIUM

from repro.book import pdf, single_page
from repro.errors import ConfigError

NAVIGATION = """<nav class="bd-links"><p class="caption">The paper</p><ul>
<li class="toctree-l1"><a class="reference internal" href="setup.html">Setup</a><ul>
<li class="toctree-l2"><a class="reference internal" href="notebooks/05_a.html">Restoring</a></li>
</ul></li></ul></nav>"""
PAGES = {
    "index.html": '<h1>The book<a class="headerlink" href="#x">#</a></h1><a href="setup.html">s</a>'
    '<span class="pdf-link"></span>',
    "setup.html": '<h1>Setup</h1><section id="limits">What it can show</section>'
    '<a href="notebooks/05_a.html#limits">restoring</a><a href="_sources/setup.md">source</a>'
    '<a href="https://arxiv.org/abs/2509.16596">the paper</a>',
    "notebooks/05_a.html": '<h1>Restoring</h1><h2 id="limits">Limits</h2>'
    '<details class="hide"><summary>Show code</summary>secret = 1</details>'
    '<details class="sd-dropdown"><summary>Run this page</summary>papermill</details>'
    "<details><summary>More</summary>shown</details>"
    '<div class="repro-table"><p class="fine">Download: a.csv</p><div class="scroll"><style>b{}'
    '</style><table id="T_1" style="width:1500px"><tr><td>a cell</td></tr></table></div></div>'
    '<style>b{}</style><a href="../setup.html#limits">back</a>'
    '<figure><svg viewBox="0 0 9 9"><path id="p"/><use href="#p"/></svg></figure>',
}


@pytest.fixture
def site(tmp_path):
    folder = tmp_path / "html"
    for name, body in PAGES.items():
        page = folder / name
        page.parent.mkdir(parents=True, exist_ok=True)
        text = f'<html><body>{NAVIGATION}<article class="bd-article">{body}</article></body></html>'
        page.write_text(text, encoding="utf-8")
    (folder / "_static").mkdir()
    return folder


@pytest.fixture
def one_page(site):
    return BeautifulSoup(single_page.assemble(site, "static"), "html.parser")


def test_the_contents_have_every_page_in_order(site):
    found = [(c.title, c.depth, c.part, c.anchor) for c in single_page.contents(site)]
    assert found == [
        ("Setup", 1, "The paper", "setup"),
        ("Restoring", 2, "The paper", "notebooks-05-a"),
    ]


def test_every_link_leads_to_an_id_or_off_the_site(one_page):
    ids = [element["id"] for element in one_page.select("[id]")]
    assert len(ids) == len(set(ids))
    links = {link.get_text(): link["href"] for link in one_page.select(".chapter a")}
    assert links == {
        "s": "#setup",
        "restoring": "#notebooks-05-a--limits",
        "the paper": "https://arxiv.org/abs/2509.16596",
        "back": "#setup--limits",
    }
    within = [link["href"][1:] for link in one_page.select("a[href^='#'], use[href^='#']")]
    assert set(within) <= set(ids) and "notebooks-05-a" in within


def test_what_only_a_screen_can_use_is_left_out(one_page):
    text = one_page.get_text()
    for left_out in ("secret", "papermill", "Download", "Show code"):
        assert left_out not in text
    assert "source" in text and one_page.find("a", string="source") is None
    assert [d.has_attr("open") for d in one_page.select("details")] == [True]
    assert [s.get_text() for s in one_page.select("body style")] == ["b{}"]


def test_a_page_below_another_has_lower_headings(one_page):
    names = [(h.name, h.get_text()) for h in one_page.select(".chapter :is(h1, h2, h3)")]
    assert names == [
        ("h1", "The book"),
        ("h1", "Setup"),
        ("h2", "Restoring"),
        ("h3", "Limits"),
    ]


def test_without_a_site_the_error_says_what_to_do(tmp_path):
    with pytest.raises(ConfigError, match="make book"):
        pdf.write(tmp_path / "html")


def test_without_chromium_the_error_says_what_to_install(site, tmp_path):
    site.rename(tmp_path / "book_html")
    html = tmp_path / "book" / "_build" / "html"
    html.parent.mkdir(parents=True)
    (tmp_path / "book_html").rename(html)
    empty = str(tmp_path / "none")
    done = subprocess.run(
        [sys.executable, "-m", "repro.book.pdf"],
        cwd=tmp_path,
        env={**os.environ, "PATH": empty, "PLAYWRIGHT_BROWSERS_PATH": empty},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Error:") and "apt-get install chromium" in done.stderr
    assert not list((html / "_static").iterdir())


def test_no_pdf_no_link(site):
    assert pdf.link(site) is False
    assert (site / "_static" / pdf.LINK_SCRIPT).read_text() == ""


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM, reason="there is no chromium to print with")
def test_the_pdf_is_linked_until_a_page_changes(site):
    run = [
        sys.executable,
        "-c",
        "from pathlib import Path; from repro.book import pdf, single_page",
    ]
    run[-1] += f"; pdf.write(Path({str(site)!r}))"
    subprocess.run(run, check=True)  # a driver of its own: the tests share one
    content = (site / "_static" / pdf.NAME).read_bytes()
    assert content.startswith(b"%PDF") and b"/Outlines" in content and b"/MediaBox" in content
    assert pdf.link(site) is True and pdf.NAME in (site / "_static" / pdf.LINK_SCRIPT).read_text()
    if shutil.which("pdftotext"):
        words = subprocess.run(
            ["pdftotext", site / "_static" / pdf.NAME, "-"], capture_output=True, text=True
        ).stdout
        assert re.search(r"Contents\s+The paper\s+Setup\s+Restoring", words) and "a cell" in words
    (site / "setup.html").write_text((site / "setup.html").read_text() + "<p>changed</p>")
    assert pdf.link(site) is False
    assert (site / "_static" / pdf.LINK_SCRIPT).read_text() == ""
