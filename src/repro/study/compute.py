"""What each kind of record of a `Study` is, and how it is computed (§3.3).

`repro.study.computation` is the loop; `repro.study.task_compute` says what the records of GSM8K and
XSum are.
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from repro import files, paper
from repro.errors import ConfigError, ModelError
from repro.inference.decoding import Prompt
from repro.measures import accuracy, divergence, mastery, scores
from repro.models import devices
from repro.restoration import restore
from repro.study.choice import selected_facts
from repro.study.computation import POLL, WAITING, Claim, Computation, Outcome
from repro.study.requests import MIXED, Request, Run, missing
from repro.study.schedule import Part, longest_first
from repro.study.session import Session, TunedModel
from repro.study.workers import Workers, how_many, started
from repro.training.recipe import Adapter, Recipe


@dataclass
class RunState:
    """What is known of the run in memory while its requests are computed."""

    run: Run | None
    requests: list[Request]
    training: dict = field(default_factory=dict)  # what `sft.finetune` returned
    tuned: TunedModel | None = None
    prompts: dict[str, list[Prompt]] = field(default_factory=dict)  # by split; those of `train`
    results: dict[str, dict] = field(default_factory=dict)  # by key: answered, not yet asked for


class FactComputation(Computation):
    """Computes the records of a `Study`. Its facts, prompts and references serve all runs."""

    def __init__(self, study, loaded: pd.DataFrame | None = None, bars: bool = True):
        """Take a `repro.study.Study`, and its profile's facts if they are loaded already."""
        super().__init__(Session(study.model, study.number_format.name, bars), study.profile.name)
        self.study, self.facts = study, loaded
        self.workers: Workers | None = None
        self._known: pd.DataFrame | None = None
        self._prompts: dict[str, list[Prompt]] = {}
        self._reference: divergence.Reference | None = None

    def load(self) -> None:
        """Load the model and the profile's facts, unless they are in memory.

        Facts that are chosen by score are known once the scores are there.
        """
        choice = self.study.choice
        if self.facts is None and (choice is None or choice.request().record()):
            self.facts = selected_facts(self.study)
        super().load()

    def describe(self, request: Request) -> str:
        """Return what the progress bar says of a request."""
        run = request.run
        if run is None:
            return request.kind
        level = "all levels" if run.level == MIXED else f"level {run.level}"
        level += ", LoRA" if run.rank else ""
        return f"{request.kind}, {level}, {run.size or 'all'} facts, sample {run.sample}"

    # --- sharing work -------------------------------------------------------------------------

    @contextmanager
    def sharing(self, groups: list[list[Request]], workers: int | None) -> Iterator[None]:
        """Start workers where the model is small, and give this process one thread meanwhile."""
        if workers is not None and workers < 1:
            raise ConfigError(f"{workers} workers: give 1 or more")
        if not self.session.small:
            if (workers or 1) > 1:
                raise ConfigError(
                    "workers share the study of a small model on a CPU only, and not under"
                    f" accelerate launch: run {self.study.model.name} without --workers"
                )
            yield
            return
        workers, threads = workers or how_many(self._jobs(groups)), torch.get_num_threads()
        factory = partial(in_worker, self.study, self.facts)
        torch.set_num_threads(1)
        try:
            with started(workers, factory) if workers > 1 else nullcontext() as self.workers:
                yield
        finally:
            self.workers = None
            torch.set_num_threads(threads)

    def _jobs(self, groups: list[list[Request]]) -> int:
        blocks = 0 if self.facts is None else len(self.facts) // mastery.BLOCK
        return sum(blocks if group[0].kind == "mastery" else 1 for group in groups)

    def outcomes(self, groups, say) -> Iterator[tuple[Request, Outcome | None]]:
        """Compute the requests of each run, here or in workers.

        Mastery is one request, so its blocks are what workers share; of the rest, whole runs.
        """
        if not self.workers:
            yield from super().outcomes(groups, say)
            return
        yield from super().outcomes([g for g in groups if g[0].kind == "mastery"], say)
        waiting = longest_first([group for group in groups if group[0].kind != "mastery"])
        while waiting:
            claimed: list[Claim] = []
            elsewhere: list[list[Request]] = []
            with ExitStack() as claims:
                jobs = self._jobs_of(waiting, claims, claimed, elsewhere)
                for number, (place, outcome) in self.workers.spread(jobs):
                    request = claimed[number].missing[place]
                    say(self.describe(request))
                    yield request, outcome
                    if place + 1 == len(claimed[number].missing):
                        claimed[number].release()
                yield from ((request, None) for claim in claimed for request in claim.stored)
            if elsewhere and not claimed:
                say(WAITING)
                time.sleep(POLL)
            waiting = elsewhere

    def _jobs_of(
        self,
        groups: list[list[Request]],
        claims: ExitStack,
        claimed: list["Claim"],
        elsewhere: list[list[Request]],
    ) -> Iterator[tuple]:
        """Yield a job for each run as a worker is free for it; claim it just then.

        What is claimed is entered in `claims` and appended to `claimed`, in the order of the jobs;
        what another process has claimed is appended to `elsewhere`.
        """
        for group in groups:
            if claim := self.claim(group):
                claimed.append(claims.enter_context(claim))
                yield ("records", claim.missing)
            else:
                elsewhere.append(group)

    def block(self, chunk: pd.DataFrame, protocol: mastery.Protocol) -> Iterator[pd.DataFrame]:
        """Count the hits of some facts."""
        yield mastery.count(self.session.reader, self.session.tokenizer, chunk, protocol)

    def count_part(self, request: Request, part: Part, workers: int | None) -> bool:
        """Count a part's blocks of mastery, and store the record where the other parts are done.

        Returns whether the record is stored.
        """
        self.load_everywhere()
        blocks = mastery.blocks_of(self.facts)
        shared = pd.concat(part.share(blocks)) if part.share(blocks) else self.facts.iloc[:0]
        if len(shared):
            with self.sharing([[request]], workers):
                _measure(self, request, shared)
        protocol = mastery.Protocol(**request.params["protocol"])
        if devices.in_first_process(
            lambda: mastery.missing_blocks(self.facts, protocol, _partial(request))
        ):
            return not missing([request])
        self.compute([request], workers)
        return True

    def clean_up(self, request: Request) -> None:
        """Delete the finished blocks of scores or mastery, now that their record is stored."""
        if request.kind in ("score", "mastery") and self.session.processes.is_main_process:
            shutil.rmtree(_partial(request), ignore_errors=True)

    def claim_name(self, group: list[Request]) -> str:
        """Return the name of the lock: by the fine-tuning, or by mastery for what follows it."""
        if group[0].kind == "score":  # mastery is of the facts that the scores will choose
            return group[0].key
        run, first = group[0].run, self.study.requests.mastery().key
        if run is not None:
            return self.study.requests.finetune(run).key
        return first if group[0].kind == "mastery" else f"{first}-pretrained"

    # --- one run after another ----------------------------------------------------------------

    def prepare(self, run: Run | None, requests: list[Request]) -> RunState:
        """Bring the weights of a run into memory (None: the pre-trained model)."""
        state = RunState(run, requests)
        self.session.reset()
        if any(request.kind == "divergence" for request in requests):
            self.reference()  # now, while the decoder holds the pre-trained weights
        if run is not None:
            params = self.study.requests.finetune(run).params
            recipe, adapter = Recipe(**params["recipe"]), None
            if lora := params.get("lora"):
                adapter = Adapter(**lora | {"modules": tuple(lora["modules"])})
            chosen = self.facts_of(run, "train")
            state.training, tuned = self.session.finetune(chosen, recipe, "fine-tuning", adapter)
            state.tuned = self.session.compare(tuned, self.study.profile.percents)
        return state

    def facts_of(self, run: Run | None, split: str) -> pd.DataFrame:
        """Return the facts of a split, or those a run is trained on, with mastery and texts."""
        if self._known is None:
            measured = self.study.pools.mastery.drop(columns=["topic", "split"])
            merged = self.facts.merge(measured, on="fact_id", validate="1:1")
            self._known = merged.set_index("fact_id")
        return self._known.loc[self.study.pools.facts(run, split)["fact_id"]].reset_index()

    def prompts(self, state: RunState, split: str) -> list[Prompt]:
        """Return the questions of a split; those of `train` are the run's own."""
        kept = state.prompts if split == "train" else self._prompts
        if split not in kept:
            asked = self.facts_of(state.run, split)
            kept[split] = accuracy.prompts(self.session.tokenizer, asked)
        return kept[split]

    def reference(self) -> divergence.Reference:
        """Return the pre-trained side of §4.1; first called with the pre-trained weights."""
        if self._reference is None:
            test, session = self.facts_of(None, "test"), self.session
            compared = test[test["level"] == self.study.compared_level()]
            self._reference = divergence.reference(session.reader, session.tokenizer, compared)
        return self._reference


