"""R_k and the levels: Equation 1, independence of batches, resuming, names."""

import os
from fractions import Fraction

import pandas as pd
import pytest
import tiny
import torch

from repro import paper
from repro.errors import ConfigError, DataError
from repro.measures import blocks, mastery
from repro.measures.mastery import Protocol, add_levels, distribution, level, measure

PROTOCOL = Protocol(templates=4, draws=2, max_new_tokens=6)


@pytest.fixture(scope="module")
def facts(tiny_facts):
    """24 facts of three topics: half of them seen by the tiny model, half not."""
    return tiny_facts[tiny_facts["split"] == "train"].groupby("topic").head(8)


@pytest.fixture(scope="module")
def table(tiny_loaded, facts):
    return measure(*tiny_loaded, facts, PROTOCOL)


# --- Equation 1 -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trials", "expected"),
    [
        # A quarter of 210 or 21 is no whole number: the last count below it and the first above.
        (210, {0: 0, 1: 1, 52: 1, 53: 2, 105: 2, 106: 3, 157: 3, 158: 4, 209: 4, 210: 4}),
        (21, {0: 0, 1: 1, 5: 1, 6: 2, 10: 2, 11: 3, 15: 3, 16: 4, 20: 4, 21: 4}),
        # R = ¼, ½, ¾, 1 exactly, and just beside them.
        (20, {0: 0, 1: 1, 5: 1, 6: 2, 10: 2, 11: 3, 15: 3, 16: 4, 20: 4}),
        (840, {209: 1, 210: 1, 211: 2, 420: 2, 421: 3, 630: 3, 631: 4, 839: 4, 840: 4}),
        (1, {0: 0, 1: 4}),
    ],
)
def test_levels_at_the_boundaries(trials, expected):
    assert dict(zip(expected, level(list(expected), trials), strict=True)) == expected


@pytest.mark.parametrize("trials", [1, 3, 4, 21, 63, 100, 210])
def test_levels_are_equation_1(trials):
    for hits, level_of_hits in enumerate(level(range(trials + 1), trials)):
        rate = Fraction(hits, trials)
        quarters = [i for i in range(1, 5) if Fraction(i - 1, 4) < rate <= Fraction(i, 4)]
        assert [level_of_hits] == (quarters or [0])


def test_hits_are_summed_over_templates():
    hits = pd.DataFrame(
        {"fact_id": ["a", "b"], "topic": "P17", "split": "test", "t00": [3, 0], "t01": [8, 0]}
    )
    table = add_levels(hits, 20)
    assert table["hits"].tolist() == [11, 0]
    assert table["trials"].tolist() == [20, 20]
    assert table["rate"].tolist() == [0.55, 0.0]
    assert table["level"].tolist() == [3, 0]
    assert table[["t00", "t01"]].equals(hits[["t00", "t01"]])


def test_distribution_shows_every_level_of_every_split():
    levels = pd.DataFrame({"split": ["train", "train", "test"], "level": [0, 0, 3]})
    counts = distribution(levels, ("train", "dev", "test"))
    assert counts["count"].tolist() == [2, 0, 0, 0, 0] + [0] * 5 + [0, 0, 0, 1, 0]
    assert counts["split"].tolist() == ["train"] * 5 + ["dev"] * 5 + ["test"] * 5
    assert counts["level"].tolist() == [0, 1, 2, 3, 4] * 3


# --- measured on a model ----------------------------------------------------------------------


def test_table_is_complete(table, facts):
    assert table["fact_id"].tolist() == sorted(facts["fact_id"])
    templates = ["t00", "t01", "t02", "t03"]
    columns = ["fact_id", "topic", "split", "hits", "trials", "rate", "level"]
    assert list(table.columns) == columns + templates
    assert (table["trials"] == PROTOCOL.trials).all() and PROTOCOL.trials == 8
    assert (table["hits"] == table[templates].sum(axis=1)).all()
    assert table[templates].isin(range(PROTOCOL.draws + 1)).all(axis=None)
    # The tiny model must know some facts and not others, or the tests below would show nothing.
    assert {0, 4} <= set(table["level"]) and table["level"].nunique() >= 3


