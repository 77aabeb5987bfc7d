"""Computes each kind of record of a `Study`: one function for each kind (§3.3).

A function takes the computation, the state of the run, and the request. It returns the result of
the record and its table, which is None for most kinds.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from repro import files, paper
from repro.errors import ModelError
from repro.inference.decoding import Prompt
from repro.measures import accuracy, divergence, mastery, scores
from repro.restoration import restore
from repro.study.requests import Request, Run
from repro.study.session import TunedModel

if TYPE_CHECKING:  # it imports this module
    from repro.study.compute import FactComputation


@dataclass
class RunState:
    """The state of the run in memory while its requests are computed.

    Attributes:
        run: the run; None: the pre-trained model.
        requests: the requests of the run that are computed.
        training: what `sft.finetune` returned.
        tuned: the fine-tuned weights beside the pre-trained ones.
        prompts: the questions of the split `train`.
        results: results by key that were computed together with another one.
    """

    run: Run | None
    requests: list[Request]
    training: dict = field(default_factory=dict)
    tuned: TunedModel | None = None
    prompts: dict[str, list[Prompt]] = field(default_factory=dict)
    results: dict[str, dict] = field(default_factory=dict)


def _score(work: FactComputation, _: RunState, request: Request) -> tuple[dict, pd.DataFrame]:
    """Score the candidates from which facts are chosen."""
    candidates, population = work.study.choice.to_score()
    inputs = work.session.scorer, work.session.tokenizer, candidates, work.study.choice.protocol
    options = {"partial_folder": partial_folder(request), "keep": True}
    with work.session.bar(len(candidates), "scores", "fact", True) as bar:
        table = scores.measure(*inputs, **options, progress=bar.update)
    return {"population": population, "table": True}, table


def _mastery(work: FactComputation, _: RunState, request: Request) -> tuple[dict, pd.DataFrame]:
    """Measure R_k of every fact (§3.1)."""
    measured = measure(work, request, work.facts)
    counts = mastery.distribution(measured, paper.SPLITS).to_dict("records")
    columns = ["fact_id", "topic", "split", *mastery.template_columns(measured)]
    return {"counts": counts, "table": True}, measured[columns]


def measure(work: FactComputation, request: Request, chosen: pd.DataFrame) -> pd.DataFrame:
    """Measure the mastery of facts, block by block, in workers if there are any."""
    protocol = mastery.Protocol(**request.params["protocol"])
    options = {"partial_folder": partial_folder(request), "keep": True}
    if work.workers:
        options["count_blocks"] = lambda blocks: work.workers.spread(
            ("block", block, protocol) for block in blocks
        )
    reader, tokenizer = work.session.reader, work.session.tokenizer
    with work.session.bar(len(chosen), "mastery", "fact", True) as bar:
        options["progress"] = bar.update
        return mastery.measure(reader, tokenizer, chosen, protocol, **options)


def partial_folder(request: Request) -> Path:
    """Return the folder of the finished blocks of scores or mastery."""
    return files.cache_dir() / "partial" / request.key


def _finetune(work: FactComputation, state: RunState, _: Request) -> tuple[dict, None]:
    """Report the training that `prepare` did."""
    losses = [{"step": i + 1, "loss": loss} for i, loss in enumerate(state.training["loss"])]
    rest = {name: value for name, value in state.training.items() if name != "loss"}
    trained = work.study.pools.facts(state.run, "train")
    topics = trained["topic"].value_counts().sort_index().to_dict()
    return {"losses": losses, "topics": topics, **rest}, None


def _accuracy(work: FactComputation, state: RunState, request: Request) -> tuple[dict, None]:
    """Answer the questions of a split.

    All splits that are asked of the same weights are answered together, which fills the batches.
    The first of them gets all the seconds.
    """
    if request.key not in state.results:
        accuracy_requests = [r for r in state.requests if r.kind == "accuracy"]
        restoration = request.params["restore"]
        same_weights = [r for r in accuracy_requests if r.params["restore"] == restoration]
        state.results |= _answer(work, state, same_weights)
    return state.results.pop(request.key), None


def _answer(work: FactComputation, state: RunState, requests: list[Request]) -> dict[str, dict]:
    """Return the results of requests for the same weights, by key."""
    prompts_of_requests = [work.prompts(state, request.params["split"]) for request in requests]
    limit = max(request.params["max_new_tokens"] for request in requests)
    with _restored(work, state, requests[0].params["restore"]) as undone:
        prompts = [prompt for split in prompts_of_requests for prompt in split]
        reader, tokenizer = work.session.reader, work.session.tokenizer
        completions = accuracy.answer(reader, tokenizer, prompts, max_new_tokens=limit)
    results, first = {}, 0
    for request, split in zip(requests, prompts_of_requests, strict=True):
        answers = completions[first : first + len(split)]
        first += len(split)
        hits = [answer.hit for answer in answers]
        results[request.key] = {
            **_undone(state, undone),
            "correct": sum(hits),
            "total": len(hits),
            "hits": accuracy.pack(hits),
            "tokens": sum(len(answer.ids) for answer in answers),
        }
    return results


def _restored(
    work: FactComputation, state: RunState, settings: dict | None
) -> AbstractContextManager[restore.Change]:
    if state.tuned is None:  # the pre-trained model has nothing to restore
        return nullcontext(restore.Change())
    return state.tuned.restored(work.session.decoder, settings)


def _undone(state: RunState, undone: restore.Change) -> dict:
    """Return the number of restored parameters, and their share of the whole change (%)."""
    if not undone.k:
        return {"restored": 0}
    whole_change = state.tuned.change
    l1, l2 = undone.l1 / whole_change.l1, undone.l2 / whole_change.l2
    return {
        "restored": undone.k,
        "undone": {"l1": round(100 * l1, 9), "l2": round(100 * l2, 9)},
    }


def _instruct(work: FactComputation, _: RunState, request: Request) -> tuple[dict, None]:
    """Put a split's questions to the instruct variant, with the prompt of Appendix A."""
    facts, limit = work.facts_of(None, request.params["split"]), request.params["max_new_tokens"]
    completions = accuracy.answer(*work.session.instruct, facts, max_new_tokens=limit)
    hits = [completion.hit for completion in completions]
    return {"correct": sum(hits), "total": len(hits), "hits": accuracy.pack(hits)}, None


