"""What a study would cost, before it starts: records, tokens, time, disk."""

import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import pandas as pd

from repro import paper
from repro.data import facts
from repro.inference import kv_cache
from repro.inference.cpu import cpu_engine
from repro.measures import accuracy, mastery
from repro.models import devices, gguf
from repro.restoration import restore
from repro.study import workers
from repro.study.compute import Workbench
from repro.study.requests import MIXED, Request
from repro.study.study import Study
from repro.training import sft
from repro.training.prompts import IGNORED, encode_examples
from repro.training.recipe import Recipe

MASTERED = 6_000  # tokens generated to calibrate mastery, and to guess at the levels
ANSWERED = 256  # questions answered to calibrate evaluation
BATCHES = 5  # steps of fine-tuning, beside a first one
SHARE = 10.0  # percent restored and taken back
RECORD_BYTES = 3_000  # of a typical record on disk
LIBRARIES = 700 << 20  # bytes of a process that has PyTorch and transformers loaded


@dataclass(frozen=True)
class Speed:
    """Seconds on this machine for one of each kind of work.

    A fact mastered; a fine-tuning begun, and each of its samples; a question read, and each
    token of its answer; a ranking; a share restored and taken back. `answer` is the length of
    a typical answer, in tokens; `levels` the shares of the facts by mastery level, in a sample.
    """

    fact: float
    tuning: float
    sample: float
    question: float
    token: float
    ranking: float
    restoring: float
    answer: float
    levels: dict[int, float]
    small: bool  # measured on one thread, where several processes will share the work


def calibrate(study: Study) -> Speed:
    """Time a little of each kind of work with the study's own model and settings.

    Raises:
        ReproError: the model or the facts are not available.
    """
    bench = Workbench(study)
    with bench.shared([], 1):
        return _calibrate(bench)


