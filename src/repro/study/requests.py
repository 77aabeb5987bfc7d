"""What is asked of a study: the setting of one fine-tuning, and the request for one record."""

from dataclasses import dataclass, field

from repro.study import records

VERSION = 2  # part of every key: raised when a change to the code changes results
MIXED = -2  # "level" of a run on facts of all levels
BASE = -1  # "level" of the pre-trained model, which no run has changed
REGION = "transformer"  # what is restored (§5)


@dataclass(frozen=True)
class Run:
    """One fine-tuning: `size` facts of `level` (None: all of them), data sample `sample`.

    A `rank` above 0 trains adapters of that rank (LoRA) instead of all parameters.
    """

    level: int
    size: int | None
    sample: int
    learning_rate: float
    rank: int = 0


@dataclass(frozen=True)
class Request:
    """A record that is wanted: its kind, its complete parameters, and the run it is measured on."""

    kind: str
    params: dict = field(hash=False)
    run: Run | None = None

    def record(self) -> records.Record | None:
        """Return the finished record, or None."""
        return records.load(self.kind, self.params)
