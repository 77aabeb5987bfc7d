"""Numbers the paper states in its text beside figures that are only images."""

import json
from importlib import resources

import pandas as pd


def quoted() -> pd.DataFrame:
    """Return name, section, quantity, value, unit: changes of in-domain Acc of LLaMA-3-8B (§3.4).

    A loss is negative, also where the text gives its size alone.
    """
    text = (resources.files(__package__) / "quoted.json").read_text(encoding="utf-8")
    return pd.DataFrame(json.loads(text))