def _divergence(work: FactComputation, _: RunState, request: Request) -> tuple[dict, None]:
    """Compare first-token logits with the pre-trained model's (§4.1)."""
    session, reference = work.session, work.reference()
    table, example = divergence.compare(session.reader, session.tokenizer, reference)
    rows = table.assign(test_level=request.params["level"]).to_dict("records")
    return {"table": rows, "example": example, "facts": len(reference.facts)}, None


def _concentration(_: FactComputation, state: RunState, request: Request) -> tuple[dict, None]:
    """Measure which share of the change the most changed parameters hold (Table 3)."""
    if (ranking := state.tuned.ranking()).size == 0:
        raise ModelError("the region to restore has no parameters")
    table = restore.concentration(ranking, request.params["percents"])
    return {"table": table.to_dict("records")}, None


def _locations(_: FactComputation, state: RunState, request: Request) -> tuple[dict, None]:
    """Count the most changed parameters by layer and module (Tables 9 and 10)."""
    percents = request.params["percents"]
    tensors = restore.by_tensor(state.tuned.ranking(), percents)
    rows = tensors[["layer", "module", "n", "change_percent"]].to_dict("records")
    chosen = tensors[percents].to_numpy().tolist()
    return {"table": [row | {"k": k} for row, k in zip(rows, chosen, strict=True)]}, None


KINDS = {
    "score": _score,
    "mastery": _mastery,
    "finetune": _finetune,
    "accuracy": _accuracy,
    "instruct": _instruct,
    "divergence": _divergence,
    "concentration": _concentration,
    "where": _locations,
}
