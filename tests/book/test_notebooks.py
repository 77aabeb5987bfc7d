"""Notebooks as committed: valid py:percent, one parameters cell, no outputs, no paths."""

import ast
import re
from pathlib import Path

import jupytext
import pytest

from repro.book import fraction
from repro.errors import ConfigError

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
SOURCES = sorted(FOLDER.glob("[0-9]*.py"))
OWN = {
    "01_mastery": {},
    "02_scale": {"split": "test"},
    "03_levels": {"size": "largest"},
    "04_divergence": {},
    "05_restore": {"frac": 0.2},
    "06_tasks": {},
    "07_strategies": {"instruct": "default"},
    "08_where": {"frac": 0.2},
    "09_layers": {},
    "11_controls": {},
    "12_exposure": {},
}
FIRST_BLOCK = r"layout\.(findings|statements?)\("


def read(source):
    return jupytext.reads(source.read_text(encoding="utf-8"), fmt="py:percent")


@pytest.fixture(params=SOURCES, ids=lambda source: source.stem)
def source(request):
    return request.param


def test_the_papers_sections_each_have_their_notebook():
    assert set(OWN) <= {source.stem for source in SOURCES}


def test_it_is_py_percent_and_survives_a_round_trip(source):
    text = source.read_text(encoding="utf-8")
    notebook = read(source)
    assert notebook.metadata["kernelspec"]["name"] == "python3"
    assert notebook.metadata["jupytext"]["text_representation"]["format_name"] == "percent"
    cells = [(cell.cell_type, cell.source) for cell in notebook.cells]
    again = jupytext.reads(jupytext.writes(notebook, fmt="py:percent"), fmt="py:percent")
    assert [(cell.cell_type, cell.source) for cell in again.cells] == cells
    assert len(cells) == len(re.findall(r"^# %%", text, flags=re.M))


def test_it_has_one_parameters_cell_of_plain_values(source):
    tagged = [c for c in read(source).cells if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1
    lines = ast.parse(tagged[0].source).body
    values = {line.targets[0].id: ast.literal_eval(line.value) for line in lines}
    assert values == {"model": "default", "profile": "default"} | OWN.get(source.stem, {})


def test_it_begins_with_what_it_reproduces_and_the_command(source):
    first = read(source).cells[0]
    assert first.cell_type == "markdown" and first.source.startswith("# ")
    assert re.search(r"(Section|Table) \d", first.source)
    assert f"papermill notebooks/{source.name} " in first.source


def test_it_has_no_outputs_and_little_metadata(source):
    for cell in read(source).cells:
        assert not cell.get("outputs")
        assert set(cell.metadata) <= {"tags", "mystnb", "lines_to_next_cell"}


def test_its_cells_are_short_and_define_no_functions(source):
    for cell in read(source).cells:
        if cell.cell_type == "code":
            tree = ast.parse(cell.source)
            assert not [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)]
            assert len(cell.source.splitlines()) <= 12, cell.source


def test_it_runs_from_any_folder(source):
    code = "\n".join(c.source for c in read(source).cells if c.cell_type == "code")
    words = [n.value for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Constant)]
    paths = [w for w in words if isinstance(w, str) and re.search(r"^(\.{0,2}|~)/|\w/\w+\.\w", w)]
    assert not paths and "chdir" not in code and "__file__" not in code


def calls(source, name):
    """Every call of a function such as `layout.figure` in a notebook, in order."""
    code = "\n".join(c.source for c in read(source).cells if c.cell_type == "code")
    nodes = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    nodes.sort(key=lambda node: (node.lineno, node.col_offset))
    return [node for node in nodes if ast.unparse(node.func) == name]


def test_every_figure_has_a_text_for_those_who_do_not_see_it(source):
    for call in calls(source, "layout.figure"):
        (alt,) = [word.value for word in call.keywords if word.arg == "alt"]
        assert len(ast.literal_eval(alt)) > 30


def test_figures_are_numbered_in_order_and_none_is_shown_without(source):
    placed = [*calls(source, "layout.figure"), *calls(source, "diagrams.shown")]
    placed.sort(key=lambda call: call.lineno)
    numbers = [
        ast.literal_eval(call.args[1 if ast.unparse(call.func) == "layout.figure" else 2])
        for call in placed
    ]
    page = str(int(source.stem.split("_")[0]))
    assert numbers == [f"{page}.{place}" for place in range(1, len(numbers) + 1)]
    code = "\n".join(c.source for c in read(source).cells if c.cell_type == "code")
    drawn = len(re.findall(r"\b\w+\.(?:\w+_)?figure\(", code))
    assert drawn == 2 * len(calls(source, "layout.figure"))


RESULTS = [source for source in SOURCES if source.stem not in ("10_claims", "13_speed")]


@pytest.mark.parametrize("source", RESULTS, ids=lambda source: source.stem)
def test_a_page_of_results_begins_with_what_was_found(source):
    cells = [c.source for c in read(source).cells]
    shown = [place for place, text in enumerate(cells) if re.search(FIRST_BLOCK, text)]
    figure = next(place for place, text in enumerate(cells) if "layout.figure(" in text)
    question = next(place for place, text in enumerate(cells) if text.startswith("## "))
    assert shown[0] < figure < question


def test_no_result_is_typed_by_hand(source):
    prose = "\n".join(c.source for c in read(source).cells if c.cell_type == "markdown")
    assert not re.findall(r"\d+\.\d+ ?%|\d+\.\d{2,}", prose)


def test_restore_checks_frac_before_anything_is_opened():
    code = next(c.source for c in read(FOLDER / "05_restore.py").cells if "fraction" in c.source)
    assert code.index("book.fraction(frac)") < code.index("open_study(")
    with pytest.raises(ConfigError):
        fraction("abc")