def _calibrate(bench: Workbench) -> Speed:
    pool = bench.facts[bench.facts["split"] == "train"]
    protocol = bench.study.profile.protocol(bench.study.seed)
    tokens = protocol.trials * protocol.max_new_tokens
    few = facts.sample(pool, min(max(1, MASTERED // tokens), len(pool)), 0)
    mastery.measure(bench.reader, bench.tokenizer, few[:1], protocol)  # what is found only once
    measured = []
    mastered = _seconds(
        lambda: measured.append(
            mastery.measure(bench.reader, bench.tokenizer, few, protocol)["level"]
        )
    )
    tuning, sample = _tuning(bench, pool)
    base, tuned = bench.base, restore.snapshot(bench.network)
    ranking = restore.rank(base, tuned)
    ranked = _seconds(lambda: restore.concentration(restore.rank(base, tuned), [1.0, 5.0]))
    [cut] = restore.thresholds(ranking, [SHARE]).values()  # one search serves a run's shares
    restored = _seconds(lambda: _restore_once(bench.decoder, base, tuned, ranking, cut))
    restore.write(bench.decoder, base)  # it goes on and on, so that its tokens can be timed
    question, token = _answering(bench, pool)
    answer = _answer_length(bench, few)
    levels = measured[0].value_counts(normalize=True).to_dict()
    each = tuning, sample, question, token, ranked, restored
    return Speed(mastered / len(few), *each, answer, levels, bench.small)


def _answer_length(bench: Workbench, few: pd.DataFrame) -> float:
    encoded = encode_examples(bench.tokenizer, few["question"], few["object"])
    return sum(len(labels) - labels.count(IGNORED) for _, labels in encoded) / len(few)


def _tuning(bench: Workbench, pool: pd.DataFrame) -> tuple[float, float]:
    """Return the seconds to begin and end a fine-tuning, and those of each sample."""
    bench.base  # noqa: B018 - the pre-trained weights, before they change
    recipe = Recipe(learning_rate=bench.study.model.learning_rate)
    network = bench.trainer
    size = min(recipe.batch_size, len(pool))
    number = min(size * (1 + BATCHES), len(pool))

    def once(count: int) -> float:
        few = facts.sample(pool, count, 0)
        return _seconds(lambda: sft.finetune(network, bench.tokenizer, few, recipe))

    once(size)  # the first of a process also finds its memory
    first, more = once(size), once(number)
    sample = max(more - first, 0) / max(number - size, 1)
    copies = _seconds(lambda: restore.write(bench.decoder, restore.snapshot(bench.network)))
    return max(first - size * sample, 0) + 2 * copies, sample


def _answering(bench: Workbench, pool: pd.DataFrame) -> tuple[float, float]:
    """Return the seconds to read a question, and those of each token of an answer after it."""
    few = facts.sample(pool, min(ANSWERED, len(pool)), 0).assign(object="\0")  # never found

    def upto(tokens: int) -> float:
        options = {"max_new_tokens": tokens}
        return _seconds(lambda: accuracy.answer(bench.reader, bench.tokenizer, few, **options))

    first, more = upto(1), upto(5)
    return first / len(few), max(more - first, 0) / 4 / len(few)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _restore_once(network, base, tuned, ranking, cut) -> None:
    with restore.restored(network, base, tuned, ranking, SHARE, cut):
        pass


def plan(study: Study, speed: Speed | None = None) -> pd.DataFrame:
    """List what a study needs and what of it is missing, by kind of record.

    Before mastery is measured, the facts are taken to have the levels of the sample that
    `calibrate` measured; without it every level is taken to hold facts enough for every size, so
    that the list is an upper bound.

    Args:
        study: a model under a profile.
        speed: from `calibrate`; None leaves the time at 0.

    Returns:
        DataFrame[kind, records, missing, tokens (generated or trained on, at most),
        seconds, bytes]; the last three count what is missing only.
    """
    sizes = _split_sizes(study)
    if study.mastery_task().record() is None:
        shares = speed.levels if speed else dict.fromkeys(paper.LEVELS, 1.0)
        pools = {level: round(share * sizes["train"]) for level, share in shares.items()}
        study = replace(study, assumed=pools)
    tasks = [study.mastery_task(), *study.tasks()]
    lacking = {id(task) for task in study.missing(tasks)}
    # A run with any record missing is fine-tuned again, also where its own record exists.
    again = {t.run for t in tasks if id(t) in lacking and t.run is not None}
    rows = [
        _cost(study, t, sizes, speed, id(t) in lacking, t.kind == "finetune" and t.run in again)
        for t in tasks
    ]
    table = pd.DataFrame(rows).groupby("kind", sort=False).sum().reset_index()
    if speed and speed.small:
        blocks = workers.how_many(sum(sizes.values()) // mastery.BLOCK)
        runs = workers.how_many(len(again))
        table["seconds"] /= [blocks if kind == "mastery" else runs for kind in table["kind"]]
    return table


def _split_sizes(study: Study) -> dict[str, int]:
    loaded = facts.load(study.data, world=study.model.facts)
    chosen = facts.select(loaded, study.source["facts"], study.seed)
    return chosen["split"].value_counts().reindex(paper.SPLITS, fill_value=0).to_dict()


def _cost(
    study, task: Request, sizes: dict, speed: Speed | None, lacking: bool, trains: bool
) -> dict:
    work = _work(study, task, sizes) if lacking or trains else {}
    tokens = work.pop("tokens", 0)
    timed = asdict(speed) if speed else {}
    for name in ("levels", "small"):
        timed.pop(name, None)
    if "answer" in work:  # as long as the task says, or as a typical answer
        work["token"] = work["question"] * min(work.pop("answer"), timed.get("answer", 0))
    seconds = sum(each * work.get(name, 0) for name, each in timed.items())
    counted = {"records": 1, "missing": int(lacking), "tokens": tokens, "seconds": seconds}
    return {"kind": task.kind, **counted, "bytes": RECORD_BYTES * lacking}


def _work(study: Study, task: Request, sizes: dict) -> dict:
    """Return how often each kind of timed work occurs in a task, and the tokens."""
    if task.kind == "mastery":
        protocol, number = study.profile.protocol(study.seed), sum(sizes.values())
        return {"fact": number, "tokens": number * protocol.trials * protocol.max_new_tokens}
    if task.kind == "finetune":
        return {"tuning": 1, "sample": _size(study, task), "tokens": 32 * _size(study, task)}
    if task.kind == "instruct":
        number, limit = sizes[task.params["split"]], task.params["max_new_tokens"]
        return {"question": number, "tokens": number * limit, "token": number * limit}
    if task.kind == "accuracy":
        split = task.params["split"]
        number = _size(study, task) if split == "train" else sizes[split]
        limit = task.params["max_new_tokens"]
        # Four splits are answered together: a share is restored once for all of them.
        together = {"restoring": 1 / 4} if task.params["restore"] else {}
        length = {"answer": limit} if task.run else {"token": number * limit}
        return {"question": number, "tokens": number * limit, **length, **together}
    if task.kind in ("concentration", "where"):
        return {"ranking": 1}
    return {"question": 1}


def _size(study: Study, task: Request) -> int:
    if task.run.size is not None:
        return task.run.size
    level = task.run.level
    return sum(study._pools.values()) if level == MIXED else study._pools[level]


def memory(study: Study) -> int:
    """Return the most bytes of memory a run takes at a time, about.

    Float32 weights: those that are trained and the pre-trained ones to go back to. Beside them, as
    long as it trains, gradients and AdamW's two moments; later the fine-tuned ones, a copy that
    decodes where another dtype is faster, and what a batch of decoding may take. The workers that
    share the study of a small model take as much each.
    """
    device, parameters = devices.best_device(), study.model.parameters or 0
    copy = devices.inference_dtype(device).itemsize % 4  # 2 for bfloat16, 0 where it is the same
    trains, decodes = 5 * 4 * parameters, (3 * 4 + copy) * parameters + kv_cache.BUDGET
    one = max(trains, decodes) + LIBRARIES
    small = device.type == "cpu" and 0 < parameters <= cpu_engine.SMALL
    number = workers.how_many(sys.maxsize) if small else 1
    return one * number + (LIBRARIES if number > 1 else 0)


def model_bytes(study: Study) -> int:
    """Return the bytes a first run adds to the cache for the model itself (float32)."""
    model = study.model
    return 4 * model.parameters if model.gguf and not gguf.converted_folder(model).exists() else 0
