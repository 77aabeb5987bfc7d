"""Computes the records of a `Study`, run by run, in this process or in workers (§3.3).

`repro.study.computation` is the loop, `repro.study.fact_records` has a function for each kind of
record. `repro.study.task_compute` does the same for GSM8K and XSum.
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial

import pandas as pd
import torch

from repro.errors import ConfigError
from repro.inference.decoding import Prompt
from repro.measures import accuracy, divergence, mastery
from repro.models import devices, launch
from repro.study import fact_records
from repro.study.choice import selected_facts
from repro.study.computation import POLL, WAITING, Claim, Computation, Outcome
from repro.study.requests import MIXED, Request, Run
from repro.study.schedule import Part, longest_first
from repro.study.session import Session
from repro.study.workers import Workers, how_many, started
from repro.training.recipe import Adapter, Recipe


class FactComputation(Computation):
    """Computes the records of a `Study`. All runs share its facts, prompts and references."""

    kinds = fact_records.KINDS

    def __init__(self, study, loaded: pd.DataFrame | None = None, bars: bool = True):
        """Take a `repro.study.Study`, and its profile's facts if they are loaded already."""
        super().__init__(_session(study, bars), study.profile.name)
        self.study, self.facts = study, loaded
        self.workers: Workers | None = None
        self._facts_by_id: pd.DataFrame | None = None  # with their mastery
        self._prompts: dict[str, list[Prompt]] = {}
        self._reference: divergence.Reference | None = None

    def load(self) -> None:
        """Load the model and the profile's facts, unless they are in memory.

        If facts are chosen by score, they are loaded once the scores exist.
        """
        choice = self.study.choice
        if self.facts is None and (choice is None or choice.request().record()):
            self.facts = selected_facts(self.study)
        super().load()

    def describe(self, request: Request) -> str:
        """Return the text of the progress bar for a request."""
        run = request.run
        if run is None:
            return request.kind
        level = "all levels" if run.level == MIXED else f"level {run.level}"
        level += ", LoRA" if run.rank else ""
        return f"{request.kind}, {level}, {run.size or 'all'} facts, sample {run.sample}"

    # --- sharing work -------------------------------------------------------------------------

    @contextmanager
    def sharing(self, groups: list[list[Request]], workers: int | None) -> Iterator[None]:
        """Start workers if the model is small; this process has one thread meanwhile."""
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
        workers = workers or how_many(_number_of_jobs(groups, self.facts))
        threads = torch.get_num_threads()
        factory = partial(in_worker, self.study, self.facts)
        torch.set_num_threads(1)
        try:
            with started(workers, factory) if workers > 1 else nullcontext() as self.workers:
                yield
        finally:
            self.workers = None
            torch.set_num_threads(threads)

    def outcomes(self, groups, say) -> Iterator[tuple[Request, Outcome | None]]:
        """Compute the requests of each run, in this process or in workers.

        Workers share the blocks of mastery, which is one request, and the other requests run by
        run.
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
        """Yield a job for each run when a worker is free for it, and claim the run only then.

        Args:
            groups: the requests of each run.
            claims: holds the claims, and releases them on exit.
            claimed: each claim is appended to it, in the order of the jobs.
            elsewhere: each run that another process has claimed is appended to it.
        """
        for group in groups:
            if claim := self.claim(group):
                claimed.append(claims.enter_context(claim))
                yield ("records", claim.missing)
            else:
                elsewhere.append(group)

    def block(self, chunk: pd.DataFrame, protocol: mastery.Protocol) -> Iterator[pd.DataFrame]:
        """Count the hits of a block of facts; a worker calls it."""
        yield mastery.count(self.session.reader, self.session.tokenizer, chunk, protocol)

    def count_part(self, request: Request, part: Part, workers: int | None) -> int:
        """Count a part's blocks of mastery, and store the record if the other parts are done.

        Returns:
            How many records were computed here: 1 if this part stored that of mastery, else 0.
        """
        self.load_everywhere()
        if blocks := part.share(mastery.blocks_of(self.facts)):
            with self.sharing([[request]], workers):
                fact_records.measure(self, request, pd.concat(blocks))
        protocol = mastery.Protocol(**request.params["protocol"])
        if devices.in_first_process(
            lambda: mastery.missing_blocks(
                self.facts, protocol, fact_records.partial_folder(request)
            )
        ):
            return 0
        return self.compute([request], workers)

    def clean_up(self, request: Request) -> None:
        """Delete the finished blocks of scores or mastery, after their record was stored."""
        if request.kind in ("score", "mastery") and self.session.processes.is_main_process:
            shutil.rmtree(fact_records.partial_folder(request), ignore_errors=True)

    def claim_name(self, group: list[Request]) -> str:
        """Return the name of the lock of a run's requests.

        It is the key of the fine-tuning. For the pre-trained model it is made from that of mastery.
        """
        if group[0].kind == "score":  # the key of mastery is unknown before the scores exist
            return group[0].key
        run, first = group[0].run, self.study.requests.mastery().key
        if run is not None:
            return self.study.requests.finetune(run).key
        return first if group[0].kind == "mastery" else f"{first}-pretrained"

    # --- one run after another ----------------------------------------------------------------

    def prepare(self, run: Run | None, requests: list[Request]) -> fact_records.RunState:
        """Bring the weights of a run into memory (None: the pre-trained model)."""
        state = fact_records.RunState(run, requests)
        self.session.reset()
        if any(request.kind == "divergence" for request in requests):
            self.reference()  # while the decoder holds the pre-trained weights
        if run is not None:
            params = self.study.requests.finetune(run).params
            _check_sharding(params)
            recipe, adapter = Recipe(**params["recipe"]), None
            if lora := params.get("lora"):
                adapter = Adapter(**lora | {"modules": tuple(lora["modules"])})
            facts = self.facts_of(run, "train")
            state.training, tuned = self.session.finetune(facts, recipe, "fine-tuning", adapter)
            state.tuned = self.session.compare(tuned, self.study.profile.percents)
        return state

    def compute(self, requests: list[Request], workers: int | None = None) -> int:
        """Compute and store requests as `Computation.compute`, then delete fine-tuned weights."""
        computed = super().compute(requests, workers)
        self.session.finish()
        return computed

    def facts_of(self, run: Run | None, split: str) -> pd.DataFrame:
        """Return the facts of a split, or those a run is trained on, with mastery and texts."""
        if self._facts_by_id is None:
            measured = self.study.pools.mastery.drop(columns=["topic", "split"])
            merged = self.facts.merge(measured, on="fact_id", validate="1:1")
            self._facts_by_id = merged.set_index("fact_id")
        return self._facts_by_id.loc[self.study.pools.facts(run, split)["fact_id"]].reset_index()

    def prompts(self, state: fact_records.RunState, split: str) -> list[Prompt]:
        """Return the questions of a split; for `train` those of the run's facts."""
        prompts_by_split = state.prompts if split == "train" else self._prompts
        if split not in prompts_by_split:
            facts = self.facts_of(state.run, split)
            prompts_by_split[split] = accuracy.prompts(self.session.tokenizer, facts)
        return prompts_by_split[split]

    def reference(self) -> divergence.Reference:
        """Return the pre-trained side of §4.1. The first call needs the pre-trained weights."""
        if self._reference is None:
            test, session = self.facts_of(None, "test"), self.session
            compared = test[test["level"] == self.study.compared_level()]
            self._reference = divergence.reference(session.reader, session.tokenizer, compared)
        return self._reference


