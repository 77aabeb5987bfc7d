"""The loop that computes missing records with a model that stays in memory.

All records of one fine-tuned model are computed while its weights are in memory. Each is written as
soon as it is finished, so an interrupted study goes on where it stopped. Several processes with the
same cache share the work: each claims a run before it computes the run.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from typing import ClassVar, NamedTuple

import pandas as pd
from filelock import FileLock

from repro import provenance
from repro.models import devices
from repro.study import locks, records
from repro.study.requests import Request, Run
from repro.study.schedule import by_run
from repro.study.session import Session

POLL = 0.5  # seconds between two looks at the runs that other processes compute
WAITING = "waiting for another process"


class Outcome(NamedTuple):
    """The outcome of a request: the result, the table of the record, and the seconds it took."""

    result: dict
    table: pd.DataFrame | None
    seconds: float


class Computation:
    """Computes requests with a model that stays in memory, run by run."""

    # kind of record → function of (computation, state of the run, request) → (result, table)
    kinds: ClassVar[dict[str, Callable]] = {}

    def __init__(self, session: Session, profile: str):
        """Take a session, and the name of the profile, which is part of the provenance."""
        self.session, self.profile = session, profile

    def load(self) -> None:
        """Load the model and the data, unless they are in memory."""
        self.session.load()

    def prepare(self, run: Run | str | None, requests: list[Request]):
        """Load the weights of a run and return its state, which the functions of `kinds` take."""
        raise NotImplementedError

    def describe(self, request: Request) -> str:
        """Return the text of the progress bar for a request."""
        return request.kind

    def claim_name(self, group: list[Request]) -> str:
        """Return the name of the lock under which a run's requests are computed."""
        raise NotImplementedError

    def compute(self, requests: list[Request], workers: int | None = None) -> int:
        """Compute and store requests, with a progress bar.

        Under `accelerate launch` all processes share the work, and the first one writes.

        Args:
            requests: the requests without a record.
            workers: the number of processes, of one thread each, that share the runs of a small
                model; None: one for each core, if there are enough runs. It changes no result.

        Returns:
            How many records were computed here. Those that another process has stored in the
            meantime do not count.

        Raises:
            ReproError: the model, the facts or the cache folder cannot be used.
        """
        self.load_everywhere()  # load now, so that errors come before the progress bar
        text = f"{self.session.model.name} {self.profile}"
        groups, computed = by_run(requests), 0
        with (
            self.sharing(groups, workers),
            self.session.bar(len(requests), text, "rec", True) as bar,
            closing(self.outcomes(groups, bar.set_postfix_str)) as outcomes,
        ):
            for request, outcome in outcomes:
                if outcome:  # else another process has stored the record in the meantime
                    self.save(request, outcome)
                    computed += 1
                self.clean_up(request)
                bar.update()
        return computed

    def load_everywhere(self) -> None:
        """Load in all processes. The first one downloads and converts, and the others wait."""
        processes = self.session.processes
        with processes.main_process_first():
            self.load()
        processes.wait_for_everyone()

    def sharing(
        self, groups: list[list[Request]], workers: int | None
    ) -> AbstractContextManager[object]:
        """Return the context in which workers help with these requests; here there are none."""
        return nullcontext()

    def outcomes(
        self, groups: list[list[Request]], say: Callable[[str], object]
    ) -> Iterator[tuple[Request, Outcome | None]]:
        """Compute the requests of each run that no other process computes, then wait for the rest.

        A run stays claimed until its last record is stored, that is, until the caller asks for the
        next outcome.

        Args:
            groups: the requests of each run.
            say: is called with a text about the current work.

        Yields:
            Each request once with its outcome; None if another process has stored its record.
        """
        while groups:
            elsewhere = []
            for group in groups:
                if (claim := self.claim(group)) is None:
                    elsewhere.append(group)
                    continue
                with claim:
                    yield from ((request, None) for request in claim.stored)
                    for place, outcome in self.records(claim.missing, say):
                        yield claim.missing[place], outcome
            if len(elsewhere) == len(groups):
                say(WAITING)
                time.sleep(POLL)
            groups = elsewhere

    def claim(self, group: list[Request]) -> "Claim | None":
        """Claim the requests of a run; return None while another process computes them."""
        name = self.claim_name(group)
        lock = None

        def first_process() -> list[bool] | None:
            nonlocal lock
            lock = locks.acquire(name)
            return None if lock is None else [request.record() is None for request in group]

        absent = devices.in_first_process(first_process)
        return None if absent is None else Claim(group, absent, lock)

    def clean_up(self, request: Request) -> None:
        """Delete files that are no longer needed once a record is stored, by any process."""

    def records(
        self, group: list[Request], say: Callable[[str], object] = lambda text: None
    ) -> Iterator[tuple[int, Outcome]]:
        """Compute the requests of one run; yield (place in the group, outcome) of each."""
        if not group:
            return
        state = self.prepare(group[0].run, group)
        for place, request in enumerate(group):
            say(self.describe(request))
            start = time.perf_counter()
            result, table = self.kinds[request.kind](self, state, request)
            # A fine-tuning has its own seconds, because `prepare` has done it before.
            seconds = result.get("seconds", time.perf_counter() - start)
            yield place, Outcome(result, table, round(seconds, 3))

    def save(self, request: Request, outcome: Outcome) -> None:
        """Write a record and its table, in the first process only."""
        session = self.session
        origin = provenance.provenance(
            wall_seconds=outcome.seconds,
            model=session.model.name,
            profile=self.profile,
            device=str(session.network.device),
            processes=session.processes.num_processes,
            dtype=str(session.dtype).removeprefix("torch."),
            **session.division(),
        )
        record = records.Record(request.kind, request.key, request.params, outcome.result, origin)
        if session.processes.is_main_process:
            records.save(record, outcome.table)
        session.processes.wait_for_everyone()  # the next step may read it


class Claim:
    """The requests of one run. No other process computes them until the claim is released."""

    def __init__(self, group: list[Request], absent: list[bool], lock: FileLock | None):
        """Take the requests, which of them lack a record, and the lock (in the first process)."""
        pairs = list(zip(group, absent, strict=True))
        self.missing = [request for request, is_absent in pairs if is_absent]
        self.stored = [request for request, is_absent in pairs if not is_absent]
        self._lock = lock

    def __enter__(self) -> "Claim":
        """Return the claim."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release it."""
        self.release()

    def release(self) -> None:
        """Let other processes have the run."""
        if self._lock:
            locks.release(self._lock)
            self._lock = None
