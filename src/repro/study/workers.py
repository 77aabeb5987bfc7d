"""Processes of one thread each that share the study of a small model.

A small model gains little from a second thread, and nearly all of a second process. Each worker
loads the model itself; what it computes it sends to this process, which alone writes. A worker
belongs to no terminal and ends when the connection does, so an interrupt is heard here only.
"""

import gc
import os
import select
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from threading import Thread

from repro.errors import ReproError

LEAST = 8  # jobs for each worker: to start one takes as long as a few of them
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def how_many(jobs: int) -> int:
    """Return how many workers to share some jobs among; 1: they are not worth starting."""
    known = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    return max(1, min(cores, jobs // LEAST)) if os.name == "posix" else 1


@contextmanager
def started(number: int, factory: Callable[[], object]) -> Iterator["Workers"]:
    """Start workers, and end them on exit.

    Each calls `factory`, which can be pickled, and then the methods that `spread` names on what it
    returned.
    """
    found = Workers()
    try:
        for _ in range(number):
            found.start()
        for connection in found.processes:
            found.send(connection, factory)
        yield found
    finally:
        found.end()


class Workers:
    """Some processes, and a connection to each."""

    def __init__(self):
        """Have none yet."""
        self.processes: dict[Connection, subprocess.Popen] = {}

    def start(self) -> None:
        """Start one more."""
        ours, theirs = Pipe()
        self.processes[ours] = subprocess.Popen(
            [sys.executable, "-m", "repro.study.workers", str(theirs.fileno())],
            env=os.environ | ONE_THREAD,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()

    def spread(self, jobs: Iterable[tuple]) -> Iterator[tuple[int, object]]:
        """Give out jobs, (method, *arguments), and yield what each method yields.

        Yields (number of the job, answer) as answers come.

        Raises:
            ReproError: what a worker raised, or it has died.
        """
        waiting, idle, busy = list(enumerate(jobs))[::-1], list(self.processes), {}
        while waiting or busy:
            while waiting and idle:
                number, job = waiting.pop()
                busy[connection := idle.pop()] = number
                self.send(connection, job)
            for connection in wait(list(busy)):
                answer = self._received(connection)
                if answer is None:
                    idle.append(connection)
                    del busy[connection]
                else:
                    yield busy[connection], answer[0]

    def send(self, connection: Connection, what: object) -> None:
        """Send something to a worker.

        Raises:
            ReproError: it has died.
        """
        try:
            connection.send(what)
        except OSError as error:
            raise self._died(connection) from error

    def _received(self, connection: Connection) -> tuple | None:
        try:
            answer = connection.recv()
        except (EOFError, OSError) as error:
            raise self._died(connection) from error
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _died(self, connection: Connection) -> ReproError:
        status = self.processes[connection].wait()
        return ReproError(
            f"a worker process ended with status {status}, perhaps for want of memory: run again,"
            " or with --workers 1"
        )

    def end(self) -> None:
        """End all, whatever they are doing."""
        for connection, process in self.processes.items():
            process.terminate()
            connection.close()
        for process in self.processes.values():
            process.wait()


def work(connection: Connection) -> None:
    """Do jobs, one after another, until the connection is closed."""
    Thread(target=_end_with, args=[connection.fileno()], daemon=True).start()
    factory = connection.recv()
    receiver = factory()
    gc.freeze()
    while True:
        method, *arguments = connection.recv()
        for answer in getattr(receiver, method)(*arguments):
            connection.send((answer,))
        connection.send(None)


def _end_with(connection: int) -> None:
    # Whoever starts the study again must not have to share the machine with workers of before,
    # which would notice only when they next send something.
    poll = select.poll()
    poll.register(connection, 0)  # a connection that is closed is told unasked
    poll.poll()
    os._exit(0)


def main() -> None:
    """Work for the process at the other end of the connection that the command line names."""
    connection = Connection(int(sys.argv[1]))
    try:
        work(connection)
    except (EOFError, ConnectionError):  # nobody is waiting any more
        pass
    except ReproError as error:
        connection.send(error)
    except Exception:
        connection.send(RuntimeError(f"in a worker process:\n{traceback.format_exc()}"))


if __name__ == "__main__":
    main()
