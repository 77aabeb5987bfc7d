"""Which files of this package a notebook depends on, found by reading import statements.

The book runs a notebook again when one of them changes, and leaves the other notebooks alone.
"""

import ast
import hashlib
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import repro

PACKAGE = Path(repro.__file__).parent
DATA_FILES = {".yaml", ".json", ".csv"}
# `repro.book` reaches Sphinx's side of the book, and with it every result, through one import
# inside a function that no notebook calls.
NOT_FOLLOWED = {"repro.book.extension"}
PAGE_PACKAGES = {"report", "claims", "book"}
OPENS_RECORDS = re.compile(r"open_\w*study|\b(Task)?Study\(|results_dir|\brecords\.|results/\w")
OWN_STUDY = "open_study(model, profile)"  # as every notebook opens the study of its parameters
IMPORT_OF_STUDY = re.compile(r"^from repro(\.study)? import .*$", re.MULTILINE)


def files_of(code: Path) -> list[Path]:
    """Return the files of this package that a script imports, sorted.

    Follows imports from module to module, those inside functions too, except the ones for type
    checkers. With a module come the data files of its folder. A script that is itself a module of
    this package is among them.

    Raises:
        SyntaxError: the script, or a module, is no Python.
    """
    modules = _closure(imported(code.read_text(encoding="utf-8-sig"), "__main__"))
    sources = [_source(name) for name in modules]
    sources += [code] if code.is_relative_to(PACKAGE) else []
    # Not below PACKAGE itself: its folders are its packages, and the weights, known by their hash.
    folders = {path.parent for path in sources} - {PACKAGE}
    data = (path for folder in folders for path in folder.rglob("*") if path.suffix in DATA_FILES)
    return sorted({*sources, *data})


def shows_other_models(code: Path) -> bool:
    """Tell whether a script may show records of other models than the one it is run on.

    It may, unless it opens no study but that of its parameters, and no module of the packages that
    make pages, of those it imports, opens a study or lists `results/` itself. Rather too often than
    too seldom: a page that is run in vain costs a minute, a stale page is wrong.
    """
    text = IMPORT_OF_STUDY.sub("", code.read_text(encoding="utf-8-sig"))
    if OPENS_RECORDS.search(text.replace(OWN_STUDY, "")):
        return True
    modules = [path for path in files_of(code) if path.suffix == ".py"]
    pages = [p for p in modules if p.relative_to(PACKAGE).parts[0] in PAGE_PACKAGES]
    return any(OPENS_RECORDS.search(path.read_text(encoding="utf-8")) for path in pages)


def content_hash(paths: Iterable[Path]) -> str:
    """Return a hash of the names and the content of files; each file is read once a process."""
    total = hashlib.sha256()
    for path in paths:
        stat = path.stat()
        total.update(path.name.encode() + b"\0" + _file_hash(path, stat.st_mtime_ns, stat.st_size))
    return total.hexdigest()


@cache
def _file_hash(path: Path, changed: int, size: int) -> bytes:
    # A text file counts by its lines, so that line ends of another system change nothing.
    return hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).digest()


def imported(text: str, module: str) -> set[str]:
    """Return the names of this package's modules that the code of a module imports."""
    statements = _statements(ast.parse(text))
    names = {name for statement in statements for name in _names(statement, module)}
    # What `repro` itself offers it loads on use, from the module it names.
    homes = {repro._HOMES[name.partition(".")[2]][0] for name in names if _is_offered(name)}
    return {name for name in names | homes if _source(name) is not None}


def _is_offered(name: str) -> bool:
    return name.startswith("repro.") and name.partition(".")[2] in repro._HOMES


def _statements(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield the import statements, but for those under `if TYPE_CHECKING:`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            yield from _statements(node)


def _names(statement: ast.Import | ast.ImportFrom, module: str) -> Iterator[str]:
    """Yield every name a statement may load as a module: `from a import b` is a, and a.b if any."""
    if isinstance(statement, ast.Import):
        yield from (alias.name for alias in statement.names)
        return
    parts = module.split(".")
    above = parts[: len(parts) - statement.level] if statement.level else []
    base = ".".join([*above, *filter(None, [statement.module])])
    yield base
    yield from (f"{base}.{alias.name}" for alias in statement.names)


@cache
def _source(module: str) -> Path | None:
    """Return the file of a module of this package; None where the name is no such module."""
    first, *rest = module.split(".")
    if first != repro.__name__:
        return None
    path = PACKAGE.joinpath(*rest)
    candidates = [p for p in (path / "__init__.py", path.with_suffix(".py")) if p.is_file()]
    return candidates[0] if candidates else None


def _closure(modules: set[str]) -> set[str]:
    """Return modules and all modules that they import, directly or through others."""
    modules_found, waiting = set(), set(modules)
    while waiting:
        name = waiting.pop()
        if name in modules_found or name in NOT_FOLLOWED:
            continue
        modules_found.add(name)
        # To import a.b.c is to import a and a.b as well.
        waiting |= _imports_of(name, _source(name).stat().st_mtime_ns)
        waiting |= {name.rpartition(".")[0]} - {""}
    return modules_found


@cache
def _imports_of(module: str, changed: int) -> frozenset[str]:
    path = _source(module)
    # A relative import in a package's own file starts at the package.
    place = f"{module}.__init__" if path.name == "__init__.py" else module
    return frozenset(imported(path.read_text(encoding="utf-8"), place))
