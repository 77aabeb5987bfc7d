"""What `import repro` offers, and what it does not load."""

import subprocess
import sys
from importlib.resources import files

import pytest

import repro


@pytest.mark.parametrize("name", repro.__all__)
def test_every_public_name_is_there_and_documented(name):
    assert getattr(repro, name).__doc__
    assert name in dir(repro)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = repro.nothing
    assert not hasattr(repro, "__wrapped__")


def in_a_new_process(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout


def test_import_loads_no_heavy_library():
    heavy = "torch", "transformers", "pandas", "numpy", "typer"
    code = f"import sys, repro; print(sorted(set({heavy!r}) & set(sys.modules)))"
    assert in_a_new_process(code) == "[]\n"


def test_import_is_quick():
    code = "import time; t = time.process_time(); import repro; print(time.process_time() - t)"
    assert min(float(in_a_new_process(code)) for _ in range(3)) < 0.3


def test_help_is_quick():
    code = "import resource, sys; from repro import cli; cli.main(['--help']);"
    code += " u = resource.getrusage(resource.RUSAGE_SELF); print(u.ru_utime + u.ru_stime)"
    assert min(float(in_a_new_process(code).split()[-1]) for _ in range(3)) < 0.6


def test_the_package_says_that_it_is_typed():
    assert (files("repro") / "py.typed").is_file()
