"""What `repro plan` says of a study, against what `repro run` then takes.

Both start with no record; the run's own records stay in the cache folder, from where
`repro export` can take them.

    python benchmarks/plan.py [MODEL] [--profile quick] [--cache FOLDER]

Writes `results/MODEL/benchmarks/plan.json`, which the book reads.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common

from repro import files

PLAN = """
import json, sys
from repro.study import calibration, open_study, plan
opened = open_study(sys.argv[1], sys.argv[2])
table = plan.plan(opened, calibration.calibrate(opened))
said = {"seconds": table["seconds"].sum(), "memory": plan.memory(opened)}
print(json.dumps(said | {"stages": dict(zip(table["kind"], table["seconds"].round(1)))}))
"""


def planned(model: str, profile: str, environment: dict) -> tuple[dict, float]:
    """Return what the plan says, and the seconds it took to say it."""
    start = time.perf_counter()
    command = [sys.executable, "-c", PLAN, model, profile]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1]), time.perf_counter() - start


def taken(model: str, profile: str, environment: dict) -> dict:
    """Run the study; return its wall time in seconds and its peak memory in bytes."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "repro.cli", "run", model, "--profile", profile]
    subprocess.run(command, env=environment, check=True)
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"seconds": time.perf_counter() - start, "memory": usage.ru_maxrss * 1024}


def last(model: str) -> dict:
    """Return what the run took according to the record that is there."""
    path = files.results_dir() / model / "benchmarks" / "plan.json"
    return json.loads(path.read_text(encoding="utf-8"))["taken"]


def main() -> None:
    """Plan, run, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="smollm2-135m")
    parser.add_argument("--profile", default="quick")
    parser.add_argument("--keep", action="store_true", help="plan anew; keep what the run took")
    parser.add_argument("--cache", type=Path, help="a folder without records (default: a new one)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        cache = options.cache or Path(work)
        if (cache / "records").exists():
            parser.error(f"{cache} holds records: give a folder without any")
        environment = os.environ | {"REPRO_CACHE": str(cache), "REPRO_RESULTS": f"{work}/none"}
        said, seconds = planned(options.model, options.profile, environment)
        took = (
            last(options.model)
            if options.keep
            else taken(options.model, options.profile, environment)
        )
    record = {"model": options.model, "profile": options.profile, "planned": said, "taken": took}
    common.save(options.model, "plan", {**record, "seconds_to_plan": seconds})


if __name__ == "__main__":
    main()
