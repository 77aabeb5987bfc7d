"""The size of the parts of the package: functions, classes and modules that a reader can survey."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import repro

PACKAGE = Path(repro.__file__).parent
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
FUNCTION_LINES = 40  # without the docstring
MODULE_LINES = 400
METHODS = 16
UNDOCUMENTED_LINES = 10  # of a function without a docstring


def definitions(module: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Yield the functions and classes of a module, nested ones too."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    tree = ast.parse((PACKAGE / module).read_text(encoding="utf-8"))
    return (node for node in ast.walk(tree) if isinstance(node, kinds))


def docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = node.body[0]
    return first.end_lineno - first.lineno + 1 if ast.get_docstring(node) is not None else 0


def code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the lines of a function from its `def` to its end, without the docstring."""
    return node.end_lineno - node.lineno + 1 - docstring_lines(node)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_can_be_surveyed(module):
    lines = len((PACKAGE / module).read_text(encoding="utf-8").splitlines())
    message = f"{module} has {lines} lines, more than {MODULE_LINES}: divide it along a seam"
    assert lines <= MODULE_LINES, message
    for node in definitions(module):
        place = f"{module}:{node.lineno} {node.name}"
        if isinstance(node, ast.ClassDef):
            methods = sum(isinstance(x, ast.FunctionDef | ast.AsyncFunctionDef) for x in node.body)
            message = f"{place} has {methods} methods, more than {METHODS}: divide the class"
            assert methods <= METHODS, message
            continue
        lines = code_lines(node)
        message = f"{place} has {lines} lines, more than {FUNCTION_LINES}: name its steps"
        assert lines <= FUNCTION_LINES, message
        message = f"{place} has {lines} lines and no docstring: say what it returns or does"
        assert lines <= UNDOCUMENTED_LINES or docstring_lines(node), message


def test_what_is_too_large_is_found(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    body = "    x = 1\n" * FUNCTION_LINES
    methods = "".join(f"    def m{i}(self): ...\n" for i in range(METHODS + 1))
    for text, words in (
        (f'def f():\n    """Return nothing."""\n{body}', "f has 41 lines, more than 40"),
        ("def f():\n" + "    x = 1\n" * UNDOCUMENTED_LINES, "f has 11 lines and no docstring"),
        (f"class C:\n{methods}", "C has 17 methods, more than 16"),
        ("x = 1\n" * (MODULE_LINES + 1), "has 401 lines, more than 400"),
    ):
        (tmp_path / "made.py").write_text(text)
        with pytest.raises(AssertionError, match=words):
            test_a_module_can_be_surveyed("made.py")
