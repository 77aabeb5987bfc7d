"""Restoration from checkpoint to checkpoint (§5): any two folders, all shares in one pass."""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

from repro import __version__, provenance
from repro.errors import ConfigError, ModelError, StoreError
from repro.restoration import checkpoints, ranking, tensor_pairs
from repro.restoration.checkpoints import Checkpoint, Shards, align
from repro.restoration.ranking import STRATEGIES, Measure, Ranking
from repro.restoration.score_kernels import Histogram
from repro.restoration.tensor_pairs import Block, Pair

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
INTERPOLATE = "interpolate"


@dataclass(frozen=True)
class Settings:
    """What is restored; as the options of `repro restore`."""

    strategy: str = "top"
    region: str = "transformer"
    layers: str = ""
    score_dtype: str = "float32"
    seed: int = 0


@dataclass(frozen=True)
class Work:
    """How: threads (None: as PyTorch), parameters of a block, who is told of bytes read."""

    threads: int | None = None
    block: int = tensor_pairs.SIZE
    progress: Callable[[int], object] = lambda size: None


class Models:
    """Two checkpoints that have been found, opened and compared."""

    def __init__(self, base: str | Path, tuned: str | Path):
        """Find and open both.

        Raises:
            ModelError: one cannot be found or read, or they are of different architectures.
        """
        self.names = {"base": str(base), "tuned": str(tuned)}
        self.base_files, self.tuned_files = (Checkpoint(checkpoints.find(n)) for n in (base, tuned))
        self.base, self.tuned, self.twins = align(self.base_files, self.tuned_files)

    def renamed(self) -> dict[str, str]:
        """Return for each model an example of a name that is compared without its prefix."""
        examples = {}
        for which, names in (("base", self.base.names), ("tuned", self.tuned.names)):
            for name, stored in names.items():
                # A tied output matrix is not renamed: it is the embedding once more.
                if name != stored and names.get(stored) != stored:
                    examples.setdefault(which, f"{stored} as {name}")
        return examples

    def region(self, settings: Settings, work: Work = Work()) -> Pair:
        """Return the region of both, compared."""
        options = (work.threads, work.block, work.progress)
        return tensor_pairs.pair(self.base, self.tuned, settings.region, settings.layers, *options)

    def rank(
        self, settings: Settings = Settings(), work: Work = Work(), likely: Sequence[float] = ()
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
            block=work.block,
            progress=work.progress,
            likely=likely,
        )


def dtype(settings: Settings) -> torch.dtype:
    """Return the arithmetic of the score.

    Raises:
        ConfigError: it is neither float32 nor bfloat16.
    """
    if settings.score_dtype not in DTYPES:
        raise ConfigError(f"score dtype {settings.score_dtype!r}: give {' or '.join(DTYPES)}")
    return DTYPES[settings.score_dtype]


@dataclass
class Share:
    """One restored share: its settings and, once all blocks have passed, what it did.

    `differ` counts the chosen parameters that the two models hold different values of, `rounded`
    those whose pre-trained value TUNED's type cannot hold exactly. `change` is of the relative
    changes of the chosen.
    """

    percent: float
    k: int
    cut: ranking.Cut | None = None
    differ: int = 0
    rounded: int = 0
    change: Histogram = field(default_factory=Histogram, repr=False)
    tensors: dict[str, int] = field(default_factory=dict)

    def mix(self, block: Block, mask: np.ndarray | None, change: np.ndarray) -> torch.Tensor:
        """Return a block with the chosen restored, in TUNED's type, and count what was done."""
        s, p = block.tuned, block.base
        new = mixed(s, p, mask, self.percent)
        _check_range(block.name, new, p)
        if mask is None:
            self._count(block, new != s, len(change))
            return new
        chosen = torch.from_numpy(mask)
        self._count(block, chosen & (s != p), int(np.count_nonzero(mask)))
        self.change.add(change[mask])
        if p.dtype != s.dtype:
            self.rounded += int((chosen & (p.to(s.dtype).to(p.dtype) != p)).sum())
        return new

    def _count(self, block: Block, differ: torch.Tensor, chosen: int) -> None:
        self.differ += int(differ.sum())
        self.tensors[block.name] = self.tensors.get(block.name, 0) + chosen


def _check_range(name: str, new: torch.Tensor, base: torch.Tensor) -> None:
    """Raise ModelError where a value of BASE is beyond the range of TUNED's type."""
    narrower = torch.finfo(new.dtype).max < torch.finfo(base.dtype).max
    if narrower and not torch.isfinite(new).all():
        kind = str(new.dtype).removeprefix("torch.")
        raise ModelError(
            f"a value of {name} in BASE, {base.abs().max():g}, is too large for {kind}, the type of"
            " TUNED: convert TUNED to float32 or bfloat16 first"
        )


