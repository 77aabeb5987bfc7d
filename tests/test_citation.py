"""The paper and the reproduction are cited as two entries, under the licenses we state."""

import tomllib
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parents[1]


def read(name):
    return (REPOSITORY / name).read_text(encoding="utf-8")


def test_citation_names_the_reproduction_and_the_paper_separately():
    ours = yaml.safe_load(read("CITATION.cff"))
    assert ours["cff-version"] == "1.2.0"
    assert ours["message"]
    assert ours["type"] == "software"
    assert ours["authors"] == [{"name": "The repro authors"}]
    (paper,) = ours["references"]
    assert paper["type"] == "conference-paper"
    assert paper["title"] in ours["title"]
    assert paper["title"] != ours["title"]
    assert paper["year"] == 2025
    assert paper["conference"]["name"] == "EMNLP 2025"
    families = [author["family-names"] for author in paper["authors"]]
    assert families == ["Ye", "Yang", "Nan", "Li", "Zhang", "Gui", "Huang", "Wang", "Shi", "Fan"]
    assert all(author["given-names"] for author in paper["authors"])


def test_citation_agrees_with_the_package():
    ours, project = yaml.safe_load(read("CITATION.cff")), tomllib.loads(read("pyproject.toml"))
    assert ours["version"] == project["project"]["version"]
    assert " AND ".join(ours["license"]) == project["project"]["license"]


def test_license_states_both_licenses_and_that_the_data_is_not_included():
    text = " ".join(read("LICENSE").split())
    assert "Permission is hereby granted, free of charge" in text
    assert "https://creativecommons.org/licenses/by/4.0/" in text
    assert "book/" in text
    assert "Not ours, and not included: - EntityQuestions" in text
