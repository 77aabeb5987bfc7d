"""Which engine answers: what it is called, what keys say of it, and what is refused."""

import json
import os
import subprocess
import sys
from importlib import util
from pathlib import Path

import pytest
from transformers import GPT2Config, GPT2LMHeadModel

from repro import cli, open_study
from repro.errors import ConfigError
from repro.inference.cpu.cpu_engine import CpuEngine
from repro.models import registry
from repro.study import engines
from repro.study.session import Session

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "engines.py"
NO_VLLM = util.find_spec("vllm") is None


@pytest.mark.parametrize("engine", ["auto", "cpu", "transformers"])
def test_keys_name_no_engine_that_rounds_as_the_others(engine):
    usual = open_study("micro-s", "smoke").requests.mastery()
    assert open_study("micro-s", "smoke", engine=engine).requests.mastery().key == usual.key
    assert "engine" not in usual.params


def test_keys_name_vllm_and_its_version(monkeypatch):
    monkeypatch.setattr(engines, "vllm_version", lambda: "1.2.3")
    study, usual = open_study("micro-s", "smoke", engine="vllm"), open_study("micro-s", "smoke")
    request = study.requests.mastery()
    assert request.params["engine"] == {"name": "vllm", "version": "1.2.3"}
    assert request.key != usual.requests.mastery().key
    assert {**request.params, "engine": None} == {**usual.requests.mastery().params, "engine": None}


@pytest.mark.skipif(not NO_VLLM, reason="vLLM is installed")
@pytest.mark.parametrize("command", ["run", "export"])
def test_vllm_that_is_not_installed_is_one_line(command, capsys):
    assert cli.main([command, "micro-s", "--profile", "smoke", "--engine", "vllm"]) == 1
    error = capsys.readouterr().err
    assert "pip install 'repro[vllm]'" in error and error.count("\n") == 1


def test_an_unknown_engine_is_one_line(capsys):
    assert cli.main(["run", "micro-s", "--engine", "tpu"]) == 2
    assert "transformers" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="unknown engine 'tpu'"):
        open_study("micro-s", engine="tpu")


def test_the_engine_that_is_asked_for_answers():
    for engine, is_cpu in (("auto", True), ("cpu", True), ("transformers", False)):
        session = Session(registry.entry("micro-s"), bars=False, engine=engine)
        session.load()
        assert isinstance(session.reader, CpuEngine) is is_cpu


def test_the_cpu_engine_is_refused_where_it_cannot_compute(tmp_path, tiny_loaded):
    config = GPT2Config(vocab_size=len(tiny_loaded[1]), n_embd=32, n_layer=1, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    tiny_loaded[1].save_pretrained(tmp_path)
    session = Session(registry.entry(tmp_path), bars=False, engine="cpu")
    with pytest.raises(ConfigError, match="leave out --engine cpu"):
        session.load()


@pytest.mark.parametrize("engine", ["cpu", "vllm"])
def test_engines_of_one_process_are_refused_in_several(engine):
    session = Session(registry.entry("micro-s"), bars=False, engine=engine)
    session.processes = type("Sharing", (), {"num_processes": 2})
    with pytest.raises(ConfigError, match=f"--engine {engine} answers from one process"):
        session.load()


def test_engines_are_compared_on_the_same_prompts(tmp_path, tiny_model, tiny_facts):
    tiny_facts.head(3).to_json(tmp_path / "facts.json")
    words = [tiny_model, "--engines", "transformers", "cpu", "--out", tmp_path / "engines.json"]
    done = subprocess.run(
        [sys.executable, BENCHMARK, *words, "--questions", tmp_path / "facts.json"],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads((tmp_path / "engines.json").read_text())
    assert record["facts"] == 3
    assert record["transformers"]["same"] == {"mastery": 1.0, "answers": 1.0}
    assert record["cpu"]["same"]["answers"] == 1.0 and record["cpu"]["same"]["mastery"] > 0.99
    assert all(record["cpu"][name]["tokens_per_second"] > 0 for name in ("mastery", "answers"))
