"""Two models side by side, a block of a tensor at a time, shared out among threads."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from threading import Lock
from typing import NamedTuple

import numpy as np
import torch

from repro.errors import ModelError
from repro.restoration import regions
from repro.restoration.score_kernels import MOST

Weights = Mapping[str, torch.Tensor]
SIZE = 1 << 22  # parameters of a block
PIECES, SAMPLED = 16, 64  # a sample: so many pieces of a block, one parameter of so many in all
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class Block(NamedTuple):
    """A flat piece of one tensor in both models, beginning at `start`."""

    name: str
    start: int
    tuned: torch.Tensor
    base: torch.Tensor

    def raw(self) -> tuple[np.ndarray, np.ndarray]:
        """Return both as arrays for `score_kernels`: uint16 for bfloat16, else uint32."""
        return _raw(self.tuned), _raw(self.base)


def _raw(tensor: torch.Tensor) -> np.ndarray:
    here = tensor.cpu()
    if here.dtype is torch.bfloat16:
        return here.view(torch.uint16).numpy()
    return here.float().view(torch.uint32).numpy()


@dataclass(frozen=True, eq=False)
class Pair:
    """The tensors of a region in two models, in the order in which ties are broken.

    The weights may be in memory or in mapped files; they must not change while this is in use.
    `progress` is called with the bytes read.
    """

    base: Weights
    tuned: Weights
    tensors: dict[str, tuple[torch.Tensor, torch.Tensor]]  # of the region: tuned, base
    threads: int
    size: int = SIZE
    progress: Callable[[int], object] = lambda size: None

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
        """Yield a few evenly spaced pieces of each block as one; small blocks are yielded whole."""
        for name, start, *both in self._blocks(self.size):
            if len(both[0]) > PIECES * SAMPLED:
                step = len(both[0]) // PIECES
                size = step // SAMPLED
                both = [w[: PIECES * step].view(PIECES, step)[:, :size].flatten() for w in both]
            yield Block(name, start, *both)

    def spread(self, workers: Sequence[Callable[[Block], None]]) -> None:
        """Give every block to one of the workers, each in a thread of its own."""
        blocks, lock = self.blocks(), Lock()

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
                    blocks.close()  # the other threads find no more work
                raise


def pair(
    base: Weights,
    tuned: Weights,
    region: str = "transformer",
    layers: str = "",
    threads: int | None = None,
    size: int = SIZE,
    progress: Callable[[int], object] = lambda size: None,
) -> Pair:
    """Return the region of two models, after comparing names, shapes and types inside it.

    What is outside the region is not compared: it is never restored.

    Raises:
        ConfigError: the region matches nothing, or is no regular expression.
        ModelError: a tensor is missing, differs in shape, or is not of floats.
    """
    inside = regions.inside({**dict.fromkeys(base), **dict.fromkeys(tuned)}, region, layers)
    for name in inside:
        for weights, model in ((tuned, "fine-tuned"), (base, "pre-trained")):
            if name not in weights:
                raise ModelError(
                    f"{name} is missing from the {model} model; a --region without it leaves it"
                    " as it is"
                )
    ranked = {name: (tuned[name].detach(), base[name].detach()) for name in inside}
    for name, tensors in ranked.items():
        _check_shapes(name, *tensors)
        _check_types(name, *tensors)
    return Pair(base, tuned, ranked, threads or torch.get_num_threads(), min(size, MOST), progress)


def left_as_they_are(both: Pair) -> dict[str, list[str]]:
    """Return the tensors outside a region in which the models differ otherwise than in values.

    Returns:
        only_tuned and only_base, the tensors that one model has; and shapes, those of different
        shapes, such as embeddings to which tokens were added.
    """
    outside = [name for name in both.tuned if name not in both.tensors]
    shared = [name for name in outside if name in both.base]
    return {
        "only_tuned": [name for name in outside if name not in both.base],
        "only_base": [name for name in both.base if name not in both.tuned],
        "shapes": [name for name in shared if both.tuned[name].shape != both.base[name].shape],
    }


def _check_shapes(name: str, tuned: torch.Tensor, base: torch.Tensor) -> None:
    if base.shape != tuned.shape:
        shapes = f"{tuple(base.shape)} and {tuple(tuned.shape)}"
        raise ModelError(
            f"{name} has different shapes in the two models: {shapes}; a --region without it"
            " leaves it as it is"
        )


def _check_types(name: str, tuned: torch.Tensor, base: torch.Tensor) -> None:
    if wrong := {base.dtype, tuned.dtype} - set(DTYPES):
        kind = str(wrong.pop()).removeprefix("torch.")
        raise ModelError(
            f"{name} is of {kind}: convert to float32, bfloat16 or float16 first, or give a"
            " --region without it"
        )
