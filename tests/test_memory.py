"""Decoding stays inside its budget of memory, however many prompts there are."""

import json
import subprocess
import sys

import pytest

MEASURE = """
import json, re, sys
from pathlib import Path
from repro import kvcache, models
from repro.decoding import Prompt, complete

network, tokenizer = models.load(sys.argv[1], device="cpu")
prompts = [Prompt([2 + (i + j) % 600 for j in range(40)], (), str(i)) for i in range(3000)]
rows = kvcache.rows_within(network, 40, 42, int(sys.argv[2]))
complete(network, tokenizer, prompts[:8], 2, rows=rows)  # what is allocated once

def resident(what):
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(what + r":\\s+(\\d+)", status)[1])

before = resident("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
complete(network, tokenizer, prompts, 2, rows=rows)
print(json.dumps({"rows": rows, "grown": resident("VmHWM") - before}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_decoding_stays_inside_its_budget(tiny_model):
    budget = 64 << 20
    command = [sys.executable, "-c", MEASURE, str(tiny_model), str(budget)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert 100 < found["rows"] < 1500  # several batches
    assert 0 < found["grown"] < budget
