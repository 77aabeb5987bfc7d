"""The plan for GPUs is arithmetic: checked by hand, by the registry, and by what it refuses."""

from types import SimpleNamespace

import pytest
import torch

from repro import cli
from repro.errors import ConfigError
from repro.models import registry
from repro.models.launch import Sharding
from repro.models.sizes import ARCHITECTURES
from repro.study import gpu_plan, plan, profiles
from repro.study.gpu_plan import GIB, Machine, parse_memory

FULL = profiles.profile("full")
SMALL, LARGE = registry.entry("llama-3-8b"), registry.entry("llama-3-70b")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_sizes_are_those_of_the_registry(name):
    size = ARCHITECTURES[name]
    assert size.parameters == registry.entry(name).parameters
    outside = 2 * size.vocabulary * size.hidden + size.hidden
    assert size.layers * size.layer + outside == size.parameters


def stages(model, *machine) -> dict[str, gpu_plan.Stage]:
    return {each.name: each for each in gpu_plan.stages(model, FULL, Machine(*machine))}


def test_8b_on_one_gpu_is_offloaded_and_fits_with_128_gib_of_host_memory():
    planned = stages(SMALL, 1, 80 * GIB, 128 * GIB)
    assert list(planned) == [
        *("mastery", "fine-tuning, offloaded", "ranking", "evaluation", "restoration"),
    ]
    assert not any(stage.remedy for stage in planned.values())
    tuning = planned["fine-tuning, offloaded"]
    assert tuning.host_bytes == 16 * 8_030_261_248 + GIB  # weights, gradients, two moments
    assert tuning.gpu_bytes < 12 * GIB
    assert planned["mastery"].gpu_bytes == 2 * 8_030_261_248 + 4 * GIB
    too_small = stages(SMALL, 1, 80 * GIB, 96 * GIB)["fine-tuning, offloaded"]
    assert "121 GiB of memory in each host" in too_small.remedy and "2 GPUs" in too_small.remedy


def test_8b_on_eight_gpus_needs_no_host():
    tuning = stages(SMALL, 8, 80 * GIB)["fine-tuning"]
    assert tuning.gpu_bytes > 16 * 8_030_261_248 / 8
    assert tuning.host_bytes == GIB and not tuning.remedy


def test_70b_is_fine_tuned_on_16_gpus_and_offloaded_on_8():
    assert not stages(LARGE, 16, 80 * GIB)["fine-tuning"].remedy
    offloaded = stages(LARGE, 8, 80 * GIB, 1024 * GIB)["fine-tuning, offloaded"]
    assert offloaded.remedy == "1052 GiB of memory in each host, or 16 GPUs"


@pytest.mark.parametrize(("gpus", "holders"), [(2, 2), (8, 8), (12, 4), (16, 8)])
def test_70b_answers_divided_among_as_many_gpus_as_its_8_key_heads_allow(gpus, holders):
    answering = stages(LARGE, gpus, 80 * GIB)["mastery"]
    assert not answering.remedy and answering.holders == holders
    assert answering.gpu_bytes == 2 * 70_553_706_496 // holders + 4 * GIB
    assert stages(LARGE, gpus, 192 * GIB)["mastery"].holders == 1  # it fits


def test_the_hours_of_a_divided_network_are_those_of_its_groups_and_of_what_they_send():
    whole, divided = (stages(LARGE, 8, memory * GIB)["mastery"] for memory in (192, 80))
    # A group of 8 reads all weights in an eighth of the time, and there is one group for eight:
    # the time differs by reading the weights for 256 texts at a time, not for 8 times as many.
    assert whole.hours < divided.hours < 1.5 * whole.hours


def test_a_launch_divides_the_network_that_answers_as_it_is_told():
    def divides(told: bool | None, number: int = 2) -> bool:
        sharing = SimpleNamespace(num_processes=number, device=torch.device("cpu"))
        return gpu_plan.divides_answering(SMALL, Sharding(tensor_parallel=told), sharing)

    assert divides(True) and not divides(False)
    assert not divides(None)  # on a CPU all processes share the memory
    assert not divides(True, 1)


def test_the_work_is_that_of_the_papers_grid():
    work = gpu_plan._Work(SMALL, FULL)
    assert work.facts["train"] == 75_944
    # Six sizes of five levels and the whole pools, five samples; then 8 rates, and two strategies.
    # Two runs are of both: of 240 facts of all levels, at the model's own rate.
    levels = 5 * (5 * (60 + 120 + 240 + 480 + 960 + 1920) + 75_944)
    others = 8 * 5 * 240 + 2 * (60 + 120 + 240 + 480 + 960 + 1920) + 2 * (240 + 1920) - 2 * 240
    assert (levels + others) / 8 <= work.steps < (levels + others) / 8 + 300
    assert work.rankings == 50 + 4 * 20
    assert work.restorations == 50 * 7 + 20 * 12 + 25 * 8


def test_the_command_prints_every_stage_and_needs_no_hub(monkeypatch, capsys):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    words = "plan llama-3-8b --profile full --gpus 1 --gpu-memory 80G"
    assert cli.main(words.split()) == 0
    out = capsys.readouterr().out
    assert "arithmetic, never run on a GPU" in out
    assert all(name in out for name in ("mastery", "fine-tuning, offloaded", "restoration"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("plan micro-m --gpus 1", "sizes of micro-m on GPUs are not known"),
        ("plan llama-3-8b --gpus 0", "0 GPUs: give 1 or more"),
        ("plan llama-3-8b --gpus 1 --gpu-memory much", "memory 'much'"),
    ],
)
def test_what_cannot_be_planned_is_one_line(words, said, capsys):
    assert cli.main(words.split()) == 1
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_memory_is_read_as_it_is_written():
    assert parse_memory("80G") == parse_memory("80 GiB") == 80 << 30
    assert parse_memory("1.5T") == 3 << 39
    with pytest.raises(ConfigError):
        parse_memory("80")


def test_a_study_that_cannot_fit_is_refused_before_anything_is_loaded(monkeypatch, capsys):
    """No machine of this project has the 1.4 TB that 70 billion parameters take on a CPU."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the Hub is not asked
    assert cli.main(["run", "llama-3-70b", "--profile", "smoke"]) == 1
    error = capsys.readouterr().err
    assert "llama-3-70b needs 1,411 GB of memory" in error and error.count("\n") == 1
    plan.check_fits("micro-m")


def test_gpus_that_are_too_small_are_named_with_what_would_fit():
    with pytest.raises(ConfigError, match="--fsdp_offload_params true"):
        gpu_plan.check(SMALL, Machine(1, 80 * GIB, 256 * GIB), offload=False)
    gpu_plan.check(SMALL, Machine(1, 80 * GIB, 256 * GIB), offload=True)
    gpu_plan.check(LARGE, Machine(8, 80 * GIB, 2048 * GIB), offload=True)
    with pytest.raises(ConfigError, match="would fit: REPRO_TENSOR_PARALLEL=true"):
        gpu_plan.check(LARGE, Machine(8, 80 * GIB, 2048 * GIB), True, tensor_parallel=False)
    said = "mastery of LLaMA-3-70B does not fit on 3 GPUs .* GPUs of 135 GiB each, or 2 GPUs"
    with pytest.raises(ConfigError, match=said):
        gpu_plan.check(LARGE, Machine(3, 80 * GIB, 2048 * GIB), offload=True)
