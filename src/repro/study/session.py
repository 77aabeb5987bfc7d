"""One model in memory: loaded once, fine-tuned and reset as often as a study needs."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from importlib.util import find_spec

import pandas as pd
import torch
from tqdm import tqdm

from repro.errors import ConfigError
from repro.inference.cpu import cpu_engine
from repro.inference.vllm_engine import VllmEngine
from repro.models import devices, loading, registry, tensor_parallel, weights
from repro.restoration import restore
from repro.study import engines
from repro.study.requests import REGION
from repro.training import sft
from repro.training.recipe import Adapter, Recipe

Weights = dict[str, torch.Tensor]
CPU_ENGINE = "the CPU engine computes LLaMA, Gemma 3 and Qwen2 on a CPU, in one process"


class Session:
    """A model in memory: the float32 weights that are trained, and the network that answers.

    `load` sets these attributes:

    - network: the float32 network that is trained; tokenizer: its tokenizer;
    - small: whether several processes of one thread can share a study;
    - decoder: the network that answers, in the study's number format; if that is float32, it is
      the trained network;
    - trainer: the argument of `sft.finetune`; reader: the argument of `complete`. Both are a
      network, or the CPU engine that computes it.
    """

    def __init__(
        self,
        model: registry.ModelEntry,
        number_format: str = "float32",
        bars: bool = True,
        engine: str = engines.AUTO,
    ):
        """Load nothing yet.

        Args:
            model: a registry entry.
            number_format: of training and answers, `float32` or `bfloat16`.
            bars: show progress bars.
            engine: what answers, one of `engines.NAMES`; by default the CPU engine, where it
                can compute this model, else the layers of transformers.
        """
        self.model, self.bars, self.engine = model, bars, engine
        self.dtype: torch.dtype = getattr(torch, number_format)
        self.processes = devices.processes()
        self._loaded = False
        self._instruct: tuple | None = None  # the instruct variant and its tokenizer
        # The pre-trained weights, copied before they first change.
        self._base: Weights | None = None
        self._changed = False  # whether the weights in memory may differ from the pre-trained ones

    def load(self) -> None:
        """Load the model, unless it is in memory.

        Raises:
            ModelError: it cannot be loaded.
            ConfigError: the engine that is asked for cannot compute it here.
        """
        if self._loaded:
            return
        self._check_engine()
        self.network, self.tokenizer = loading.load_model(self.model)
        by_cpu = self.engine in (engines.AUTO, engines.CPU)
        alone = by_cpu and self.processes.num_processes == 1
        is_float32 = self.dtype is torch.float32
        fits = alone and is_float32 and cpu_engine.fits(self.network)
        self.small = fits and self.network.num_parameters() <= devices.SMALL_MODEL
        self.trainer = self.reader = self.network
        if self.engine == engines.VLLM:
            self.decoder = self.reader = VllmEngine(weights.obtain(self.model), self.dtype)
            self._loaded = True
            return
        self.decoder = self.network if is_float32 else loading.load_model(self.model, self.dtype)[0]
        if alone and cpu_engine.fits(self.decoder):
            self.reader = cpu_engine.CpuEngine(self.decoder)
            # The float32 weights are trained, and multiplied in the dtype of the decoder.
            if is_float32:
                self.trainer = self.reader
            else:
                self.trainer = cpu_engine.CpuEngine(self.network, self.dtype)
        elif self.engine == engines.CPU:
            raise ConfigError(f"{CPU_ENGINE}, not {self.model.name} here: leave out --engine cpu")
        elif not is_float32:
            self.reader = self.decoder
        self._loaded = True

    def _check_engine(self) -> None:
        """Raise ConfigError where an engine that answers from one process meets several."""
        if self.engine in (engines.CPU, engines.VLLM) and self.processes.num_processes > 1:
            raise ConfigError(
                f"--engine {self.engine} answers from one process: launch one, or leave it out"
            )

    @property
    def scorer(self):
        """What tells the probability of a given answer: never vLLM, but the network beside it.

        Raises:
            ConfigError: there is no network beside it.
        """
        if isinstance(self.network, VllmEngine):
            raise ConfigError(
                "vLLM does not score facts: compute the scores first, without --engine vllm"
            )
        return self.network if self.engine == engines.VLLM else self.reader

    @property
    def instruct(self) -> tuple:
        """The model's instruct variant and its tokenizer, to answer questions with."""
        variant = registry.entry(self.model.instruct)
        if self.engine == engines.VLLM:
            self.reader.pause()  # the memory of a GPU has room for one of them, so none is kept
            folder = weights.obtain(variant)
            return VllmEngine(folder, self.dtype), loading.load_tokenizer(variant)
        self._instruct = self._instruct or loading.load_model(variant, self.dtype)
        return self._instruct

    def reset(self) -> None:
        """Set all weights back to the pre-trained ones."""
        if self._changed:
            for network in {self.network, self.decoder}:
                restore.write(network, self._base)
            self._changed = False

    def finetune(
        self, facts: pd.DataFrame, recipe: Recipe, text: str, adapter: Adapter | None = None
    ) -> tuple[dict, Weights]:
        """Fine-tune the pre-trained weights; the decoder has the result afterwards.

        Args:
            facts: DataFrame[question, object, …].
            recipe: the settings of the training.
            text: of the progress bar.
            adapter: train low-rank adapters instead of all parameters.

        Returns:
            The result of `sft.finetune`, and a copy of the fine-tuned weights.
        """
        self.reset()
        if self._base is None:
            self._base = restore.snapshot(self.network)
        self._changed = True
        if isinstance(self.reader, VllmEngine):
            self.reader.pause()
        with self._steps(-(-len(facts) // recipe.batch_size), text) as show:
            training = self._train(facts, recipe, adapter, show)
        tuned = restore.snapshot(self.network)
        restore.write(self.decoder, tuned)
        return training, tuned

    def _train(self, facts, recipe: Recipe, adapter: Adapter | None, show) -> dict:
        if adapter is None:
            return sft.finetune(self.trainer, self.tokenizer, facts, recipe, show, self.dtype)
        from repro.training import lora  # loads peft, which nothing else needs

        inputs = self.network, self.tokenizer, facts, recipe, adapter, show
        return lora.finetune(*inputs, self.dtype)

    def division(self) -> dict:
        """Return what provenance says of processes that divide the network that answers."""
        size = tensor_parallel.group(self.network).size
        return {"tensor_parallel": size} if size > 1 else {}

    def compare(self, tuned: Weights, percents: Iterable[float]) -> "TunedModel":
        """Return fine-tuned weights beside the pre-trained ones, to restore shares of them."""
        return TunedModel(self._base, tuned, percents)

    def finish(self) -> None:
        """Delete files that no other run needs, after the last run; here there are none."""

    def bar(self, total: int, text: str, unit: str, leave: bool = False) -> tqdm:
        """Return a progress bar that only the first process shows; in JupyterLab, its own kind."""
        silent = not (self.bars and self.processes.is_main_process)
        kind = _bar_of_lab() if not silent and _in_jupyter() else tqdm
        return kind(total=total, desc=text, unit=unit, leave=leave, disable=silent)

    @contextmanager
    def _steps(self, total: int, text: str) -> Iterator[Callable[[float], None]]:
        """Show a bar of the steps of fine-tuning; yield a function that takes the loss of each."""
        with self.bar(total, text, "step") as bar:

            def show(loss: float) -> None:
                bar.set_postfix_str(f"loss {loss:.3f}")
                bar.update()

            yield show


def _in_jupyter() -> bool:
    """Return whether this is a kernel that a Jupyter server started, with widgets to draw bars.

    papermill starts kernels too, and shows the text that a bar writes.
    """
    ipython = sys.modules.get("IPython")
    started = ipython is not None and ipython.get_ipython() and "JPY_SESSION_NAME" in os.environ
    return bool(started) and find_spec("ipywidgets") is not None


def _bar_of_lab() -> type[tqdm]:
    from tqdm.notebook import tqdm as bar  # it warns where there are no widgets

    return bar


class TunedModel:
    """Fine-tuned and pre-trained weights; each ranking of them is made once (§5)."""

    def __init__(
        self, base: Weights, tuned: Weights, percents: Iterable[float], shared: bool = False
    ):
        """Take both, and the shares (%) that will probably be restored.

        `shared`: the processes of a launch share the ranking, and all of them call it.
        """
        self.base, self.tuned, self.shared = base, tuned, shared
        self.percents = {float(percent) for percent in percents}
        self._rankings: dict[tuple, restore.Ranking] = {}
        self._cuts: dict[tuple, restore.Cut] = {}

    @cached_property
    def change(self) -> restore.Change:
        """How far fine-tuning moved the region's parameters, all together."""
        return restore.change(restore.pair(self.base, self.tuned, REGION))

    def ranking(self, strategy: str = "top", layers: str = "", seed: int = 0) -> restore.Ranking:
        """Rank the parameters; one ranking serves every restored share."""
        order = strategy, layers, seed
        if order not in self._rankings:
            options = {"strategy": strategy, "layers": layers, "seed": seed}
            options |= {"shared": self.shared}
            self._rankings[order] = restore.rank(self.base, self.tuned, REGION, **options)
        return self._rankings[order]

    def restored(self, network, settings: dict | None) -> AbstractContextManager:
        """Restore a share of a network that holds the fine-tuned weights, and undo it on exit.

        `settings` are those of a request (None: nothing is restored). Yields the `restore.Change`
        that was undone.
        """
        if settings is None:
            return nullcontext(restore.Change())
        percent, strategy = settings["percent"], settings["strategy"]
        if strategy == restore.INTERPOLATE:
            pair = restore.pair(self.base, self.tuned, REGION)
            return restore.interpolated(network, pair, percent)
        order = strategy, settings.get("layers", ""), settings.get("seed", 0)
        cut, ranking = self._cut(order, percent), self.ranking(*order)
        return restore.restored(network, self.base, self.tuned, ranking, percent, cut)

    def _cut(self, order: tuple, percent: float) -> restore.Cut:
        # Finding thresholds reads all weights again, so those of all probable shares are found at
        # once.
        if (*order, percent) not in self._cuts:
            shares = sorted({*self.percents, percent})
            cuts = restore.thresholds(self.ranking(*order), shares)
            self._cuts |= {(*order, share): cut for share, cut in cuts.items()}
        return self._cuts[*order, percent]
