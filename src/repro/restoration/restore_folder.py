"""Restoration from checkpoint to checkpoint (§5): any two folders, all shares in one pass."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from repro import __version__, provenance
from repro.errors import ConfigError
from repro.restoration import checkpoints, concentration, ranking, tensor_pairs, thresholds
from repro.restoration.checkpoint_pair import INTERPOLATE, Models, Settings, Work, dtype
from repro.restoration.checkpoints import Shards
from repro.restoration.model_card import card
from repro.restoration.output_folder import atomic_folder
from repro.restoration.ranking import Measure, Ranking
from repro.restoration.restored_share import Share
from repro.restoration.score_kernels import Histogram
from repro.restoration.tensor_pairs import Pair


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
    with atomic_folder(out, both.tuned_files.nbytes * len(percents)) as work_folder:
        folders = [
            work_folder if len(percents) == 1 else work_folder / str(x).removesuffix(".0")
            for x in percents
        ]
        reports = _restore(both, percents, settings, work, folders)
    return reports


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
    cuts = thresholds.thresholds(ranked, percents)
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
        return thresholds.selection(ranked, [share.cut for share in shares])
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
        "change_restored_percent": concentration.percentage(share.change.total(), total.total())
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