def mixed(
    tuned: torch.Tensor, base: torch.Tensor, mask: np.ndarray | None, percent: float
) -> torch.Tensor:
    """Return weights with the chosen ones at their pre-trained values, in the type of `tuned`.

    Without a mask all are moved `percent` of their way back: interpolation.
    """
    if mask is None:
        return torch.lerp(tuned.float(), base.float(), percent / 100).to(tuned.dtype)
    chosen = torch.from_numpy(mask).to(tuned.device)
    return torch.where(chosen, base.to(tuned.dtype), tuned)


def restore(
    both: Models,
    out: str | Path | None,
    percents: Sequence[float],
    settings: Settings = Settings(),
    work: Work = Work(),
    overwrite: bool = False,
) -> list[dict]:
    """Write TUNED with a share of its parameters set back to BASE's values.

    Args:
        both: the two models.
        out: a folder to write; with several percentages, a folder of folders named after them.
            None writes nothing, and reports what would be.
        percents: shares to restore, 0 to 100.
        settings: what is ranked, and how.
        work: threads, block size, progress.
        overwrite: replace `out` if this function has written it.

    Returns:
        One report per share, as kept in its `restore.json`.

    Raises:
        ConfigError: impossible settings, or `out` must not be written.
        ModelError: the models cannot be read, compared, or hold NaN or infinity.
        StoreError: the disk is full. In all cases `out` is as it was before.
    """
    if len(set(percents)) != len(percents):
        raise ConfigError("a percentage is given twice")
    if out is None:
        return _restore(both, percents, settings, work, [])
    out = Path(out).expanduser()
    inputs = [both.base_files.folder, both.tuned_files.folder]
    checkpoints.check_target(out, inputs, overwrite)
    both.region(settings)  # what cannot be compared is said before anything is written
    with _whole(out, both.tuned_files.nbytes * len(percents)) as work_folder:
        folders = [
            work_folder if len(percents) == 1 else work_folder / str(x).removesuffix(".0")
            for x in percents
        ]
        reports = _restore(both, percents, settings, work, folders)
    return reports


