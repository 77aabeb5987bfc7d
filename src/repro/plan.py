"""What a study would cost, before it starts: records, tokens, time, disk."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import pandas as pd

from repro import evaluate, facts, mastery, models, restore, sft
from repro.study import MIXED, Study, Task
from repro.workbench import Workbench

FEW = 16  # facts that calibrate a plan
RECORD_BYTES = 3_000  # of a typical record on disk


@dataclass(frozen=True)
class Speed:
    """Seconds on this machine: per fact mastered, sample trained on, answer, ranking, restoring."""

    fact: float
    sample: float
    answer: float
    ranking: float
    restoring: float


def calibrate(study: Study) -> Speed:
    """Time a little of each kind of work with the study's own model and settings.

    Raises:
        ReproError: the model or the facts are not available.
    """
    bench = Workbench(study)
    pool = bench.facts[bench.facts["split"] == "train"]
    few = facts.sample(pool, min(FEW, len(pool)), 0)
    protocol = study.profile.protocol(study.seed)
    base, network, decoder, tokenizer = bench.base, bench.network, bench.decoder, bench.tokenizer
    recipe = sft.Recipe(learning_rate=study.model.learning_rate)
    mastered = _seconds(lambda: mastery.measure(decoder, tokenizer, few, protocol))
    trained = _seconds(lambda: sft.finetune(network, tokenizer, few, recipe))
    answered = _seconds(lambda: evaluate.answer(decoder, tokenizer, few))
    tuned = restore.snapshot(network)
    ranking = restore.rank(base, tuned)
    ranked = _seconds(lambda: restore.concentration(restore.rank(base, tuned), [1.0, 5.0]))
    restored = _seconds(lambda: _restore_once(decoder, base, tuned, ranking))
    return Speed(mastered / len(few), trained / len(few), answered / len(few), ranked, restored)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _restore_once(network, base, tuned, ranking) -> None:
    with restore.restored(network, base, tuned, ranking, 10.0):
        pass


def plan(study: Study, speed: Speed | None = None) -> pd.DataFrame:
    """List what a study needs and what of it is missing, by kind of record.

    Before mastery is measured, every level is taken to hold facts enough for every size, so
    the list is an upper bound.

    Args:
        study: a model under a profile.
        speed: from `calibrate`; None leaves the time at 0.

    Returns:
        DataFrame[kind, records, missing, tokens (generated or trained on, at most),
        seconds, bytes]; the last three count what is missing only.
    """
    sizes = _split_sizes(study)
    if study.mastery_task().record() is None:
        study = replace(study, assumed=dict.fromkeys(mastery.LEVELS, sizes["train"]))
    tasks = [study.mastery_task(), *study.tasks()]
    lacking = {id(task) for task in study.missing(tasks)}
    # A run with any record missing is fine-tuned again, also where its own record exists.
    again = {t.run for t in tasks if id(t) in lacking and t.run is not None}
    rows = [
        _cost(study, t, sizes, speed, id(t) in lacking, t.kind == "finetune" and t.run in again)
        for t in tasks
    ]
    return pd.DataFrame(rows).groupby("kind", sort=False).sum().reset_index()


def _split_sizes(study: Study) -> dict[str, int]:
    loaded = facts.load(study.data)
    chosen = facts.select(loaded, study.source["facts"], study.seed)
    return chosen["split"].value_counts().reindex(facts.SPLITS, fill_value=0).to_dict()


def _cost(study, task: Task, sizes: dict, speed: Speed | None, lacking: bool, trains: bool) -> dict:
    work = _work(study, task, sizes) if lacking or trains else {}
    tokens = work.pop("tokens", 0)
    timed = asdict(speed) if speed else {}
    seconds = sum(each * work.get(name, 0) for name, each in timed.items())
    counted = {"records": 1, "missing": int(lacking), "tokens": tokens, "seconds": seconds}
    return {"kind": task.kind, **counted, "bytes": RECORD_BYTES * lacking}


def _work(study: Study, task: Task, sizes: dict) -> dict:
    """Return how often each kind of timed work occurs in a task, and the tokens."""
    if task.kind == "mastery":
        protocol, number = study.profile.protocol(study.seed), sum(sizes.values())
        return {"fact": number, "tokens": number * protocol.trials * protocol.max_new_tokens}
    if task.kind == "finetune":
        return {"sample": _size(study, task), "tokens": 32 * _size(study, task)}
    if task.kind == "accuracy":
        split = task.params["split"]
        number = _size(study, task) if split == "train" else sizes[split]
        restoring = {"restoring": 1} if task.params["restore"] else {}
        return {"answer": number, "tokens": number * task.params["max_new_tokens"], **restoring}
    if task.kind == "concentration":
        return {"ranking": 1}
    return {"answer": 1}


def _size(study: Study, task: Task) -> int:
    if task.run.size is not None or task.run.level == MIXED:
        return task.run.size
    return study._pools[task.run.level]


def model_bytes(study: Study) -> int:
    """Return the bytes a first run adds to the cache for the model itself (float32)."""
    model = study.model
    return 4 * model.parameters if model.gguf and not models.converted_folder(model).exists() else 0
