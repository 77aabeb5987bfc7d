"""The page on speed: committed benchmarks as tables, and arithmetic that can be checked."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from repro import paper
from repro.models import registry
from repro.report import larger_models, speed

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", larger_models.LARGE)
def test_architectures_have_the_published_number_of_parameters(name):
    size = larger_models.LARGE[name]
    assert size.parameters == registry.entry(name).parameters
    config = LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=1,
        num_attention_heads=size.heads,
        num_key_value_heads=size.key_value_heads,
    )
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config)
    linear = [m for m in network.modules() if isinstance(m, torch.nn.Linear)]
    one = sum(m.weight.numel() for m in linear if m.weight.shape[0] != size.vocabulary)
    assert size.products == size.layers * one + size.hidden * size.vocabulary


def test_the_projection_counts_the_papers_grid():
    table = larger_models.projection(question=20, answer=5, avoided=0.25).set_index(
        ["Model", "Stage"]
    )
    tokens = table["million tokens"].xs("LLaMA-3-8B", level="Model")
    facts = paper.table("distribution").query("model == 'LLaMA-3-8B'")["count"].sum()
    assert tokens["mastery, at most"] * 1e6 == facts * 21 * 10 * 32
    assert tokens["mastery, what ours computes"] == 0.75 * tokens["mastery, at most"]
    # Six sizes of five levels, five samples of each, and each whole pool five times.
    trained = 5 * (5 * (60 + 120 + 240 + 480 + 960 + 1920) + 75_944)
    assert tokens["fine-tuning"] * 1e6 == trained * 25
    products = table["10¹⁸ operations"].xs("LLaMA-3-8B", level="Model")
    per_token = products / tokens * 1e12 / larger_models.LARGE["llama-3-8b"].products
    assert per_token["fine-tuning"] == pytest.approx(6)
    assert per_token["evaluation"] == pytest.approx(2)


def test_the_first_block_says_the_least_and_the_most_of_the_table():
    table, texts = speed.against_the_fastest(), speed.results()
    assert list(texts) == list(table["Work"].unique())
    for work, rows in table.groupby("Work"):
        assert all(model in texts[work] for model in rows["Model"])
        ends = f"{rows['times faster'].min():.1f}", f"{rows['times faster'].max():.1f}"
        said = f"{ends[0]} to {ends[1]}" if ends[0] != ends[1] else ends[0]
        assert texts[work].startswith(f"{said} times as fast")


def test_committed_benchmarks_fill_the_tables():
    for name, table in {
        "mastery": speed.sampling(),
        "evaluation": speed.answering(),
        "finetuning": speed.tuning(),
    }.items():
        assert len(table) == sum(len(r["runs"]) for r in speed.benchmark_records(name)) > 0
        assert (table["times faster"] > 1).all()
    assert (speed.sampling()["of the products, %"] > 50).all()
    same = speed.tuning().query("Numbers == 'float32'")
    assert (same["largest difference of a loss"] < 0.05).all()
    assert (same[["TRL from its float32", "ours from its float32"]] == 0).all(axis=None)
    exact = speed.answering().query("Numbers == 'float32'")
    assert (exact["answers that differ"] == 0).all()


def test_our_fastest_stands_against_the_fastest_of_generate_and_of_trl():
    table = speed.against_the_fastest()
    works = {"mastery", "evaluation", "fine-tuning"}
    works |= {"scores"} if speed.benchmark_records("scores") else set()
    assert set(table["Work"].str.split(",").str[0]) == works
    assert not table.duplicated(["Work", "Model", "Processor"]).any()
    keys = ["Model", "Processor"]
    sampled = table[table["Work"].str.startswith("mastery")].set_index(keys)
    for key, raced in speed.sampling().groupby(keys):
        row, seconds = sampled.loc[key], raced.set_index("Numbers")
        ours, theirs = seconds["ours, s per fact"], seconds["generate, s per fact"]
        assert ours[row["ours in"]] == ours.min() and theirs[row["theirs in"]] == theirs.min()
        assert row["times faster"] == theirs.min() / ours.min() > 1
        assert row["both in float32"] == theirs["float32"] / ours["float32"]


def test_the_readme_says_what_was_measured():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = speed.against_the_fastest()
    fast = table[table["Processor"].str.contains("avx512_bf16")]
    for work, rows in fast.groupby(fast["Work"].str.split(",").str[0]):
        (line,) = [line for line in readme.splitlines() if line.startswith(f"| {work} |")]
        cells = [cell.strip() for cell in line.split("|")]
        for row in rows.to_dict("records"):
            place = 3 + ("Gemma" in row["Model"])
            assert cells[place] == f"{row['times faster']:.1f}", (work, row["Model"])
    avx2 = table.loc[table["Processor"] == "AVX2", "times faster"]
    assert f"{avx2.min():.1f} to {avx2.max():.1f} times" in readme


def test_where_the_tokens_go_adds_up_to_all_that_are_asked_for(tmp_path):
    folder = tmp_path / "smollm2-135m" / "benchmarks"
    folder.mkdir(parents=True)
    run = {"dtype": "bfloat16", "facts": 2, "seconds": 8.0, "tokens_asked": 200}
    run |= {"work": {"tokens": 150, "computed": 120}, "work_to_the_end": {"tokens": 170}}
    run |= {"tokens_per_second": 80, "products_tokens_per_second": 100}
    where = {"machine": "Linux, 2 cores, AVX2"}
    record = run | {"provenance": where}
    (folder / "together.avx2.json").write_text(json.dumps(record), encoding="utf-8")
    (row,) = speed.avoided(tmp_path).to_dict("records")
    assert [row[name] for name in row if name.endswith("%")] == [15, 10, 15, 60, 80]
    assert (row["s per fact"], row["limit, s per fact"]) == (4, 3.2)


def test_the_time_of_mastery_is_divided_without_a_rest():
    table = speed.time_shares()
    assert len(table) and (table["products, %"] > 50).all()
    stages = [name for name in table if name.endswith("%")]
    assert (table[stages] >= 0).all(axis=None)
    assert table[stages].sum(axis=1).to_numpy() == pytest.approx(100)


def test_records_of_two_processors_stand_side_by_side(tmp_path):
    folder = tmp_path / "smollm2-135m" / "benchmarks"
    folder.mkdir(parents=True)
    for slug, seconds in (("avx2", 4.0), ("amd-epyc", 2.0)):
        run = {"dtype": "float32", "seconds_per_fact": {"generate": 8.0, "ours": seconds}}
        record = {"runs": [run], "provenance": {"machine": f"Linux, 2 cores, {slug.upper()}"}}
        (folder / f"mastery.{slug}.json").write_text(json.dumps(record), encoding="utf-8")
    table = speed.against_the_fastest(tmp_path).set_index("Processor")
    assert table["times faster"].to_dict() == {"AVX2": 2, "AMD-EPYC": 4}


def test_scores_are_set_against_the_products_of_what_is_used_and_of_whole_rows(tmp_path):
    folder = tmp_path / "smollm2-135m" / "benchmarks"
    folder.mkdir(parents=True)
    run = {"dtype": "float32", "seconds": {"ours": [2.0, 2.0]}, "ratio": 5.0, "apart": 1e-4}
    run |= {"seconds_per_fact": {"padded": 0.02, "ours": 0.004}}
    run |= {"products_seconds": 3.0, "rows_seconds": 4.0}
    record = {"runs": [run], "provenance": {"machine": "Linux, 2 cores, AVX2"}}
    (folder / "scores.avx2.json").write_text(json.dumps(record), encoding="utf-8")
    (row,) = speed.scoring(tmp_path).to_dict("records")
    assert (row["of the products, %"], row["rows used, %"], row["times faster"]) == (75, 75, 5)
    assert (row["padded, ms per fact"], row["ours, ms per fact"]) == (20, 4)
    (row,) = speed.against_the_fastest(tmp_path).to_dict("records")
    assert row["Work"].startswith("scores") and row["times faster"] == 5


def test_a_plan_and_what_the_study_took_stand_side_by_side():
    table = speed.planned()
    assert set(table["What"]) == {"time, min", "memory, GB"}
    assert (table["planned / taken"] == table["planned"] / table["taken"]).all()
    assert table["planned / taken"].between(0.7, 1.3).all()


def test_no_benchmarks_is_no_error(tmp_path):
    assert speed.benchmark_records("mastery", tmp_path) == []
    assert not len(speed.sampling(tmp_path)) and not len(speed.machines(tmp_path))
    assert speed.loss_figure(speed.curves(tmp_path)).axes


def test_machines_name_every_command():
    table = speed.machines()
    assert (
        not table.duplicated(["Command", "Processor"]).any()
        and table["Versions"].str.contains("torch").all()
    )
