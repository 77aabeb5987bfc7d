"""Two processes share a study and find what one finds."""

import json
import os
import subprocess
import sys

TWO = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "-m"]


def run(model, data, cache, launcher: list[str]) -> dict[str, dict]:
    """Run a study through the real command; return its records by key."""
    environment = os.environ | {"REPRO_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, "repro.cli", "run", str(model), "--profile", "smoke"]
    done = subprocess.run(
        [*command, "--data", str(data)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("all are there") == 1  # the first process speaks, no other
    paths = sorted((cache / "records").rglob("*.json"))
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths}


def test_two_processes_count_what_one_counts(tiny_model, tiny_facts_folder, tmp_path):
    one = run(tiny_model, tiny_facts_folder, tmp_path / "one", ["-m"])
    two = run(tiny_model, tiny_facts_folder, tmp_path / "two", TWO)
    assert one.keys() == two.keys()
    assert {record["provenance"]["processes"] for record in one.values()} == {1}
    assert {record["provenance"]["processes"] for record in two.values()} == {2}
    tables = [path.relative_to(tmp_path / "one") for path in tmp_path.glob("one/records/*/*.csv")]
    assert tables
    for table in tables:
        assert (tmp_path / "one" / table).read_text() == (tmp_path / "two" / table).read_text()
    # What no training touched is the same to the last count.
    for key, record in one.items():
        if record["kind"] == "mastery" or "mastery" in record["params"]:
            if record["kind"] != "finetune":
                assert record["result"] == two[key]["result"]
            # A batch that both share in full has the same loss; a last one that is too small is
            # filled up by accelerate.
            elif record["result"]["steps"] > 1:
                first, other = (r["result"]["losses"][0]["loss"] for r in (record, two[key]))
                assert abs(first - other) < 1e-4
    assert not list((tmp_path / "two").rglob(".*"))
