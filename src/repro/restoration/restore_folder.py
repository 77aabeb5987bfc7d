"""Restores checkpoints on disk: two folders in, one folder out for each share (§5).

All shares are restored in one pass over the tensors, so a model need not fit into memory.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from repro import __version__, provenance
from repro.errors import ConfigError
from repro.files import user_path
from repro.restoration import checkpoints, concentration, ranking, tensor_pairs, thresholds
from repro.restoration.checkpoint_pair import INTERPOLATE, Models, Settings, Work, dtype
from repro.restoration.checkpoints import ShardWriter
from repro.restoration.histograms import Histogram
from repro.restoration.model_card import card
from repro.restoration.output_folder import atomic_folder
from repro.restoration.ranking import Criterion, Ranking
from repro.restoration.restored_share import Share
from repro.restoration.tensor_pairs import Pair


def restore(
    models: Models,
    out: str | Path | None,
    percents: Sequence[float],
    settings: Settings = Settings(),
    work: Work = Work(),
    overwrite: bool = False,
) -> list[dict]:
    """Write TUNED with a share of its parameters set back to their values in BASE.

    Args:
        models: BASE and TUNED.
        out: a folder to write; with several percentages, a folder of folders named after them.
            None writes nothing and returns the reports alone.
        percents: shares to restore, 0 to 100.
        settings: which parameters are restored.
        work: threads, block size, progress.
        overwrite: replace `out` if it exists and was written by this function.

    Returns:
        One report per share, as kept in its `restore.json`.

    Raises:
        ConfigError: a setting is invalid, or `out` must not be written.
        ModelError: the models cannot be read or do not match, or hold NaN or infinity.
        StoreError: the disk is full. In all cases `out` is as it was before.
    """
    if len(set(percents)) != len(percents):
        raise ConfigError("a percentage is given twice")
    if out is None:
        return _restore_shares(models, percents, settings, work, [])
    out = user_path(out)
    inputs = [models.base_files.folder, models.tuned_files.folder]
    checkpoints.check_target(out, inputs, overwrite)
    models.region(settings)  # raises an error before anything is written
    with atomic_folder(out, models.tuned_files.nbytes * len(percents)) as new_folder:
        folders = _folders_of_shares(new_folder, percents)
        return _restore_shares(models, percents, settings, work, folders)


def _folders_of_shares(folder: Path, percents: Sequence[float]) -> list[Path]:
    """Return the folder of each share: the folder itself, or of several shares its subfolders."""
    if len(percents) == 1:
        return [folder]
    return [folder / str(percent).removesuffix(".0") for percent in percents]


def _restore_shares(
    models: Models, percents: Sequence[float], settings: Settings, work: Work, folders: list[Path]
) -> list[dict]:
    """Restore every share in one pass over the region, write each to its folder, and report."""
    ranked = None if settings.strategy == INTERPOLATE else models.rank(settings, work, percents)
    region = ranked.pair if ranked else models.region(settings, work)
    shares = _new_shares(ranked, region.parameters, percents)
    with _writers(models, folders) as writers:
        relative = Criterion("top", dtype(settings), settings.seed)
        total = _restore_region(ranked, region, shares, writers, relative, models.tuned.names)
        _copy(models, region, writers, work)
    reports = [_report(models, settings, ranked, region, share, total) for share in shares]
    for folder, report in zip(folders, reports, strict=bool(folders)):
        _write_companions(models, folder, report)
    return reports


def _new_shares(ranked: Ranking | None, size: int, percents: Sequence[float]) -> list[Share]:
    """Return the shares of a region of `size` parameters, before any block is restored.

    Without a ranking they are interpolated: all parameters change, whatever the percentage.
    """
    if ranked is None:
        for percent in percents:
            ranking.how_many(size, percent)  # raises ConfigError for an invalid percentage
        return [Share(percent, size) for percent in percents]
    cuts = thresholds.thresholds(ranked, percents)
    return [Share(percent, cut.k, cut) for percent, cut in cuts.items()]


@contextmanager
def _writers(models: Models, folders: list[Path]) -> Iterator[list[ShardWriter]]:
    """Create the folders, yield a writer for each, and close them all."""
    writers = []
    try:
        for folder in folders:
            with checkpoints.writing(folder):
                folder.mkdir(parents=True)
                writers.append(ShardWriter(models.tuned_files, folder, models.duplicates))
        yield writers
    finally:
        for writer in writers:
            writer.close()


def _restore_region(
    ranked: Ranking | None,
    region: Pair,
    shares: list[Share],
    writers: list[ShardWriter],
    relative: Criterion,
    stored_names: dict[str, str],
) -> Histogram:
    """Restore the region in every share; return the histogram of all relative changes.

    Args:
        ranked: the ranking that chooses the parameters; None to interpolate.
        region: the tensors to restore.
        shares: each counts what is changed in it.
        writers: one for each share; none to write nothing.
        relative: the criterion of the relative change.
        stored_names: the name of each tensor in the files of TUNED.
    """
    total = Histogram()
    for block, keys, masks in _selection(ranked, region, shares):
        ranked_by_change = ranked is not None and ranked.criterion == relative
        changes = keys if ranked_by_change else relative.keys(block)
        total.add(changes)
        for index, (share, mask) in enumerate(zip(shares, masks, strict=True)):
            restored = share.restore_block(block, mask, changes)
            if writers:
                writers[index].put(stored_names[block.name], block.start, restored)
    return total


def _selection(ranked: Ranking | None, region: Pair, shares: list[Share]) -> Iterator[tuple]:
    """Yield (block, its keys, one mask per share); interpolation has neither keys nor masks."""
    if ranked is not None:
        return thresholds.selection(ranked, [share.cut for share in shares if share.cut])
    return ((block, None, [None] * len(shares)) for block in region.blocks())


def _copy(models: Models, region: Pair, writers: list[ShardWriter], work: Work) -> None:
    """Copy the tensors outside the region from TUNED to the folder of every share."""
    restored_names = {models.tuned.names[name] for name in region.shapes}
    for name in models.tuned_files if writers else ():
        if name in restored_names or name in models.duplicates:
            continue
        values = models.tuned_files[name].reshape(-1)
        for start in range(0, values.numel(), work.block_size):
            piece = values[start : start + work.block_size]
            work.progress(piece.nbytes)
            for writer in writers:
                writer.put(name, start, piece)


def _report(
    models: Models,
    settings: Settings,
    ranked: Ranking | None,
    region: Pair,
    share: Share,
    total: Histogram,
) -> dict:
    """Return the report of one share, as written to `restore.json`.

    `total` is the histogram of the relative changes of the whole region.
    """
    sizes = {name: shape.numel() for name, shape in region.shapes.items()}
    return {
        **models.names,
        "settings": asdict(settings) | {"percent": share.percent},
        "n": region.parameters,
        "k": share.k,
        "differ": share.differ,
        "rounded": share.rounded,
        **_threshold_report(share, settings.strategy, total),
        "zero_base": ranked.zero_base if ranked else None,
        "unchanged": ranked.unchanged if ranked else None,
        "renamed": models.renamed(),
        "left_as_they_are": tensor_pairs.left_as_they_are(region),
        "tensors": {n: {"n": sizes[n], "k": share.tensors.get(n, 0)} for n in sizes},
        "version": __version__,
        "git_commit": provenance.git_commit(),
    }


def _threshold_report(share: Share, strategy: str, total: Histogram) -> dict:
    """Return the threshold of a share, and how much of the whole change it restores (%)."""
    if share.cut is None:  # interpolated: every parameter goes this part of the way back
        change = {"change_restored_percent": share.percent}
        return {"threshold": None, "on_threshold": None, **change}
    restored = concentration.percentage(share.change.total(), total.total())
    return {
        "threshold": share.cut.threshold if strategy in ("top", "absolute") else None,
        "on_threshold": {"chosen": share.cut.ties, "of": share.cut.equal},
        "change_restored_percent": restored,
    }


def _write_companions(models: Models, folder: Path, report: dict) -> None:
    """Write report, card, configuration and tokenizer beside the weights; the index comes last."""
    files = {"base": models.base_files.hashes(), "tuned": models.tuned_files.hashes()}
    text = json.dumps(report | {"sha256": files}, indent=1)
    with checkpoints.writing(folder / "restore.json"):
        (folder / "restore.json").write_text(text + "\n", encoding="utf-8")
        (folder / "README.md").write_text(card(report), encoding="utf-8")
    checkpoints.copy_beside(models.tuned_files.folder, folder)
