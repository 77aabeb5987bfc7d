"""The same region of two models, read in blocks by several threads."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import islice
from threading import Lock
from typing import NamedTuple

import numpy as np
import torch

from repro.errors import ModelError
from repro.models.devices import processes
from repro.restoration import regions
from repro.restoration.score_kernels import MAX_PACKED

Weights = Mapping[str, torch.Tensor]
BLOCK_SIZE = 1 << 22  # parameters in a block
SAMPLE_PIECES = 16  # pieces that a sample takes of a block
SAMPLE_EVERY = 64  # a sample takes one parameter in so many
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class Block(NamedTuple):
    """A flat slice of one tensor in both models, which begins at position `start`."""

    name: str
    start: int
    tuned: torch.Tensor
    base: torch.Tensor

    @property
    def on_host(self) -> bool:
        """Whether the weights are in the memory of the host, mapped files included."""
        return self.base.device.type == self.tuned.device.type == "cpu"

    def raw(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (tuned, base) as bits for `score_kernels`: uint16 of bfloat16, else uint32."""
        return _raw(self.tuned), _raw(self.base)


def _raw(tensor: torch.Tensor) -> np.ndarray:
    on_cpu = tensor.cpu()
    if on_cpu.dtype is torch.bfloat16:
        return on_cpu.view(torch.uint16).numpy()
    return on_cpu.float().view(torch.uint32).numpy()


@dataclass(frozen=True, eq=False)
class Pair:
    """The tensors of a region in two models, in the order in which ties are broken.

    The weights may be in memory or in memory-mapped files. They must not change while the pair is
    in use.

    Attributes:
        base, tuned: all weights of the two models by name.
        tensors: (tuned, base) of each tensor of the region, by name.
        threads: threads that read blocks.
        size: the number of parameters in a block.
        progress: called with the bytes read.
        shared: whether each process of a launch reads a part of the blocks.
    """

    base: Weights
    tuned: Weights
    tensors: dict[str, tuple[torch.Tensor, torch.Tensor]]
    threads: int
    size: int = BLOCK_SIZE
    progress: Callable[[int], object] = lambda size: None
    shared: bool = False

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """The region's tensors, in the order in which ties are broken."""
        return {name: tuned.shape for name, (tuned, _) in self.tensors.items()}

    @property
    def parameters(self) -> int:
        """Number of parameters in the region."""
        return sum(tuned.numel() for tuned, _ in self.tensors.values())

    def blocks(self, size: int | None = None) -> Iterator[Block]:
        """Yield the region block by block; `size` 0 yields whole tensors."""
        for block in self._blocks(self.size if size is None else size):
            self.progress(block.tuned.nbytes + block.base.nbytes)
            yield block

    def _blocks(self, size: int) -> Iterator[Block]:
        for name, tensors in self.tensors.items():
            tuned, base = (tensor.reshape(-1) for tensor in tensors)
            step = size or max(len(tuned), 1)
            for start in range(0, len(tuned), step):
                yield Block(name, start, tuned[start : start + step], base[start : start + step])

    def sample(self) -> Iterator[Block]:
        """Yield of each block a few evenly spaced pieces, joined; a small block as a whole."""
        for name, start, *weights in self._blocks(self.size):
            if len(weights[0]) > SAMPLE_PIECES * SAMPLE_EVERY:
                step = len(weights[0]) // SAMPLE_PIECES
                size = step // SAMPLE_EVERY
                weights = [
                    w[: SAMPLE_PIECES * step].view(SAMPLE_PIECES, step)[:, :size].flatten()
                    for w in weights
                ]
            yield Block(name, start, *weights)

    def blocks_of_process(self) -> Iterator[Block]:
        """Yield the blocks that this process counts: all, or of a shared pair every N-th."""
        blocks = self._blocks(self.size)
        if self.shared:
            blocks = islice(blocks, processes().process_index, None, processes().num_processes)
        for block in blocks:
            self.progress(block.tuned.nbytes + block.base.nbytes)
            yield block

    def spread(self, workers: Sequence[Callable[[Block], None]]) -> None:
        """Call the workers with the blocks, each worker in a thread of its own.

        A worker gets the next block as soon as it is free.
        """
        blocks, lock = self.blocks_of_process(), Lock()

        def run(worker) -> None:
            while True:
                with lock:
                    block = next(blocks, None)
                if block is None:
                    return
                worker(block)

        with ThreadPoolExecutor(len(workers)) as pool:
            running = [pool.submit(run, worker) for worker in workers]
            try:
                for done in as_completed(running):
                    done.result()
            except BaseException:
                with lock:
                    blocks.close()  # so that the other threads stop
                raise


def pair(
    base: Weights,
    tuned: Weights,
    region: str = "transformer",
    layers: str = "",
    threads: int | None = None,
    size: int = BLOCK_SIZE,
    progress: Callable[[int], object] = lambda size: None,
) -> Pair:
    """Return a region of two models, after checking that its names, shapes and types match.

    Tensors outside the region are not checked, since they are never restored.

    Raises:
        ConfigError: the region matches nothing, or is no regular expression.
        ModelError: a tensor is missing, differs in shape, or does not hold floats.
    """
    names = regions.tensors_in({**dict.fromkeys(base), **dict.fromkeys(tuned)}, region, layers)
    for name in names:
        for weights, model in ((tuned, "fine-tuned"), (base, "pre-trained")):
            if name not in weights:
                raise ModelError(
                    f"{name} is missing from the {model} model; a --region without it leaves it"
                    " as it is"
                )
    ranked = {name: (tuned[name].detach(), base[name].detach()) for name in names}
    for name, tensors in ranked.items():
        _check_shapes(name, *tensors)
        _check_types(name, *tensors)
    return Pair(
        base, tuned, ranked, threads or torch.get_num_threads(), min(size, MAX_PACKED), progress
    )


def left_as_they_are(pair: Pair) -> dict[str, list[str]]:
    """Return the tensors outside a region that one model lacks or that differ in shape.

    Returns:
        Lists of names: only_tuned and only_base, the tensors of one model alone; shapes, those of
        different shapes, such as embeddings to which tokens were added.
    """
    outside = [name for name in pair.tuned if name not in pair.tensors]
    shared = [name for name in outside if name in pair.base]
    return {
        "only_tuned": [name for name in outside if name not in pair.base],
        "only_base": [name for name in pair.base if name not in pair.tuned],
        "shapes": [name for name in shared if pair.tuned[name].shape != pair.base[name].shape],
    }


def _check_shapes(name: str, tuned: torch.Tensor, base: torch.Tensor) -> None:
    if base.shape != tuned.shape:
        shapes = f"{tuple(base.shape)} and {tuple(tuned.shape)}"
        raise ModelError(
            f"{name} has different shapes in the two models: {shapes}; a --region without it"
            " leaves it as it is"
        )


def _check_types(name: str, tuned: torch.Tensor, base: torch.Tensor) -> None:
    if unsupported := {base.dtype, tuned.dtype} - set(DTYPES):
        kind = str(unsupported.pop()).removeprefix("torch.")
        raise ModelError(
            f"{name} is of {kind}: convert to float32, bfloat16 or float16 first, or give a"
            " --region without it"
        )
