"""Numbers the paper states in its text beside figures that are only images."""

from importlib import resources

import pandas as pd
import yaml


def quoted() -> pd.DataFrame:
    """Return name, section, quantity, value, unit: changes of in-domain Acc of LLaMA-3-8B (§3.4).

    A loss is negative, also where the text gives its size alone. They are the claims of
    `claims.yaml` with a name under `quoted`.
    """
    text = (resources.files(__package__) / "claims.yaml").read_text(encoding="utf-8")
    rows = [claim for claim in yaml.safe_load(text) if "quoted" in claim]
    frame = pd.DataFrame(rows).rename(columns={"quoted": "name"})
    frame = frame.assign(section=frame["where"].str[0], value=frame["value"].astype(float))
    return frame[["name", "section", "quantity", "value", "unit"]]
