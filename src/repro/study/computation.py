"""The loop that computes missing records with a model that stays in memory.

All records of one fine-tuned model are computed while its weights are in memory. Each is on disk as
soon as it is finished, so an interrupted study goes on where it stopped. Several processes on one
cache share the work: each claims a run before it computes it.
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

POLL = 0.5  # seconds until runs that another process computes are looked at again
WAITING = "waiting for another process"


class Outcome(NamedTuple):
    """What was computed for a record: its result, a table beside it, and the seconds it took."""

    result: dict
    table: pd.DataFrame | None
    seconds: float


class Computation:
    """Computes requests with a model that stays in memory, run by run."""

    # kind of record → function of (computation, state of the run, request) → (result, table)
    kinds: ClassVar[dict[str, Callable]] = {}

    def __init__(self, session: Session, profile: str):
        """Take a session, and the name of the profile that records are made under."""
        self.session, self.profile = session, profile

    def load(self) -> None:
        """Load all that computing needs, unless it is in memory."""
        self.session.load()

    def prepare(self, run: Run | str | None, requests: list[Request]):
        """Bring the weights of a run into memory and return the state that `kinds` work with."""
        raise NotImplementedError

    def describe(self, request: Request) -> str:
        """Return what the progress bar says of a request."""
        return request.kind

    def claim_name(self, group: list[Request]) -> str:
        """Return the name of the lock under which a run's requests are computed."""
        raise NotImplementedError

    def compute(self, requests: list[Request], workers: int | None = None) -> None:
        """Compute and store requests, with a progress bar.

        Under `accelerate launch` all processes share the work, and the first one writes. The runs
        of a small model are shared among `workers` of one thread each (None: one for each core,
        where there are runs enough); their number changes no result.

        Raises:
            ReproError: the model, the facts or the cache folder cannot be used.
        """
        self.load_everywhere()  # now, so that errors come before the progress bar
        text = f"{self.session.model.name} {self.profile}"
        groups = by_run(requests)
        with (
            self.sharing(groups, workers),
            self.session.bar(len(requests), text, "rec", True) as bar,
            closing(self.outcomes(groups, bar.set_postfix_str)) as outcomes,
        ):
            for request, outcome in outcomes:
                if outcome:  # else another process has stored the record in the meantime
                    self.save(request, outcome)
                self.clean_up(request)
                bar.update()

    def load_everywhere(self) -> None:
        """Load in all processes: the first one downloads and converts, once for all."""
        processes = self.session.processes
        with processes.main_process_first():
            self.load()
        processes.wait_for_everyone()

    def sharing(
        self, groups: list[list[Request]], workers: int | None
    ) -> AbstractContextManager[object]:
        """Return the context in which other processes help with these requests: none do."""
        return nullcontext()

    def outcomes(
        self, groups: list[list[Request]], say: Callable[[str], object]
    ) -> Iterator[tuple[Request, Outcome | None]]:
        """Compute the requests of each run that no other process computes, then wait for theirs.

        `say` is told what is being done. Yields each request once, with None where another process
        has stored its record. A run stays claimed until its last record is stored, that is, until
        the caller asks for more.
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
        """Claim the requests of a run; None while another process computes them."""
        name = self.claim_name(group)
        lock = None

        def first_process() -> list[bool] | None:
            nonlocal lock
            lock = locks.acquire(name)
            return None if lock is None else [request.record() is None for request in group]

        absent = devices.in_first_process(first_process)
        return None if absent is None else Claim(group, absent, lock)

    def clean_up(self, request: Request) -> None:
        """Delete what a record no longer needs, now that it is stored, by whichever process."""

    def records(
        self, group: list[Request], say: Callable[[str], object] = lambda text: None
    ) -> Iterator[tuple[int, Outcome]]:
        """Compute the requests of one run; yields (place in the group, outcome)."""
        if not group:
            return
        state = self.prepare(group[0].run, group)
        for place, request in enumerate(group):
            say(self.describe(request))
            start = time.perf_counter()
            result, table = self.kinds[request.kind](self, state, request)
            # A fine-tuning times itself: it is done before its record's turn comes.
            seconds = result.get("seconds", time.perf_counter() - start)
            yield place, Outcome(result, table, round(seconds, 3))

    def save(self, request: Request, outcome: Outcome) -> None:
        """Write a record and the table beside it, once for all processes."""
        session = self.session
        origin = provenance.provenance(
            wall_seconds=outcome.seconds,
            model=session.model.name,
            profile=self.profile,
            device=str(session.network.device),
            processes=session.processes.num_processes,
            dtype=str(session.dtype).removeprefix("torch."),
        )
        record = records.Record(request.kind, request.key, request.params, outcome.result, origin)
        if session.processes.is_main_process:
            records.save(record, outcome.table)
        session.processes.wait_for_everyone()  # the next step may read it


class Claim:
    """The requests of one run, which no other process computes until the claim is released."""

    def __init__(self, group: list[Request], absent: list[bool], lock: FileLock | None):
        """Take the requests, which of them have no record, and the lock, which one process has."""
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
