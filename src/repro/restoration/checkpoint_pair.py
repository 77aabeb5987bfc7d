"""The two checkpoints that are ranked or restored, and the settings of both commands."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from repro.errors import ConfigError
from repro.restoration import checkpoints, ranking, tensor_pairs
from repro.restoration.checkpoints import Checkpoint, align
from repro.restoration.ranking import Ranking
from repro.restoration.tensor_pairs import Pair

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
INTERPOLATE = "interpolate"


@dataclass(frozen=True)
class Settings:
    """Which parameters are restored: the options of `repro restore` of the same names."""

    strategy: str = "top"
    region: str = "transformer"
    layers: str = ""
    score_dtype: str = "float32"
    seed: int = 0


@dataclass(frozen=True)
class Work:
    """How the work is done; no result depends on it.

    Attributes:
        threads: number of threads; None: as many as PyTorch uses.
        block_size: number of parameters in a block.
        progress: called with the number of bytes read.
    """

    threads: int | None = None
    block_size: int = tensor_pairs.BLOCK_SIZE
    progress: Callable[[int], object] = lambda size: None


class Models:
    """Two open checkpoints whose tensors are matched by name."""

    def __init__(self, base: str | Path, tuned: str | Path):
        """Find and open both checkpoints.

        Raises:
            ModelError: one cannot be found or read, or they are of different architectures.
        """
        self.names = {"base": str(base), "tuned": str(tuned)}
        self.base_files, self.tuned_files = (Checkpoint(checkpoints.find(n)) for n in (base, tuned))
        self.base, self.tuned, self.duplicates = align(self.base_files, self.tuned_files)

    def renamed(self) -> dict[str, str]:
        """Return for each model an example of a tensor that is compared under another name."""
        examples = {}
        for which, names in (("base", self.base.names), ("tuned", self.tuned.names)):
            for name, stored in names.items():
                # A tied output matrix is not renamed: it is the embedding under a second name.
                if name != stored and names.get(stored) != stored:
                    examples.setdefault(which, f"{stored} as {name}")
        return examples

    def region(self, settings: Settings, work: Work = Work()) -> Pair:
        """Return the region of both models, after checking that its tensors match."""
        options = (work.threads, work.block_size, work.progress)
        return tensor_pairs.pair(self.base, self.tuned, settings.region, settings.layers, *options)

    def rank(
        self,
        settings: Settings = Settings(),
        work: Work = Work(),
        expected_percents: Sequence[float] = (),
    ) -> Ranking:
        """Rank the region's parameters, as `repro.restoration.ranking.rank`."""
        return ranking.rank(
            self.base,
            self.tuned,
            settings.region,
            dtype(settings),
            layers=settings.layers,
            strategy=settings.strategy,
            seed=settings.seed,
            threads=work.threads,
            block_size=work.block_size,
            progress=work.progress,
            expected_percents=expected_percents,
        )


def dtype(settings: Settings) -> torch.dtype:
    """Return the dtype in which scores are computed.

    Raises:
        ConfigError: it is neither float32 nor bfloat16.
    """
    if settings.score_dtype not in DTYPES:
        raise ConfigError(f"score dtype {settings.score_dtype!r}: give {' or '.join(DTYPES)}")
    return DTYPES[settings.score_dtype]
