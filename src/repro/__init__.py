"""Companion to the EMNLP 2025 paper on what supervised fine-tuning does to model knowledge.

```python
from repro import open_study, paper
from repro.report import restoration

study = open_study("micro-m", "full")
```
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = [
    "Study",
    "load_facts",
    "load_model",
    "open_study",
    "paper",
    "rank",
    "restore",
    "restore_folder",
]

if TYPE_CHECKING:  # for type checkers and editors; at run time `__getattr__` loads each on use
    from repro import paper
    from repro.data.facts import load as load_facts
    from repro.models.loading import load_model
    from repro.restoration.ranking import rank
    from repro.restoration.restore import restored as restore
    from repro.restoration.restore_folder import restore as restore_folder
    from repro.study.study import Study, open_study

# Public name -> (module, name in it). Loaded on first use, so that `import repro` and the
# `repro` command need not wait for PyTorch and pandas (PEP 562).
_HOMES = {
    "Study": ("repro.study.study", "Study"),
    "load_facts": ("repro.data.facts", "load"),
    "load_model": ("repro.models.loading", "load_model"),
    "open_study": ("repro.study.study", "open_study"),
    "rank": ("repro.restoration.ranking", "rank"),
    "restore": ("repro.restoration.restore", "restored"),
    "restore_folder": ("repro.restoration.restore_folder", "restore"),
}


def __getattr__(name: str) -> object:
    """Return a public name, loading the module that holds it."""
    if name == "paper":
        return import_module("repro.paper")
    if name not in _HOMES:
        raise AttributeError(f"module 'repro' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    value = globals()[name] = getattr(import_module(module), attribute)
    return value


def __dir__() -> list[str]:
    """Return what `repro.` offers in an editor."""
    return [*__all__, "__version__"]
