"""Keep what one fine-tuning did to the weights, for the paper's Figure 1 with real numbers.

Fine-tunes one run of a study again, which needs no record, and counts at every share of the profile
which changes are set back.

    python benchmarks/weights.py [MODEL] [--profile PROFILE] [--level LEVEL] [--size SIZE]

By default the run on the most facts that were drawn of the lowest level, as the explorer of the
page on restoration shows. Writes `results/MODEL/benchmarks/weights.json`, which that page draws.
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
    parser.add_argument("--level", type=int)
    parser.add_argument("--size", type=int)
    options = parser.parse_args()
    study = open_study(options.model, options.profile)
    runs = [
        run
        for run in study.grid.restored_runs()
        if run.size is not None  # all facts of a level are as many as there happen to be
        if options.level in (None, run.level) and options.size in (None, run.size)
    ]
    if not runs:
        parser.error(f"{options.model}, {study.profile.name}: no such run is restored")
    run = min(runs, key=lambda run: (-run.size, run.level, run.sample))
    computation = FactComputation(study, bars=False)
    computation.load()
    state = computation.prepare(run, [study.requests.accuracy(run, "test", 20.0)])
    ranking = state.tuned.ranking()
    shares = [weight_changes.measure(ranking, share) for share in study.profile.percents if share]
    record = {"profile": study.profile.name, "level": run.level, "size": run.size}
    common.save(study.model.name, "weights", record | {"shares": shares})


if __name__ == "__main__":
    main()
