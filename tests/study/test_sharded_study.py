"""A study under FSDP2 and tensor parallelism, through the real command, is that of one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

LIMIT = 120  # seconds after which a launch counts as hanging
TWO = ["-m", "accelerate.commands.launch", "--use_fsdp", "--fsdp_version", "2"]
TWO += ["--num_processes", "2", "--main_process_port", "0", "-m"]
LOSS = 1e-4  # of a loss near 1: sums in another order, over the steps of a fine-tuning


def study(cache: Path, launcher: list[str], *options: str, **settings: str) -> list[dict]:
    """Run micro-s under smoke; return its records."""
    environment = os.environ | {"REPRO_CACHE": str(cache), "OMP_NUM_THREADS": "1"} | settings
    words = ["repro.cli", "run", "micro-s", "--profile", "smoke", *options]
    done = subprocess.run(
        [sys.executable, *launcher, *words], env=environment, capture_output=True, text=True,
        timeout=LIMIT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("all are there") == 1  # the first process speaks, no other
    paths = sorted((cache / "records").rglob("*.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def by_measure(records: list[dict]) -> dict[tuple, dict]:
    """Return results by what they are of, without the keys of what they depend on.

    A key names the number of processes that share a fine-tuning, so keys differ. Adapters are left
    out: they are not trained on a model that is divided.
    """
    runs = {r["key"]: r["params"] for r in records if r["kind"] == "finetune"}
    results = {}
    for record in records:
        params = record["params"]
        run = params if record["kind"] == "finetune" else runs.get(params.get("finetune"), {})
        if "lora" in run:
            continue
        of_run = [run.get(name) for name in ("level", "size", "sample", "recipe")]
        own = {k: v for k, v in params.items() if k not in ("finetune", "mastery", "sharding")}
        results[json.dumps([record["kind"], of_run, own], sort_keys=True)] = record["result"]
    return results


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict[tuple, dict]:
    """The study of one process with the layers of transformers."""
    cache = tmp_path_factory.mktemp("alone")
    return by_measure(study(cache, ["-m"], "--engine", "transformers"))


@pytest.mark.parametrize("tensor_parallel", ["false", "true"])
def test_two_processes_that_divide_a_model_find_what_one_finds(alone, tmp_path, tensor_parallel):
    settings = {"REPRO_FINETUNED_DTYPE": "float32", "REPRO_TENSOR_PARALLEL": tensor_parallel}
    records = study(tmp_path, TWO, **settings)
    sharding = {"processes": 2, "stored": "float32"}
    assert all(r["params"]["sharding"] == sharding for r in records if r["kind"] == "finetune")
    results = by_measure(records)
    assert results.keys() == alone.keys()
    asked = moved = 0
    for name, result in results.items():
        expected, kind = alone[name], json.loads(name)[0]
        if kind == "mastery":  # before any training: the same to the last count
            assert result == expected
        if kind == "finetune":
            losses, others = ([step["loss"] for step in r["losses"]] for r in (result, expected))
            assert losses == pytest.approx(others, abs=LOSS)
            assert result["topics"] == expected["topics"]
        if kind == "accuracy":
            assert result["restored"] == expected["restored"]
            assert result["total"] == expected["total"]
            asked += result["total"]
            moved += abs(result["correct"] - expected["correct"])
        if kind == "divergence":
            assert result["facts"] == expected["facts"]
            sums, others = ([row["kl_sum"] for row in r["table"]] for r in (result, expected))
            assert sums == pytest.approx(others, rel=1e-2, abs=1e-4)
    assert asked > 500 and moved <= 0.002 * asked
    assert not list((tmp_path / "finetuned").glob("*"))  # deleted with the last run
