"""Decoding stays inside its budget of memory, however many prompts there are."""

import json
import platform
import subprocess
import sys

import pytest

MEASURE = """
import json, re, sys
from pathlib import Path
from repro.inference import kv_cache
from repro.inference.decoding import Decoding, Prompt, complete
from repro.models import loading

network, tokenizer = loading.load_model(sys.argv[1], device="cpu")
prompts = [Prompt([2 + (i + j) % 600 for j in range(40)], (), str(i)) for i in range(3000)]
rows = kv_cache.rows_within(network, 40, 42, int(sys.argv[2]))
complete(network, tokenizer, prompts[:8], Decoding(2, rows=rows))  # what is allocated once

def resident(what):
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(what + r":\\s+(\\d+)", status)[1])

before = resident("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
complete(network, tokenizer, prompts, Decoding(2, rows=rows))
print(json.dumps({"rows": rows, "grown": resident("VmHWM") - before}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_decoding_stays_inside_its_budget(tiny_model):
    budget = 64 << 20
    command = [sys.executable, "-c", MEASURE, str(tiny_model), str(budget)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    counts = json.loads(done.stdout.splitlines()[-1])
    assert 100 < counts["rows"] < 1500  # several batches
    assert 0 < counts["grown"] < budget


FAULTS = """
import json, resource
import torch
from repro.inference.allocator import keep_pages

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(1 << 24).sum()  # 64 MB: 16,384 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = min(faults(), faults())
keep_pages()
print(json.dumps([before, min(faults() for _ in range(5))]))  # the first ones grow the heap
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_kept_pages_are_not_asked_for_again():
    command = [sys.executable, "-c", FAULTS]  # a process of its own: what was kept stays kept
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    before, after = json.loads(done.stdout)
    assert before > 4000 and after < 100
