# SPDX-License-Identifier: Apache-2.0
"""The benchmark runs, reports, and refuses to time a wrong method."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def attention(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    for name in ("attention", "environment"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("attention")


def test_a_wrong_method_is_not_timed(attention, monkeypatch):
    options = attention.Options(block_size=4, top_k=2, chunk_size=16, window=16, head_dim=8)
    assert all(line["error"] < 1e-2 for line in attention.check(options, [torch.float32]))
    right = attention.sliding_window_attention

    def wrong(*tensors, window, backend):
        return right(*tensors, window=window + (backend == "torch"), backend=backend)

    monkeypatch.setattr(attention, "sliding_window_attention", wrong)
    with pytest.raises(SystemExit, match="SW is wrong in float64"):
        attention.check(options, [torch.float32])


def test_the_command_writes_its_report(tmp_path):
    sizes = "--lengths 40 --block-size 4 --top-k 2 --chunk-size 16 --window 16 --head-dim 8 --rounds 1 --threads 1"
    command = [sys.executable, BENCHMARKS / "attention.py", *sizes.split(), "--dtypes", "float32"]
    run = subprocess.run([*command, "--output", tmp_path], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    report = json.loads((tmp_path / "attention.json").read_text())
    assert {result["pass"] for result in report["results"]} == {"forward", "forward+backward"}
    assert set(report["results"][0]["ratios"]) == {"full/se", "sw/se", "s2/se", "se/nomem"}
    assert report["environment"]["torch"] == torch.__version__
    assert "| float32 | forward | 40 |" in (tmp_path / "attention.md").read_text()
