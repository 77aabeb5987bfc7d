"""Records of an earlier rule: which keys name the rule, and whose records are found without it."""

import re

import pytest
from transformers import AutoTokenizer

from repro import paper
from repro.models import registry, weights
from repro.study import open_study
from repro.study.requests import FIRST_MATCH, MATCH

MICRO = ("micro-s", "micro-m", "micro-l")


def test_a_new_model_names_the_rule_for_a_match_in_every_key(tiny_model, tiny_facts_folder):
    study = open_study(tiny_model, "smoke", tiny_facts_folder)
    assert study.requests.mastery().params["match"] == MATCH == 2


@pytest.mark.parametrize("name", FIRST_MATCH)
def test_records_of_the_first_rule_are_found(name):
    profiles = {"micro-s": "full", "micro-m": "full", "micro-l": "medium", "smollm2-135m": "quick"}
    request = open_study(name, profiles.get(name, "quick")).requests.mastery()
    assert "match" not in request.params
    assert request.record() or name not in profiles


@pytest.mark.parametrize("name", MICRO)
def test_the_micro_models_cannot_write_a_special_character(name):
    tokenizer = AutoTokenizer.from_pretrained(weights.locate(registry.entry(name)))
    texts = [tokenizer.decode([token]) for token in range(len(tokenizer))]
    assert all(paper.plain(text) == text for text in texts)
    assert all(re.fullmatch(r"[\x20-\x7e]*", text) for text in texts)
