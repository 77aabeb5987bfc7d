"""Keep what one fine-tuning did to the weights, for the paper's Figure 1 with real numbers.

Fine-tunes one run of a study again, which needs no record, and counts at every share of the profile
which changes are set back.

    python benchmarks/weights.py [MODEL] [--profile PROFILE] [--level 0] [--size 1920]

Writes `results/MODEL/benchmarks/weights.json`, which the page on restoration draws.
"""

import argparse

import common

from repro.restoration import weight_changes
from repro.study import open_study
from repro.study.compute import FactComputation


def main() -> None:
    """Fine-tune the first data sample of the level and size, and write the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="micro-m")
    parser.add_argument("--profile", default="default")
    parser.add_argument("--level", type=int, default=0)
    parser.add_argument("--size", type=int, default=1920)
    options = parser.parse_args()
    study = open_study(options.model, options.profile)
    runs = [
        r for r in study.grid.restored_runs() if (r.level, r.size) == (options.level, options.size)
    ]
    if not runs:
        parser.error(f"{options.model}, {study.profile.name}: no such run is restored")
    computation = FactComputation(study, bars=False)
    computation.load()
    state = computation.prepare(runs[0], [study.requests.accuracy(runs[0], "test", 20.0)])
    ranking = state.tuned.ranking()
    shares = [weight_changes.measure(ranking, share) for share in study.profile.percents if share]
    record = {"profile": study.profile.name, "level": runs[0].level, "size": runs[0].size}
    common.save(study.model.name, "weights", record | {"shares": shares})


if __name__ == "__main__":
    main()
