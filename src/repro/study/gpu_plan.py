"""Estimates what a study of the paper's models takes on GPUs: bytes, hours and disk by stage.

Nothing is loaded or timed. Bytes follow from the sizes of the model and the content of the memory
in each stage, hours from the amount of work and an assumed speed (`ASSUMED`). Nothing here was
measured on a GPU.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from repro import paper
from repro.errors import ConfigError
from repro.models import devices
from repro.models.architecture import parameter_count
from repro.models.launch import Sharding
from repro.models.registry import ModelEntry
from repro.models.sizes import ARCHITECTURES, Architecture
from repro.study import profiles
from repro.study.grid import Grid
from repro.study.profiles import Profile

if TYPE_CHECKING:  # a plan need not wait for PyTorch
    from accelerate import PartialState

GIB = 1 << 30
GPUS_OF_MACHINE = 8  # the most GPUs that share the memory of one host
LIBRARIES = 2 * GIB  # of a GPU, for CUDA's context, NCCL's buffers and waste of the allocator
BATCH_BYTES = 2 * GIB  # of keys, values and logits: the least for which answering is planned
EXAMPLE_TOKENS = 32  # the most tokens of a question with its answer
LONGEST = 64  # tokens of a padded example
LAYER_ACTIVATIONS = 34  # bytes per token and unit of width that one layer stores for its gradient

# The assumed speed: that of an H100 with 80 GB, at shares of its peak that good programs reach.
ASSUMED = {
    "operations": 4.0e14,  # a second in bfloat16: 40 % of 989e12
    "memory": 2.3e12,  # bytes a second from the memory of the GPU: 70 % of 3.35e12
    "link": 2.0e11,  # bytes a second between GPUs
    "host_link": 2.5e10,  # bytes a second between a GPU and its host
    "host_memory": 1.0e11,  # bytes a second from the memory of a host
    "disk": 2.0e9,  # bytes a second from disk
    "rows": 256,  # texts that are continued at a time
}
ADAMW_TRAFFIC = 28  # bytes per parameter and step: weight, gradient, two moments; read, written
HOST_COPY = 12  # bytes per parameter and step that are copied between GPU and host if offloaded


@dataclass(frozen=True)
class Machine:
    """The GPUs a study is planned for: how many, the bytes of each, and of each host's memory."""

    gpus: int
    gpu_memory: int
    host_memory: int | None = None

    @property
    def gpus_of_host(self) -> int:
        """How many GPUs share the memory of one host."""
        return min(self.gpus, GPUS_OF_MACHINE)


@dataclass(frozen=True)
class Stage:
    """One stage of a study: bytes on each GPU, on each host and on disk, and hours.

    `remedy` says what the stage needs to fit; it is empty if it fits. `holders` is the number of
    GPUs that one network is divided among.
    """

    name: str
    gpu_bytes: int
    host_bytes: int
    disk_bytes: int
    hours: float
    remedy: str = ""
    holders: int = 1


