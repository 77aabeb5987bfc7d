"""The sentences of the paper that claims quote, and the numbers in its text.

The text of the paper is not part of this repository. `sentences.txt` holds hashes of its normalised
sentences, by which a quote can be recognised.
"""

import hashlib
import re
from importlib import resources

import pandas as pd
import yaml

BREAK = "…"  # marks a page break inside a quoted sentence
HEADING_WORDS = 3  # the most words of a heading that run into the first sentence of its paragraph


def quoted() -> pd.DataFrame:
    """Return name, section, quantity, value, unit: changes of in-domain Acc of LLaMA-3-8B (§3.4).

    A loss is negative, even if the text gives only its size. The rows are the claims of
    `claims.yaml` that have a name under `quoted`.
    """
    text = (resources.files(__package__) / "claims.yaml").read_text(encoding="utf-8")
    rows = [claim for claim in yaml.safe_load(text) if "quoted" in claim]
    frame = pd.DataFrame(rows).rename(columns={"quoted": "name"})
    frame = frame.assign(section=frame["where"].str[0], value=frame["value"].astype(float))
    return frame[["name", "section", "quantity", "value", "unit"]]


def sentences(text: str) -> list[str]:
    """Return the normalised sentences of a text: lower-case words and numbers, no markup.

    A sentence ends at the latest with its paragraph or list item, so one that a page break divides
    has two parts. In a quote `BREAK` marks this place. Symbols lose their typesetting:
    $\\mathcal{D}_{train-0}^M$ and D_train-0 are the same.
    """
    normalised = []
    for paragraph in re.split(rf"\n\s*\n|\n- |{BREAK}", _plain(text)):
        for sentence in re.split(r"(?<=[.!?:])\s+(?=[A-Z])", " ".join(paragraph.split())):
            if words := re.findall(r"[^\W_]+", sentence.lower()):
                normalised.append(" ".join(words))
    return normalised


def fingerprint(sentence: str) -> str:
    """Return the hash by which a normalised sentence is recognised."""
    return hashlib.sha256(sentence.encode()).hexdigest()[:16]


def fingerprints(text: str) -> list[str]:
    """Return the hashes of a text's sentences, each also without the first words of a heading."""
    hashes = set()
    for sentence in sentences(text):
        words = sentence.split()
        for start in range(min(HEADING_WORDS, len(words) - 1) + 1):
            hashes.add(fingerprint(" ".join(words[start:])))
    return sorted(hashes)


def known() -> set[str]:
    """Return the hashes of the paper's sentences."""
    text = (resources.files(__package__) / "sentences.txt").read_text(encoding="utf-8")
    return {line for line in text.split() if not line.startswith("#")}


def unknown_sentences(quote: str, hashes: set[str]) -> list[str]:
    """Return the sentences of a quote that are not among the hashes of a text's sentences."""
    return [sentence for sentence in sentences(quote) if fingerprint(sentence) not in hashes]


def _plain(text: str) -> str:
    """Return a text without the marks of typesetting: symbols, bold, footnote numbers."""
    text = re.sub(r"\^\{?\\?(?:mathcal|text)?\{?M\}*", "", text)  # the model of a symbol
    text = re.sub(r"\\[a-z]+|[${}*]", "", text)
    text = re.sub(r"_(?=[a-z])", " ", text)
    return re.sub(r"[⁰¹²³⁴-⁹]+", "", text)