@contextmanager
def _whole(out: Path, size: int):
    """Yield a folder beside `out` that takes its place when all is written."""
    temporary = None
    try:
        with checkpoints.writing(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            _check_space(out, size)
            temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        yield (new := temporary / "new")
        with checkpoints.writing(out):
            _replace(new, out, temporary / "old")
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _check_space(out: Path, size: int) -> None:
    free = shutil.disk_usage(out.parent).free
    if free < size:
        raise StoreError(
            f"{out} needs {size / 1e9:,.2f} GB and its disk has {free / 1e9:,.2f} GB left: make"
            " room, or give another folder"
        )


def _replace(new: Path, out: Path, old: Path) -> None:
    with suppress(FileNotFoundError):
        out.rename(old)
    try:
        new.rename(out)
    except BaseException:  # Ctrl-C too
        if old.exists() and not out.exists():
            old.rename(out)
        raise


def _restore(
    both: Models, percents: Sequence[float], settings: Settings, work: Work, folders: list[Path]
) -> list[dict]:
    ranked = None if settings.strategy == INTERPOLATE else both.rank(settings, work, percents)
    region = ranked.pair if ranked else both.region(settings, work)
    shares = _shares(ranked, region.parameters, percents)
    with _writers(both, folders) as writers:
        relative = Measure("top", dtype(settings), settings.seed)
        total = _mix(ranked, region, shares, writers, relative, both.tuned.names)
        _copy(both, region, writers, work)
    reports = [_report(both, settings, ranked, region, share, total) for share in shares]
    for folder, report in zip(folders, reports, strict=bool(folders)):
        _finish(both, folder, report)
    return reports


def _shares(ranked: Ranking | None, size: int, percents: Sequence[float]) -> list[Share]:
    if ranked is None:
        for x in percents:
            ranking.how_many(size, x)  # refuses what is no percentage
        return [Share(x, size) for x in percents]
    cuts = ranking.thresholds(ranked, percents)
    return [Share(x, cut.k, cut) for x, cut in cuts.items()]


@contextmanager
def _writers(both: Models, folders: list[Path]):
    writers = []
    try:
        for folder in folders:
            with checkpoints.writing(folder):
                folder.mkdir(parents=True)
                writers.append(Shards(both.tuned_files, folder, both.twins))
        yield writers
    finally:
        for writer in writers:
            writer.close()


def _mix(
    ranked: Ranking | None,
    region: Pair,
    shares: list[Share],
    writers: list[Shards],
    relative: Measure,
    stored_names: dict[str, str],
) -> Histogram:
    """Restore the region in every share; return the histogram of all relative changes."""
    total = Histogram()
    for block, keys, masks in _selection(ranked, region, shares):
        own = keys if ranked is not None and ranked.measure == relative else relative.keys(block)
        total.add(own)
        for place, (share, mask) in enumerate(zip(shares, masks, strict=True)):
            mixed = share.mix(block, mask, own)
            if writers:
                writers[place].put(stored_names[block.name], block.start, mixed)
    return total


def _selection(ranked: Ranking | None, region: Pair, shares: list[Share]) -> Iterator[tuple]:
    if ranked is not None:
        return ranking.selection(ranked, [share.cut for share in shares])
    return ((block, None, [None] * len(shares)) for block in region.blocks())


def _copy(both: Models, region: Pair, writers: list[Shards], work: Work) -> None:
    """Copy what is outside the region from TUNED."""
    inside = {both.tuned.names[name] for name in region.shapes}
    for name in both.tuned_files if writers else ():
        if name in inside or name in both.twins:
            continue
        whole = both.tuned_files[name].reshape(-1)
        for start in range(0, whole.numel(), work.block):
            piece = whole[start : start + work.block]
            work.progress(piece.nbytes)
            for writer in writers:
                writer.put(name, start, piece)


def _report(
    both: Models,
    settings: Settings,
    ranked: Ranking | None,
    region: Pair,
    share: Share,
    total: Histogram,
) -> dict:
    cut = share.cut
    chosen = {
        "threshold": cut.threshold if cut and settings.strategy in ("top", "absolute") else None,
        "on_threshold": {"chosen": cut.ties, "of": cut.equal} if cut else None,
        "change_restored_percent": ranking.percentage(share.change.total(), total.total())
        if cut
        else share.percent,
        "zero_base": ranked.zero_base if ranked else None,
        "unchanged": ranked.unchanged if ranked else None,
    }
    sizes = {name: shape.numel() for name, shape in region.shapes.items()}
    return {
        **both.names,
        "settings": asdict(settings) | {"percent": share.percent},
        "n": region.parameters,
        "k": share.k,
        "differ": share.differ,
        "rounded": share.rounded,
        **chosen,
        "renamed": both.renamed(),
        "left_as_they_are": tensor_pairs.left_as_they_are(region),
        "tensors": {n: {"n": sizes[n], "k": share.tensors.get(n, 0)} for n in sizes},
        "version": __version__,
        "git_commit": provenance.git_commit(),
    }


def _finish(both: Models, folder: Path, report: dict) -> None:
    """Write what stands beside the weights; the index last."""
    files = {"base": both.base_files.hashes(), "tuned": both.tuned_files.hashes()}
    text = json.dumps(report | {"sha256": files}, indent=1)
    with checkpoints.writing(folder / "restore.json"):
        (folder / "restore.json").write_text(text + "\n", encoding="utf-8")
        (folder / "README.md").write_text(card(report), encoding="utf-8")
    checkpoints.copy_beside(both.tuned_files.folder, folder)


ABOUT = {
    "top": "the parameters whose relative change was largest",
    "bottom": "the parameters whose relative change was smallest",
    "random": "parameters drawn at random",
    "absolute": "the parameters that moved furthest",
    INTERPOLATE: "all parameters, each this share of its way back",
}
assert ABOUT.keys() == {*STRATEGIES, INTERPOLATE}


def card(report: dict) -> str:
    """Return the model card of a restored checkpoint."""
    settings = report["settings"]
    where = f"region `{settings['region']}`" + (
        f", layers {settings['layers']}" if settings["layers"] else ""
    )
    return f"""---
library_name: transformers
tags: [repro-restore]
---

# {Path(report["tuned"]).name}, {settings["percent"]:g} % restored

This is `{report["tuned"]}` with {settings["percent"]:g} % of its parameters ({where}) set back to
their values in `{report["base"]}`: {ABOUT[settings["strategy"]]}.

- {report["k"]:,} of {report["n"]:,} parameters restored, of which {report["differ"]:,} differed
- {report["change_restored_percent"]:.2f} % of the sum of all relative changes
- {report["rounded"]:,} of the values restored were rounded to the type of this checkpoint

`restore.json` holds all settings, the threshold, the counts of every tensor and the hashes of both
models. Configuration and tokenizer are those of `{report["tuned"]}`, whose licence applies, as does
that of `{report["base"]}`.
"""