def in_worker(study, loaded: pd.DataFrame) -> FactComputation:
    """Return what a worker process computes with, its model in memory."""
    computation = FactComputation(study, loaded, bars=False)
    computation.load()
    return computation


# --- one function per kind of record: returns its result and the table beside it ----------------


def _score(work: FactComputation, _: RunState, request: Request) -> tuple[dict, pd.DataFrame]:
    """Score the candidates from which facts are chosen."""
    candidates, population = work.study.choice.to_score()
    given = work.session.reader, work.session.tokenizer, candidates, work.study.choice.protocol
    options = {"partial_folder": _partial(request), "keep": True}
    with work.session.bar(len(candidates), "scores", "fact", True) as bar:
        table = scores.measure(*given, **options, progress=bar.update)
    return {"population": population, "table": True}, table


def _mastery(work: FactComputation, _: RunState, request: Request) -> tuple[dict, pd.DataFrame]:
    """Measure R_k of every fact (§3.1)."""
    measured = _measure(work, request, work.facts)
    counts = mastery.distribution(measured, paper.SPLITS).to_dict("records")
    columns = ["fact_id", "topic", "split", *mastery.template_columns(measured)]
    return {"counts": counts, "table": True}, measured[columns]


def _measure(work: FactComputation, request: Request, chosen: pd.DataFrame) -> pd.DataFrame:
    """Measure some facts, block by block, in workers where there are any."""
    protocol = mastery.Protocol(**request.params["protocol"])
    options = {"partial": _partial(request), "keep": True}
    if work.workers:
        options["spread"] = lambda blocks: work.workers.spread(
            ("block", block, protocol) for block in blocks
        )
    reader, tokenizer = work.session.reader, work.session.tokenizer
    with work.session.bar(len(chosen), "mastery", "fact", True) as bar:
        options["progress"] = bar.update
        return mastery.measure(reader, tokenizer, chosen, protocol, **options)