def parse_memory(text: str) -> int:
    """Return the bytes of a size such as `80G` (80 · 2³⁰), `1.5T` or `512M`.

    Raises:
        ConfigError: the text has another form.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([MGT])i?B?", text.strip(), re.IGNORECASE)
    if not match or not float(match[1]):
        raise ConfigError(f"memory {text!r}: give a number and M, G or T, such as 80G")
    return int(float(match[1]) * (1 << {"M": 20, "G": 30, "T": 40}[match[2].upper()]))


def architecture(model: ModelEntry) -> Architecture:
    """Return the sizes of a model; raise ConfigError if they are not known."""
    if model.name not in ARCHITECTURES:
        names = ", ".join(ARCHITECTURES)
        raise ConfigError(f"the sizes of {model.name} on GPUs are not known: give one of {names}")
    return ARCHITECTURES[model.name]


def stages(model: ModelEntry, profile: Profile, machine: Machine) -> list[Stage]:
    """Return the stages of a study on a machine.

    The facts are those of the paper, with the levels that it measured for LLaMA-3-8B.

    Raises:
        ConfigError: the sizes of the model are not known, or the machine has no GPU.
    """
    if machine.gpus < 1:
        raise ConfigError(f"{machine.gpus} GPUs: give 1 or more")
    size, work = architecture(model), _Work(model, profile)
    one = _answering(size, machine)
    tokens = work.mastery_tokens
    answer_tokens = work.answers * EXAMPLE_TOKENS
    walks = work.restorations * 6 * size.parameters  # base and tuned read, and one network written
    return [
        Stage("mastery", **one, disk_bytes=2 * size.parameters,
              hours=_decoding_hours(size, machine, tokens)),
        _finetuning(size, machine, work),
        Stage("ranking", 0, GIB, 2 * size.parameters,
              work.rankings * 4 * size.parameters / ASSUMED["disk"] / 3600),
        Stage("evaluation", **one, disk_bytes=2 * size.parameters,
              hours=_decoding_hours(size, machine, answer_tokens)),
        Stage("restoration", **one, disk_bytes=4 * size.parameters,
              hours=walks / ASSUMED["disk"] / 3600),
    ]  # fmt: skip


def table(model: ModelEntry, profile: Profile, machine: Machine) -> pd.DataFrame:
    """Return the stages as a table: GB on each GPU, on each host and on disk, hours, remedy."""
    rows = [
        {
            "stage": stage.name,
            "GPU, GB": round(stage.gpu_bytes / 1e9, 1),
            "bytes per parameter": round(
                stage.gpu_bytes * stage.holders / architecture(model).parameters, 1
            ),
            "host, GB": round(stage.host_bytes / 1e9, 1),
            "disk, GB": round(stage.disk_bytes / 1e9),
            "hours": round(stage.hours, 1),
            "fits": stage.remedy or "yes",
        }
        for stage in stages(model, profile, machine)
    ]
    return pd.DataFrame(rows)


def check(
    model: ModelEntry, machine: Machine, offload: bool, tensor_parallel: bool | None = None
) -> None:
    """Raise ConfigError if a stage cannot fit, before anything is loaded.

    `offload`: the launch keeps the state of a fine-tuning in the memory of the hosts.
    `tensor_parallel`: whether it divides the network that answers; None: where that is needed.
    """
    for stage in stages(model, profiles.profile("smoke"), machine):  # the bytes of any profile
        is_chosen = offload or not stage.name.endswith("offloaded")
        remedy = stage.remedy or ("" if is_chosen else "--fsdp_offload_params true")
        answers_divided = stage.holders > 1 and not stage.name.startswith("fine-tuning")
        if answers_divided and tensor_parallel is False:
            remedy = remedy or "REPRO_TENSOR_PARALLEL=true"
        if remedy:
            raise ConfigError(
                f"{stage.name} of {model.title} does not fit on {machine.gpus} GPUs of"
                f" {machine.gpu_memory / GIB:.0f} GiB; what would fit: {remedy}"
            )


def summary(model: ModelEntry, profile: Profile, machine: Machine) -> str:
    """Return the table and its assumptions, as `repro plan --gpus` prints them."""
    host = f", {machine.host_memory / GIB:.0f} GiB in each host" if machine.host_memory else ""
    where = f"{machine.gpus} GPUs of {machine.gpu_memory / GIB:.0f} GiB{host}"
    frame = table(model, profile, machine)
    hours = frame["hours"].sum()
    pace = f"{ASSUMED['operations']:.0e} operations and {ASSUMED['memory']:.1e} bytes a second"
    return "\n".join(
        [
            f"{model.title}, profile {profile.name}, {where}: arithmetic, never run on a GPU",
            frame.to_string(index=False),
            f"{hours:,.0f} hours in all, where a GPU is assumed to do {pace};",
            "the disk holds the largest stage, for the others delete what they leave",
        ]
    )


# --- bytes ----------------------------------------------------------------------------------------


def answering_bytes(parameters: int, holders: int = 1) -> int:
    """Return the bytes of a GPU that answers: its part of a network in bfloat16, and a batch."""
    return math.ceil(2 * parameters / holders) + BATCH_BYTES + LIBRARIES


def divides_answering(model: ModelEntry, sharding: Sharding, sharing: PartialState) -> bool:
    """Tell whether the processes of a launch divide the network that answers (tensor parallelism).

    They do as they are told, and else where it does not fit one of their GPUs.
    """
    if sharing.num_processes < 2:
        return False
    if sharding.tensor_parallel is not None or sharing.device.type != "cuda":
        return bool(sharding.tensor_parallel)
    import torch

    memory = torch.cuda.get_device_properties(sharing.device).total_memory
    needed = answering_bytes(parameter_count(model))
    return needed > devices.least_of_processes(memory)


def _group(size: Architecture, machine: Machine) -> int:
    """Return among how many GPUs the network that answers is divided: 1 where it fits a GPU.

    Where it is divided, it is among as many as its heads allow (`tensor_parallel.size_of_group`).
    """
    if answering_bytes(size.parameters) <= machine.gpu_memory:
        return 1
    return math.gcd(machine.gpus, size.heads, size.key_value_heads)


def _answering(size: Architecture, machine: Machine) -> dict:
    """Return what the stages that answer have in common: bytes, holders, remedy."""
    holders = _group(size, machine)
    needed = answering_bytes(size.parameters, holders)
    remedy = ""
    if needed > machine.gpu_memory:
        remedy = f"GPUs of {needed / GIB:.0f} GiB each"
        numbers = (2**n for n in range(1, 1 + int(math.log2(size.key_value_heads))))
        enough = (n for n in numbers if answering_bytes(size.parameters, n) <= machine.gpu_memory)
        if number := next(enough, None):
            remedy += f", or {number} GPUs that divide the network"
    return {"gpu_bytes": needed, "host_bytes": GIB, "remedy": remedy, "holders": holders}


def _gathered(size: Architecture) -> int:
    """Return the most bytes of a GPU for gathered weights and gradients.

    For a layer these are its weights and those of the next layer in bfloat16, and its gradient in
    bfloat16 and in float32. For the output matrix they are the same without a next one.
    """
    return max(10 * size.layer, 8 * size.vocabulary * size.hidden)


def _activations(size: Architecture, gpus: int) -> int:
    """Return the bytes of the stored activations of a GPU's part of a batch of 8."""
    tokens = math.ceil(8 / gpus) * LONGEST
    return tokens * (size.layers * LAYER_ACTIVATIONS * size.hidden + 6 * size.vocabulary)