@pytest.mark.parametrize("draws", [1, 2])
def test_counts_do_not_depend_on_the_batch(tiny_loaded, facts, draws):
    protocol = Protocol(templates=3, draws=draws, max_new_tokens=6)
    one, seven, many = (measure(*tiny_loaded, facts, protocol, rows=rows) for rows in (1, 7, 64))
    assert one["hits"].nunique() > 2
    pd.testing.assert_frame_equal(one, seven)
    pd.testing.assert_frame_equal(one, many)


def test_counts_do_not_depend_on_order_or_blocks(tiny_loaded, facts, table):
    shuffled = facts.sample(frac=1, random_state=1)
    assert shuffled["fact_id"].tolist() != facts["fact_id"].tolist()
    pd.testing.assert_frame_equal(measure(*tiny_loaded, shuffled, PROTOCOL, block=5), table)
    first_facts = shuffled.head(5)
    alone = measure(*tiny_loaded, first_facts, PROTOCOL)
    same = table[table["fact_id"].isin(first_facts["fact_id"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, same)


def test_seed_decides_the_counts(tiny_loaded, facts, table):
    pd.testing.assert_frame_equal(measure(*tiny_loaded, facts, PROTOCOL), table)
    other = measure(*tiny_loaded, facts, Protocol(4, 2, 6, seed=1))
    assert not other["hits"].equals(table["hits"])


def test_fewer_templates_are_the_first_ones(tiny_loaded, facts, table):
    two = measure(*tiny_loaded, facts, Protocol(2, 2, 6))
    pd.testing.assert_frame_equal(two[["t00", "t01"]], table[["t00", "t01"]])
    assert (two["trials"] == 4).all()


# --- interrupted ------------------------------------------------------------------------------


class Stopped(Exception):
    pass


def interrupt(loaded, facts, folder, after: int, protocol=PROTOCOL) -> None:
    """Measure with blocks of 8 facts, and break off after some of them."""
    finished = []

    def stop(count: int) -> None:
        finished.append(count)
        if len(finished) == after:
            raise Stopped

    with pytest.raises(Stopped):
        measure(*loaded, facts, protocol, partial_folder=folder, block=8, progress=stop)


def test_interrupted_run_goes_on_where_it_stopped(tiny_loaded, facts, table, tmp_path):
    folder = tmp_path / "partial"
    interrupt(tiny_loaded, facts, folder, after=2)
    finished = {path: blocks.read(path) for path in folder.glob("*.csv")}
    assert sorted(len(block) for block in finished.values()) == [8, 8]
    # Counts that no model gives: if they come out at the end, the block was not done again.
    path, block = next(iter(finished.items()))
    block[["t00", "t01", "t02", "t03"]] = 1000
    blocks.write(path, block)
    counted = []
    resumed = measure(
        *tiny_loaded, facts, PROTOCOL, partial_folder=folder, block=8, progress=counted.append
    )
    planted = resumed["fact_id"].isin(block["fact_id"])
    assert (resumed.loc[planted, "hits"] == 4000).all() and planted.sum() == 8
    pd.testing.assert_frame_equal(resumed[~planted], table[~planted])
    assert counted == [8, 8, 8]
    assert not folder.exists()


def test_resumed_equals_undisturbed(tiny_loaded, facts, table, tmp_path):
    interrupt(tiny_loaded, facts, tmp_path / "partial", after=1)
    resumed = measure(*tiny_loaded, facts, PROTOCOL, partial_folder=tmp_path / "partial", block=8)
    pd.testing.assert_frame_equal(resumed, table)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: b"",
        lambda text: text[: len(text) // 2],
        lambda text: text[: text.rindex(b"\n", 0, -1) + 1],
        lambda text: text.partition(b"\n")[2],
        lambda text: text + text.splitlines(keepends=True)[-1],
        lambda text: b"\xff\xfe" + text,
        None,
    ],
    ids=["empty", "half", "a row less", "no digest", "a row more", "not UTF-8", "a named pipe"],
)
def test_a_damaged_block_is_counted_again(tiny_loaded, facts, table, tmp_path, damage):
    folder = tmp_path / "partial"
    interrupt(tiny_loaded, facts, folder, after=2)
    path = min(folder.glob("*.csv"))
    text = path.read_bytes()
    if damage is None:
        path.unlink()
        os.mkfifo(path)
    else:
        path.write_bytes(damage(text))
    counted = []
    resumed = measure(
        *tiny_loaded, facts, PROTOCOL, partial_folder=folder, block=8, progress=counted.append
    )
    pd.testing.assert_frame_equal(resumed, table)
    assert counted == [8, 8, 8]


def test_blocks_of_another_protocol_are_not_taken(tiny_loaded, facts, table, tmp_path):
    folder = tmp_path / "partial"
    interrupt(tiny_loaded, facts, folder, after=3, protocol=Protocol(4, 2, 6, seed=1))
    resumed = measure(*tiny_loaded, facts, PROTOCOL, partial_folder=folder, block=8)
    pd.testing.assert_frame_equal(resumed, table)


# --- prompts and names ------------------------------------------------------------------------


def test_prompts_are_the_papers_templates(tiny_loaded):
    tokens = tiny_loaded[1]
    one = {"fact_id": "f1", "topic": "P17", "subject": "Ovavale", "object": "South Korea"}
    two = {"fact_id": "f2", "topic": "P19", "subject": "Dor {x}", "object": "Arvenia"}
    prompts = mastery.prompts(tokens, pd.DataFrame([one, two]), 3)
    mappings = paper.TOPICS["P17"].mappings[:3], paper.TOPICS["P19"].mappings[:3]
    texts = [m.replace("{subject}", "Ovavale") for m in mappings[0]]
    texts += [m.replace("{subject}", "Dor {x}") for m in mappings[1]]
    assert [tokens.decode(prompt.ids) for prompt in prompts] == texts
    assert [prompt.label for prompt in prompts] == [f"f{i}|{t}" for i in (1, 2) for t in range(3)]
    assert {prompt.names for prompt in prompts[:3]} == {
        ("South Korea", "Republic of Korea", "Korea")
    }
    assert {prompt.names for prompt in prompts[3:]} == {("Arvenia",)}


def test_bos_comes_first_where_the_family_has_one(tiny_facts):
    texts = tiny_facts["question"].tolist()
    plain, begins = tiny.tokenizer(texts), tiny.tokenizer(texts, bos=True)
    fact = tiny_facts.head(1)
    [without], [with_bos] = (mastery.prompts(t, fact, 1) for t in (plain, begins))
    assert with_bos.ids == [0, *without.ids] and without.ids[0] != 0


@pytest.mark.parametrize(
    ("obj", "level_found"),
    [("United States of America", 4), ("USA", 4), ("uSa", 4), ("France", 0)],
)
def test_synonyms_count_and_case_does_not(tiny_loaded, tiny_facts, obj, level_found):
    tokens = tiny_loaded[1]
    text = tokens(" the usa").input_ids
    network = tiny.walk(tokens, *([last, *text] for last in tokens(" in of,").input_ids))
    fact = tiny_facts[tiny_facts["topic"] == "P17"].head(1).assign(object=obj)
    [row] = measure(network, tokens, fact, Protocol(5, 2, len(text))).itertuples()
    assert (row.hits, row.level) == (10 if level_found else 0, level_found)


def test_a_known_rate_is_measured(tiny_loaded, tiny_facts):
    # After every prompt the model says Arvenia or Bolstan with p = ½ at a temperature of 0.7.
    tokens = tiny_loaded[1]
    table = torch.full((len(tokens), len(tokens)), -60.0)
    [arvenia], [bolstan] = (tokens(t).input_ids for t in (" Arvenia", " Bolstan"))
    table[:, [arvenia, bolstan]] = 0.0
    fact = tiny_facts[tiny_facts["topic"] == "P17"].head(1).assign(object="arvenia")
    [row] = measure(tiny.bigram(table), tokens, fact, Protocol(21, 40, 1)).itertuples()
    assert row.trials == 840
    assert abs(row.rate - 0.5) < 4 * (0.25 / 840) ** 0.5


@pytest.mark.parametrize("wrong", [{"templates": 0}, {"templates": 22}, {"draws": 0}])
def test_a_protocol_that_cannot_be_is_refused(wrong):
    with pytest.raises(ConfigError, match="1 to 21 templates"):
        Protocol(**wrong)


def test_no_facts_is_an_error_that_says_so(tiny_loaded, tiny_facts):
    with pytest.raises(DataError, match="no facts"):
        measure(*tiny_loaded, tiny_facts.iloc[:0], Protocol())
