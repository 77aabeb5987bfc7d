"""Which number format a device multiplies faster: measured, and measured once."""

import json
import time

import pytest
import torch

from repro.models import devices

CPU = torch.device("cpu")
SHAPES = [(64, 48), (48, 64), (64, 48)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Keep what is measured in a cache of the test's own."""
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path))
    devices._seconds_by_format.cache_clear()
    yield tmp_path
    devices._seconds_by_format.cache_clear()


def measured_file(folder):
    [path] = (folder / "number_formats").iterdir()
    return path


def test_the_faster_format_is_measured_and_kept(own_cache):
    dtype = devices.inference_dtype(CPU, SHAPES)
    record = json.loads(measured_file(own_cache).read_text())
    assert record["settings"][-1] == [[48, 64], [64, 48]]
    assert set(record["seconds"]) == {"float32", "bfloat16"}
    assert all(0 < seconds < 60 for seconds in record["seconds"].values())
    fastest = min(record["seconds"], key=record["seconds"].get)
    assert str(dtype) == f"torch.{fastest}"


@pytest.mark.parametrize("fastest", ["float32", "bfloat16"])
def test_what_is_kept_decides_and_nothing_is_measured_again(own_cache, monkeypatch, fastest):
    devices.inference_dtype(CPU, SHAPES)
    path = measured_file(own_cache)
    record = json.loads(path.read_text())
    record["seconds"] = {"float32": 2.0, "bfloat16": 2.0, fastest: 1.0}
    path.write_text(json.dumps(record))
    devices._seconds_by_format.cache_clear()
    monkeypatch.setattr(devices, "_measure", lambda sizes: pytest.fail("measured again"))
    assert devices.inference_dtype(CPU, SHAPES) is getattr(torch, fastest)


@pytest.mark.parametrize("damaged", ["", "[]", '{"seconds": {"float32": 1}}', "{", "null"])
def test_a_damaged_measurement_is_made_again(own_cache, damaged):
    devices.inference_dtype(CPU, SHAPES)
    measured_file(own_cache).write_text(damaged)
    devices._seconds_by_format.cache_clear()
    devices.inference_dtype(CPU, SHAPES)
    assert set(json.loads(measured_file(own_cache).read_text())["seconds"]) == {
        "float32",
        "bfloat16",
    }


def test_a_cache_that_cannot_be_written_stops_nothing(own_cache):
    (own_cache / "number_formats").write_text("a file where the folder would be")
    assert devices.inference_dtype(CPU, SHAPES) in (torch.float32, torch.bfloat16)


def test_the_format_that_takes_longer_is_not_chosen(monkeypatch):
    """Products that are slowed down in one format are timed as slow."""
    whole = torch.nn.functional.linear

    def slow(states, weight):
        if states.dtype is torch.bfloat16:
            time.sleep(0.02)
        return whole(states, weight)

    monkeypatch.setattr(torch.nn.functional, "linear", slow)
    assert devices.inference_dtype(CPU, SHAPES) is torch.float32


def test_only_a_part_of_a_huge_matrix_is_timed(own_cache):
    devices.inference_dtype(CPU, [(300_000, 8), (8, 8)])
    assert json.loads(measured_file(own_cache).read_text())["settings"][-1] == [[8, 8], [4096, 8]]
