"""The score of a fact: against the probabilities of plain forwards, bits, blocks, resumption."""

import numpy as np
import pandas as pd
import pytest
import torch

from repro import paper
from repro.errors import ConfigError, DataError
from repro.inference.cpu import cpu_engine
from repro.inference.cpu.prefix_tree import merge_prefixes
from repro.measures import blocks, scores

PROTOCOL = scores.ScoreProtocol((0, 3, 6))


@pytest.fixture
def train(tiny_facts):
    """Return the training facts, one of them with an object of several names."""
    facts = tiny_facts[tiny_facts["split"] == "train"].copy()
    facts.loc[facts.index[0], "object"] = "United States of America"
    return facts


@torch.no_grad()
def by_hand(network, tokenizer, fact, template):
    """Return the log-probability of the likeliest name, from one forward for each name."""
    prompt = paper.TOPICS[fact.topic].mappings[template].replace("{subject}", fact.subject)
    start, log_probabilities = len(tokenizer(prompt).input_ids), []
    for name in paper.names(fact.object):
        ids = torch.tensor([tokenizer(f"{prompt} {name}").input_ids])
        logs = network(ids).logits[0].double().log_softmax(-1)
        log_probabilities.append(
            sum(logs[i - 1, ids[0, i]].item() for i in range(start, ids.shape[1]))
        )
    return max(log_probabilities)


def test_scores_are_those_of_plain_forwards(tiny_loaded, train):
    network, tokenizer = tiny_loaded
    assert len(paper.names("United States of America")) > 1
    for reader in (network, cpu_engine.CpuEngine(network)):
        table = scores.measure(reader, tokenizer, train, PROTOCOL)
        assert table["fact_id"].tolist() == sorted(train["fact_id"])
        facts_by_id = train.set_index("fact_id")
        for row in table.iloc[::5].itertuples():
            fact = facts_by_id.loc[row.fact_id]
            for template in PROTOCOL.templates:
                expected = by_hand(network, tokenizer, fact, template)
                assert getattr(row, f"t{template:02d}") == pytest.approx(expected, abs=2e-4)


def test_the_bits_do_not_depend_on_what_is_scored_together(tiny_loaded, train):
    network, tokenizer = tiny_loaded
    engine = cpu_engine.CpuEngine(network)
    statements = scores.statements(tokenizer, train, PROTOCOL)
    whole = exact(engine, scores.packed_rows(statements), statements)
    alone = exact(engine, [[i] for i in range(0, len(statements), 7)], statements)
    assert all(alone[i] == whole[i] for i in alone)
    shuffled = np.random.default_rng(0).permutation(len(statements))
    mixed = exact(engine, [list(part) for part in np.array_split(shuffled, 9)], statements)
    assert mixed == whole
    tables = [
        scores.measure(engine, tokenizer, facts, PROTOCOL, block=block)
        for facts, block in ((train, 512), (train.sample(frac=1, random_state=1), 7))
    ]
    pd.testing.assert_frame_equal(*tables, check_exact=True)


def exact(engine, rows, statements) -> dict[int, float]:
    """Return the unrounded log-probability of each statement, computed in these rows."""
    read = [(row, scores._read_with_engine(engine, [statements[i] for i in row])) for row in rows]
    return {i: value for row, values in read for i, value in zip(row, values, strict=True)}


def test_the_bits_do_not_depend_on_threads(tiny_loaded, train):
    network, tokenizer = tiny_loaded
    before, tables = torch.get_num_threads(), []
    for number in (1, 2):
        torch.set_num_threads(number)
        engine = cpu_engine.CpuEngine(network)
        tables.append(scores.measure(engine, tokenizer, train, PROTOCOL, block=16))
    torch.set_num_threads(before)
    pd.testing.assert_frame_equal(*tables, check_exact=True)


def test_a_row_holds_no_more_than_it_computes(tiny_loaded, train):
    statements = scores.statements(tiny_loaded[1], train, PROTOCOL)
    rows = scores.packed_rows(statements)
    assert sorted(i for row in rows for i in row) == list(range(len(statements)))
    for row in rows:
        tokens, _, _ = merge_prefixes([statements[i].context for i in row])
        assert len(tokens) <= scores.ROW_NODES
        assert sum(len(statements[i].target) for i in row) <= scores.ROW_TARGETS
    assert len(rows) > 1


def test_the_score_is_the_mean_probability():
    table = pd.DataFrame({"fact_id": ["a"], "t00": [np.log(0.5)], "t03": [np.log(0.1)]})
    assert scores.add_score(table)["score"].tolist() == [round(np.log(0.3), 4)]


def test_an_interrupted_run_goes_on_with_the_blocks_that_are_left(
    tiny_loaded, train, tmp_path, monkeypatch
):
    network, tokenizer = tiny_loaded
    whole = scores.measure(network, tokenizer, train, PROTOCOL)
    counted, score = [], scores.score

    def stops(*arguments):
        if len(counted) == 2:
            raise KeyboardInterrupt
        counted.append(len(arguments[2]))
        return score(*arguments)

    monkeypatch.setattr(scores, "score", stops)
    options = {"partial_folder": tmp_path / "partial", "block": 10}
    with pytest.raises(KeyboardInterrupt):
        scores.measure(network, tokenizer, train, PROTOCOL, **options)
    assert len(list((tmp_path / "partial").iterdir())) == 2
    monkeypatch.setattr(scores, "score", score)
    facts_done = []
    resumed = scores.measure(
        network, tokenizer, train, PROTOCOL, **options, progress=facts_done.append
    )
    pd.testing.assert_frame_equal(resumed, whole)
    assert sum(facts_done) == len(train) and not (tmp_path / "partial").exists()


def test_a_block_that_is_not_as_it_was_written_is_computed_again(train, tmp_path):
    part = train.iloc[:4]
    file = blocks.path(tmp_path, part, PROTOCOL)
    table = part[["fact_id", "topic", "split"]].assign(t00=-1.0).reset_index(drop=True)
    assert blocks.read(file) is None
    blocks.write(file, table)
    pd.testing.assert_frame_equal(blocks.read(file), table)
    whole = file.read_bytes()
    for damaged in (b"", whole[:-20], whole.replace(b"-1.0", b"-2.0", 1), b"\xff\xfe\x00broken"):
        file.write_bytes(damaged)
        assert blocks.read(file) is None


def test_impossible_requests_are_refused(tiny_loaded, train):
    for templates in ((), (21,), (-1,)):
        with pytest.raises(ConfigError, match="mapping templates"):
            scores.ScoreProtocol(templates)
    network, tokenizer = tiny_loaded
    with pytest.raises(DataError, match="no facts"):
        scores.measure(network, tokenizer, train.iloc[:0], PROTOCOL)
    long = train.iloc[:1].assign(object="Arvenia " * 400)
    with pytest.raises(DataError, match="too long"):
        scores.measure(network, tokenizer, long, PROTOCOL)
