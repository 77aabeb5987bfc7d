"""The model card of a restored checkpoint."""

from pathlib import Path

from repro.restoration.checkpoint_pair import INTERPOLATE
from repro.restoration.ranking import STRATEGIES

DESCRIPTIONS = {
    "top": "the parameters whose relative change was largest",
    "bottom": "the parameters whose relative change was smallest",
    "random": "parameters drawn at random",
    "absolute": "the parameters whose absolute change was largest",
    INTERPOLATE: "all parameters, each moved this share of the way back",
}
assert DESCRIPTIONS.keys() == {*STRATEGIES, INTERPOLATE}


def card(report: dict) -> str:
    """Return the model card (Markdown) of a restored checkpoint, from its report."""
    settings = report["settings"]
    region = f"region `{settings['region']}`" + (
        f", layers {settings['layers']}" if settings["layers"] else ""
    )
    return f"""---
library_name: transformers
tags: [repro-restore]
---

# {Path(report["tuned"]).name}, {settings["percent"]:g} % restored

This is `{report["tuned"]}` with {settings["percent"]:g} % of its parameters ({region}) set back to
their values in `{report["base"]}`: {DESCRIPTIONS[settings["strategy"]]}.

- {report["k"]:,} of {report["n"]:,} parameters restored, of which {report["differ"]:,} differed
- {report["change_restored_percent"]:.2f} % of the sum of all relative changes
- {report["rounded"]:,} of the values restored were rounded to the type of this checkpoint

`restore.json` holds all settings, the threshold, the counts of every tensor and the hashes of both
models. Configuration and tokenizer are those of `{report["tuned"]}`, whose licence applies, as does
that of `{report["base"]}`.
"""