def _number_of_jobs(groups: list[list[Request]], facts: pd.DataFrame | None) -> int:
    """Return how many jobs workers can share: blocks of mastery, and runs."""
    blocks = 0 if facts is None else len(facts) // mastery.BLOCK
    return sum(blocks if group[0].kind == "mastery" else 1 for group in groups)


def _check_sharding(params: dict) -> None:
    """Raise ConfigError if a fine-tuning must be divided and this launch does not divide it.

    `params` are the parameters of its record.
    """
    divided = params.get("sharding")
    if divided and not launch.sharding():
        raise ConfigError(
            f"the fine-tunings of this study are divided among {divided['processes']} processes:"
            " launch it in the same way, with accelerate launch --use_fsdp --fsdp_version 2"
            f" --num_processes {divided['processes']}"
        )


def _session(study, bars: bool) -> Session:
    """Return the session of a study: its model is whole, or divided if the launch divides it."""
    if sharding := launch.sharding():
        from repro.study.sharded_session import ShardedSession  # imports FSDP, which is slow

        options = sharding, study.number_format.name, bars, study.engine
        return ShardedSession(study.model, *options)
    return Session(study.model, study.number_format.name, bars, study.engine)


def in_worker(study, loaded: pd.DataFrame) -> FactComputation:
    """Return the computation of a worker process, with its model in memory."""
    computation = FactComputation(study, loaded, bars=False)
    computation.load()
    return computation