def finetuning_bytes(size: Architecture, gpus: int, offload: bool) -> int:
    """Return the bytes of each GPU in fine-tuning: float32 weights, gradients, two moments.

    If they are offloaded, they are in the memory of the host instead.
    """
    state = 0 if offload else math.ceil(16 * size.parameters / gpus)
    return state + _gathered(size) + _activations(size, gpus) + LIBRARIES


def _finetuning(size: Architecture, machine: Machine, work: _Work) -> Stage:
    """Return the stage of fine-tuning, offloaded if it does not fit otherwise."""
    inside = finetuning_bytes(size, machine.gpus, False)
    offload = inside > machine.gpu_memory
    host = math.ceil(16 * size.parameters * machine.gpus_of_host / machine.gpus) if offload else 0
    needed = finetuning_bytes(size, machine.gpus, offload)
    remedy = []
    if needed > machine.gpu_memory:
        remedy.append(f"GPUs of {needed / GIB:.0f} GiB")
    elif machine.host_memory is not None and host + GIB > machine.host_memory:
        remedy.append(f"{(host + GIB) / GIB:.0f} GiB of memory in each host")
    if remedy and (number := _enough_gpus(size, machine)):
        remedy.append(f"or {number} GPUs")
    name = "fine-tuning, offloaded" if offload else "fine-tuning"
    # The fine-tuned weights, and two checkpoints: the last one stays until the next is complete.
    disk = (2 + 2 * 12) * size.parameters
    hours = work.steps * _step_seconds(size, machine, offload) / 3600
    return Stage(name, needed, host + GIB, disk, hours, ", ".join(remedy), machine.gpus)


def _enough_gpus(size: Architecture, machine: Machine) -> int | None:
    """Return the smallest number of GPUs on which fine-tuning fits without offloading, or None."""
    numbers = range(machine.gpus + 1, 1025)
    fits = (n for n in numbers if finetuning_bytes(size, n, False) <= machine.gpu_memory)
    return next(fits, None)


# --- hours ----------------------------------------------------------------------------------------


