"""Threads that compute batches of a model side by side."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch

from repro.inference.cpu.cpu_engine import CpuEngine


def thread_count(engine: CpuEngine | None) -> int:
    """Return how many threads compute batches side by side, one batch each.

    Operations of the CPU engine other than matrix products use one thread, so several batches at a
    time leave no core idle. A small model has a process for each core instead.
    """
    return torch.get_num_threads() if engine and not engine.small else 1


def map_in_threads(number: int, work: Callable, jobs: Iterable) -> Iterator:
    """Yield the result of `work` for each job, in order; threads share the jobs and the cores."""
    if number == 1:
        yield from map(work, jobs)
        return
    pool = ThreadPoolExecutor(number, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield from pool.map(work, jobs)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(number)  # the number that later threads start with