def _partial(request: Request) -> Path:
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

    All splits asked of one set of weights are answered together, which fills the batches; the time
    is booked on the first of them.
    """
    if request.key not in state.results:
        same = [
            other
            for other in state.requests
            if other.kind == "accuracy" and other.params["restore"] == request.params["restore"]
        ]
        state.results |= _answer(work, state, same)
    return state.results.pop(request.key), None


def _answer(work: FactComputation, state: RunState, requests: list[Request]) -> dict[str, dict]:
    """Return the results of requests of one set of weights, by key."""
    asked = [work.prompts(state, request.params["split"]) for request in requests]
    limit = max(request.params["max_new_tokens"] for request in requests)
    with _restored(work, state, requests[0].params["restore"]) as undone:
        prompts = [prompt for split in asked for prompt in split]
        reader, tokenizer = work.session.reader, work.session.tokenizer
        completions = accuracy.answer(reader, tokenizer, prompts, max_new_tokens=limit)
    results, first = {}, 0
    for request, split in zip(requests, asked, strict=True):
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


def _restored(work: FactComputation, state: RunState, settings: dict | None):
    if state.tuned is None:  # the pre-trained model has nothing to restore
        return nullcontext(restore.Change())
    return state.tuned.restored(work.session.decoder, settings)


def _undone(state: RunState, undone: restore.Change) -> dict:
    """Return how many parameters were restored, and what part of the whole change that is (%)."""
    if not undone.k:
        return {"restored": 0}
    whole = state.tuned.change
    l1, l2 = undone.l1 / whole.l1, undone.l2 / whole.l2
    return {
        "restored": undone.k,
        "undone": {"l1": round(100 * l1, 9), "l2": round(100 * l2, 9)},
    }


def _instruct(work: FactComputation, _: RunState, request: Request) -> tuple[dict, None]:
    """Put a split's questions to the instruct variant, with the prompt of Appendix A."""
    asked, limit = work.facts_of(None, request.params["split"]), request.params["max_new_tokens"]
    completions = accuracy.answer(*work.session.instruct, asked, max_new_tokens=limit)
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


FactComputation.kinds = {
    "score": _score,
    "mastery": _mastery,
    "finetune": _finetune,
    "accuracy": _accuracy,
    "instruct": _instruct,
    "divergence": _divergence,
    "concentration": _concentration,
    "where": _locations,
}