def _step_seconds(size: Architecture, machine: Machine, offload: bool) -> float:
    """Return the seconds of a step on 8 examples, if none of its parts overlap."""
    operations = 6 * size.products * 8 * EXAMPLE_TOKENS / machine.gpus / ASSUMED["operations"]
    # Every GPU reads all weights for the forward and for the backward pass, and writes gradients.
    weights = 6 * size.parameters / ASSUMED["memory"]
    # Weights in bfloat16 are gathered twice, gradients in float32 are added up once.
    sent = 8 * size.parameters * (machine.gpus - 1) / machine.gpus / ASSUMED["link"]
    moments = ADAMW_TRAFFIC * size.parameters / machine.gpus / ASSUMED["memory"]
    if offload:
        copied = HOST_COPY * size.parameters / machine.gpus / ASSUMED["host_link"]
        hosts = math.ceil(machine.gpus / GPUS_OF_MACHINE)
        moments = copied + ADAMW_TRAFFIC * size.parameters / hosts / ASSUMED["host_memory"]
    return operations + weights + sent + moments


def _decoding_hours(size: Architecture, machine: Machine, tokens: int) -> float:
    """Return the hours to generate tokens; all weights are read at each step.

    Every GPU answers for itself, or every group that divides a network: its GPUs then add up two
    states of each token in every layer.
    """
    rows, holders = ASSUMED["rows"], _group(size, machine)
    step = 2 * size.parameters / holders / ASSUMED["memory"]
    step += 2 * size.products * rows / holders / ASSUMED["operations"]
    sent = 2 * (holders - 1) / holders * 2 * size.layers * 2 * size.hidden * rows
    step += sent / ASSUMED["link"]
    return tokens / rows * step / (machine.gpus / holders) / 3600


class _Work:
    """The amount of each kind of work in a study of a profile, with the paper's facts."""

    def __init__(self, model: ModelEntry, profile: Profile):
        """Count the runs of the profile's grid."""
        self.profile = profile
        published = paper.table("distribution").query("model == 'LLaMA-3-8B'")
        totals = published.groupby("split")["count"].sum()
        numbers = {split: profile.number_of_facts(split) for split in paper.SPLITS}
        self.facts = {
            split: int(totals.get(split, totals["test"])) if number == "all" else number
            for split, number in numbers.items()
        }
        train = published[published["split"] == "train"].set_index("level")["count"]
        share = min(1.0, self.facts["train"] / int(train.sum()))
        pools = {level: round(share * number) for level, number in train.items()}
        self.grid = Grid(profile, model.learning_rate, pools)

    @property
    def mastery_tokens(self) -> int:
        """The most tokens that mastery generates."""
        protocol = self.profile.protocol(0)
        return sum(self.facts.values()) * protocol.trials * protocol.max_new_tokens

    @property
    def _all_runs(self) -> list:
        grid = self.grid
        runs = [*grid.rate_runs(), *grid.mixed_runs(), *grid.lora_runs(), *grid.runs()]
        return list(dict.fromkeys(runs))

    @property
    def steps(self) -> int:
        """The steps of all fine-tunings, of 8 facts each."""
        return sum(math.ceil(self.grid.size(run) / 8) for run in self._all_runs)

    @property
    def rankings(self) -> int:
        """How often the parameters are ranked: by change and by each other strategy."""
        strategies = len(self.profile.controls)
        return len(self.grid.restored_runs()) + strategies * len(self.grid.control_runs())

    @property
    def restorations(self) -> int:
        """How often a share is restored, counting a control and a group of layers as one."""
        grid, profile = self.grid, self.profile
        controls = len(profile.controls) * len(profile.control_percents)
        return (
            len(grid.restored_runs()) * (len(profile.percents) - 1)
            + len(grid.control_runs()) * controls
            + len(grid.layer_runs()) * profile.layer_blocks
        )

    @property
    def answers(self) -> int:
        """The questions that fine-tuned and restored models answer."""
        facts, profile, grid = self.facts, self.profile, self.grid
        tests = facts["test"] + facts["testood"]
        questions = len(self._all_runs) * (tests + facts["dev"])
        for run in grid.restored_runs():
            four = tests + facts["dev"] + grid.size(run)
            questions += (len(profile.percents) - 1) * four
        controls = len(profile.controls) * len(profile.control_percents)
        questions += len(grid.control_runs()) * controls * facts["test"]
        return questions + len(grid.layer_runs()) * profile.layer_blocks * tests
