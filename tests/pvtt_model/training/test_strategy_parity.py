"""The benchmark's 50 steps of every strategy, against one plain process, within the benchmark's stated tolerance."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from benchmarks.strategies import STRATEGIES, TOLERANCE, furthest

SCRIPT = """
import json, sys
from pathlib import Path
import torch
from benchmarks.strategies import STRATEGIES, run
torch.set_num_threads(1)
print(json.dumps({name: run(Path(sys.argv[1]) / str(i), name, 50, "float32")["losses"] for i, name in enumerate(STRATEGIES)}))
"""


@pytest.mark.slow
def test_every_strategy_learns_the_same(tmp_path):
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr[-3000:]
    losses = json.loads(done.stdout.splitlines()[-1])
    assert losses.keys() == STRATEGIES.keys() and all(len(found) == 50 for found in losses.values())
    for name, found in losses.items():
        assert furthest(found, losses["one process"]) < TOLERANCE["float32"], name
