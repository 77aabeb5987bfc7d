"""Answers of a model by vLLM, an optional package, with our own draws and weights loaded in place.

vLLM schedules requests by itself: it gets one for each prompt and draw, and computes what prompts
begin with in common once (prefix caching). Which token is drawn is decided in `vllm_draws`, so a
draw belongs to the seed, the fact, the template and its number, as in every engine. vLLM rounds
otherwise than the others, so its name and version are in the keys of records.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from math import gcd
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from repro import random_streams
from repro.errors import ModelError, one_line
from repro.inference.sampling import labels_of_draws
from repro.models import loading

if TYPE_CHECKING:  # it imports this module
    from repro.inference.decoding import Decoding, Prompt

# On a CPU vLLM 0.32 looks through all loaded modules as it starts. This one of numba seems to have
# every attribute, which it does not expect.
LLVM = "llvmlite.binding.ffi"
DRAWS = "repro.inference.vllm_draws:Draws"
REQUESTS = 8192  # given to vLLM at a time, so that progress shows
MEMORY = 0.45  # of a GPU, for weights and cache: a network that is fine-tuned needs the rest
# In this process, so that weights need not be sent to another; and by the runner that passes all
# requests of a step to a logits processor together.
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_USE_V2_MODEL_RUNNER": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}


class VllmEngine:
    """A model that vLLM computes. It takes the place of a network where questions are answered.

    It has a network's `config`, `generation_config`, `dtype`, `device` and `named_parameters`,
    whose values can be written (`repro.models.shards.copy_into`) and not read.
    """

    def __init__(self, folder: Path, dtype: torch.dtype, longest: int = 512):
        """Load the weights of a folder.

        `longest`: tokens of a prompt and its completion, at most.

        Raises:
            ModelError: vLLM cannot load the model.
        """
        os.environ.update(ENVIRONMENT)
        self.folder, self.dtype, self.longest = folder, dtype, longest
        network = loading.empty_network(folder)
        self.config, self.generation_config = network.config, network.generation_config
        self._names = [name for name, _ in network.named_parameters()]
        self._llm = self._start()
        self._paused = False
        self._pending: dict[str, torch.Tensor] = {}
        self._stale = False  # whether the cache holds what earlier weights computed

    def _start(self):
        """Return vLLM's model of the folder, set so that it answers with our draws."""
        import vllm  # takes ten seconds, which only those who use it wait for

        text = self.config.get_text_config()
        heads = text.num_attention_heads, getattr(text, "num_key_value_heads", None) or 0
        on_gpu = torch.cuda.is_available()
        options = {"gpu_memory_utilization": MEMORY} if on_gpu else {}
        try:
            with nullcontext() if on_gpu else _without(LLVM):
                return vllm.LLM(
                    model=str(self.folder),
                    dtype=str(self.dtype).removeprefix("torch."),
                    max_model_len=min(self.longest, text.max_position_embeddings),
                    tensor_parallel_size=gcd(torch.cuda.device_count(), *heads) if on_gpu else 1,
                    enable_prefix_caching=True,
                    enable_sleep_mode=on_gpu,
                    enforce_eager=not on_gpu,  # compiling takes longer than a CPU gains
                    logits_processors=[DRAWS],
                    logprobs_mode="raw_logits",
                    max_logprobs=-1,
                    skip_tokenizer_init=True,
                    trust_remote_code=False,
                    **options,
                )
        except Exception as error:  # vLLM raises whatever the model's code does
            raise ModelError(f"vLLM cannot load {self.folder}: {one_line(error)}") from error

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    # --- weights ----------------------------------------------------------------------------------

    def named_parameters(self) -> Iterator[tuple[str, Slot]]:
        """Yield each parameter by its name in transformers, as something that values go into."""
        for name in self._names:
            yield name, Slot(self, name)

    def load(self, name: str, values: torch.Tensor) -> None:
        """Make `values` the weight of this name, before the next answer."""
        self._pending[name] = values.detach().to(self.dtype)

    def _write_pending(self) -> None:
        """Write weights in place, all at once: vLLM fuses some of them, and packs what is fused.

        Raises:
            ModelError: a matrix is to be written and others of its module are not.
        """
        modules = {_module(name) for name in self._pending}
        for name in self._names:
            if _module(name) in modules and name not in self._pending and "norm" not in name:
                raise ModelError(f"vLLM needs {name} too: write a module's matrices together")
        pending = list(self._pending.items())
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": pending})
        if self.device.type == "cpu":
            self._llm.apply_model(_pack_output)
        self._pending = {}
        self._stale = True

    def pause(self) -> None:
        """Give up the memory of a GPU until it is needed; the host keeps the weights."""
        if self.device.type == "cuda" and not self._paused:
            self._llm.sleep(level=1)
            self._paused = self._stale = True

    def _wake(self) -> None:
        if self._paused:
            self._llm.wake_up()
            self._paused = False

    # --- answers ----------------------------------------------------------------------------------

    def complete(
        self,
        prompts: Sequence[Prompt],
        decoding: Decoding,
        stop: Sequence[int],
        progress: Callable[[int], object] = lambda number: None,
    ) -> Iterator[list[list[int]]]:
        """Yield the ids of each prompt's draws, prompt by prompt, without what ends them.

        Args:
            prompts: their ids and, for draws, labels.
            decoding: the settings; `rows` and `in_place` are of no use here.
            stop: ids that end a completion.
        """
        size = max(1, REQUESTS // decoding.draws)
        for first in range(0, len(prompts), size):
            some = prompts[first : first + size]
            requests = [prompt.ids for prompt in some for _ in range(decoding.draws)]
            settings = [self._settings(decoding, stop, drawn) for drawn in _drawn(some, decoding)]
            outputs = [list(o.outputs[0].token_ids) for o in self._generate(requests, settings)]
            for at in range(0, len(outputs), decoding.draws):
                yield [_before(ids, stop) for ids in outputs[at : at + decoding.draws]]
            progress(len(some))

    def first_logits(self, prompts: Sequence[list[int]]) -> torch.Tensor:
        """Return the logits of the first new token, float32 on the CPU: (prompts, vocabulary)."""
        from vllm import SamplingParams

        one = SamplingParams(temperature=0, max_tokens=1, logprobs=-1, detokenize=False)
        logits = torch.empty(len(prompts), self.config.get_text_config().vocab_size)
        for row, output in enumerate(self._generate(prompts, [one] * len(prompts))):
            by_token = output.outputs[0].logprobs[0]
            tokens = torch.tensor(list(by_token))
            logits[row, tokens] = torch.tensor([each.logprob for each in by_token.values()])
        return logits

    def _settings(self, decoding: Decoding, stop: Sequence[int], drawn: dict | None):
        """Return vLLM's settings of one request; `drawn` holds its random numbers, if it draws."""
        from vllm import SamplingParams

        return SamplingParams(
            temperature=0,  # the one finite logit that `vllm_draws` leaves is the largest
            max_tokens=decoding.max_new_tokens,
            stop_token_ids=list(stop),
            ignore_eos=True,
            detokenize=False,
            extra_args=drawn,
        )

    def _generate(self, prompts: Sequence[list[int]], settings: list) -> list:
        """Return vLLM's outputs, in the order of the prompts.

        Raises:
            ModelError: the logits are NaN, or a prompt is too long.
        """
        self._wake()
        if self._pending:
            self._write_pending()
        if self._stale:
            self._llm.reset_prefix_cache()
            self._stale = False
        requests = [{"prompt_token_ids": ids} for ids in prompts]
        try:
            return self._llm.generate(requests, settings, use_tqdm=False)
        except ModelError:
            raise
        except Exception as error:  # vLLM passes on whatever its workers raise
            raise ModelError(f"vLLM cannot answer: {one_line(error)}") from error


class Slot:
    """A parameter of a model in vLLM, as `copy_into` takes it: values go in, none come out."""

    def __init__(self, engine: VllmEngine, name: str):
        """Take the model and the name of the parameter in its folder."""
        self.engine, self.name = engine, name

    def copy_(self, values: torch.Tensor) -> None:
        """Write values, in the engine's dtype."""
        self.engine.load(self.name, values)


@contextmanager
def _without(name: str) -> Iterator[None]:
    """Let a module that is loaded not be found within the block."""
    module = sys.modules.pop(name, None)
    try:
        yield
    finally:
        if module is not None:
            sys.modules[name] = module


def _pack_output(model: torch.nn.Module) -> None:
    """Pack the output matrix again: on a CPU vLLM forgets one that is the look-up table too."""
    head = getattr(model, "lm_head", None)
    if head is not None and head.weight.numel():
        head.quant_method.process_weights_after_loading(head)


def _module(name: str) -> str:
    """Return what a matrix is fused within: `model.layers.0.mlp` of its three."""
    return ".".join(name.split(".")[:-2])


def _drawn(prompts: Sequence[Prompt], decoding: Decoding) -> Iterator[dict | None]:
    """Yield what `vllm_draws` is told of each draw: its random numbers; None for greedy ones."""
    if decoding.temperature is None:
        yield from [None] * len(prompts) * decoding.draws
        return
    for prompt in prompts:
        labels = labels_of_draws(prompt.label, decoding.draws)
        for numbers in random_streams.rows(decoding.seed, labels, decoding.max_new_tokens):
            yield {"numbers": numbers.tolist(), "temperature": decoding.temperature}


def _before(ids: list[int], stop: Sequence[int]) -> list[int]:
    """Return the ids before the first that ends a completion."""
    ends = [place for place, token in enumerate(ids) if token in stop]
    return ids[: ends[0]] if ends else ids
