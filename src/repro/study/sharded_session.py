"""One model that FSDP2 divides among processes to fine-tune it; its weights are on disk."""

import gc
import json
import shutil
from pathlib import Path

import pandas as pd
import torch

from repro import files, provenance
from repro.errors import ConfigError
from repro.inference.vllm_engine import VllmEngine
from repro.models import devices, loading, registry, tensor_parallel, weights
from repro.models.hub import COMPANIONS
from repro.models.launch import Sharding
from repro.restoration import restore
from repro.restoration.checkpoints import Checkpoint
from repro.study import engines, gpu_plan
from repro.study.session import CPU_ENGINE, Session, TunedModel, Weights
from repro.training import sft
from repro.training.recipe import Adapter, Recipe
from repro.training.resumption import Resumption
from repro.training.sharding import sharded_network, write_weights

WEIGHTS, TRAINING = "model.safetensors", "training.json"


class ShardedSession(Session):
    """A session whose pre-trained and fine-tuned weights are mapped from files.

    While it answers, every process holds one network in the study's number format, or its part of
    one that does not fit a device; while it fine-tunes, its share of the float32 weights, gradients
    and moments: never both. Fine-tuned weights are written once, as a folder in the cache, and
    deleted when the next run begins.
    """

    def __init__(
        self,
        model: registry.ModelEntry,
        sharding: Sharding,
        number_format: str,
        bars: bool = True,
        engine: str = engines.TRANSFORMERS,
    ):
        """Load nothing yet; `sharding` says how a fine-tuning is divided.

        `engine`: vLLM, or the layers of transformers where it is any other.
        """
        super().__init__(model, number_format, bars, engine)
        self.sharding, self.small = sharding, False
        self._folder: Path | None = None  # of the fine-tuned weights
        self._vllm: VllmEngine | None = None  # of the model, once it has answered

    def load(self) -> None:
        """Map the pre-trained weights and load the network that answers, unless it is loaded.

        Raises:
            ConfigError: the engine does not answer questions of a divided model.
        """
        if self._loaded:
            return
        self._check_engine()
        if self.engine == engines.CPU:
            raise ConfigError(f"{CPU_ENGINE} and undivided: leave out --engine cpu")
        self._base = Checkpoint(weights.obtain(self.model))
        self._answer_with(self._base)
        self._loaded = True

    def _answer_with(self, mapped: Weights) -> None:
        """Make the network that answers anew, with these weights; vLLM's are written in place."""
        if self._vllm is not None:
            restore.write(self._vllm, mapped)
            network = self._vllm
        else:
            network, self.tokenizer = self._network(self.model, mapped)
        self.network = self.decoder = self.reader = self.trainer = network

    @property
    def instruct(self) -> tuple:
        """The model's instruct variant and its tokenizer, in the place of the model."""
        variant = registry.entry(self.model.instruct)
        self._release()
        mapped = Checkpoint(weights.obtain(variant))
        self.network, tokenizer = self._network(variant, mapped)
        return self.network, tokenizer

    def _network(self, model: registry.ModelEntry, mapped: Weights) -> tuple:
        """Return a network that answers, with these weights, and its tokenizer."""
        if self.engine == engines.VLLM:
            network = VllmEngine(mapped.folder, self.dtype)
            self._vllm = self._vllm or network
            return network, loading.load_tokenizer(model)
        divides = gpu_plan.divides_answering(model, self.sharding, self.processes)
        load = tensor_parallel.load if divides else loading.load_mapped
        return load(model, mapped, self.dtype)

    def reset(self) -> None:
        """Set all weights back to the pre-trained ones."""
        if self._loaded and self.decoder is None:
            self._release()
            self._answer_with(self._base)
            self._changed = False
        super().reset()

    def finetune(
        self, facts: pd.DataFrame, recipe: Recipe, text: str, adapter: Adapter | None = None
    ) -> tuple[dict, Weights]:
        """Fine-tune the pre-trained weights, unless the folder of the result exists.

        Arguments and result are those of `Session.finetune`; the weights are mapped.

        Raises:
            ConfigError: there is an adapter to train.
        """
        if adapter:
            raise ConfigError(
                "adapters (LoRA) are not trained on a model that FSDP divides: launch with"
                " --multi_gpu alone for these runs"
            )
        folder = files.cache_dir() / "finetuned" / self._key(facts, recipe)
        if self._folder not in (None, folder):
            self.finish()
        if not devices.in_first_process((folder / TRAINING).exists):
            self._release()
            self._train_sharded(facts, recipe, text, folder)
        self._folder, tuned = folder, Checkpoint(folder)
        if self.decoder is None:
            self._answer_with(tuned)
        else:
            restore.write(self.decoder, tuned)
        self._changed = True
        return json.loads((folder / TRAINING).read_text(encoding="utf-8")), tuned

    def _key(self, facts: pd.DataFrame, recipe: Recipe) -> str:
        """Return the name of fine-tuned weights: a hash of everything that they depend on."""
        learned = facts[["question", "object"]].to_dict("records")
        divided = self.sharding.parameters(self.processes.num_processes)
        identity = {"weights": weights.weights_id(self.model), "dtype": str(self.dtype)}
        return provenance.key(
            "finetuned", {**identity, **divided, **vars(recipe), "facts": learned}
        )

    def _release(self) -> None:
        """Delete the network that answers, and free its memory (vLLM: that of the GPU)."""
        if self._vllm is not None:
            self._vllm.pause()
        self.network = self.decoder = self.reader = self.trainer = None
        gc.collect()
        if torch.accelerator.is_available():
            torch.accelerator.empty_cache()

    def _train_sharded(self, facts, recipe: Recipe, text: str, folder: Path) -> None:
        """Fine-tune, and write the weights and the result of training to a new folder."""
        source = weights.obtain(self.model)
        network = sharded_network(source, self._base, self.sharding, self.dtype)
        resumption = Resumption(folder.with_suffix(".progress"))
        with self._steps(-(-len(facts) // recipe.batch_size), text) as show:
            options = {"dtype": self.dtype, "resumption": resumption}
            training = sft.finetune(network, self.tokenizer, facts, recipe, show, **options)
        unfinished = folder.with_suffix(".unfinished")
        if self.processes.is_main_process:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
        self.processes.wait_for_everyone()
        write_weights(network, unfinished / WEIGHTS, getattr(torch, self.sharding.stored))
        if self.processes.is_main_process:
            for path in (path for pattern in COMPANIONS for path in source.glob(pattern)):
                shutil.copyfile(path, unfinished / path.name)
            (unfinished / TRAINING).write_text(json.dumps(training), encoding="utf-8")
            unfinished.rename(folder)
        self.processes.wait_for_everyone()
        resumption.remove()
        del network
        self._release()

    def compare(self, tuned: Weights, percents) -> TunedModel:
        """Return fine-tuned weights beside the pre-trained ones; processes share the ranking."""
        return TunedModel(self._base, tuned, percents, shared=True)

    def finish(self) -> None:
        """Delete the fine-tuned weights of the last run."""
        if self._folder and self.processes.is_main_process:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = None
