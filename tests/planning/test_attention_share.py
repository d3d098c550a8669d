# SPDX-License-Identifier: Apache-2.0
"""What the guide says of published models is what the planner says of their shapes."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from hylora.planning import Hardware, TrainingSetup
from hylora.planning.planner import Estimator
from tests.planning.tiny_plans import tiny_recipe

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/guides/planning.md").read_text()


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.delitem(sys.modules, "attention_share", raising=False)
    return importlib.import_module("attention_share")


@pytest.fixture
def results():
    return json.loads((ROOT / "docs/benchmarks/attention_share.json").read_text())["results"]


def test_the_documented_table_is_the_committed_one(benchmark, results):
    assert benchmark.shown(results) in PAGE
    assert {result["model"]: result["config"] for result in results} == benchmark.SHAPES


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Bamba-9B", "Zamba2-2.7B", "Llama-3-8B"])
def test_the_planner_still_says_so(benchmark, results, name):
    (committed,) = (result for result in results if result["model"] == name)
    assert benchmark.attention_share(name) == committed


@pytest.mark.slow
def test_bamba_9b_fits_131072_tokens_on_80_gb_only_with_offloading(benchmark, tmp_path):
    totals = {}
    for offload in (False, True):
        training = {"sequence_length": 131072, "offload": offload, "mixed_precision": "bf16", "loss_slice": 1024}
        adapter = {"variant": "hylora", "r": 32, "lora_alpha": 64}
        recipe = tiny_recipe(tmp_path, benchmark.SHAPES["Bamba-9B"], adapter=adapter, training=training)
        plan = Estimator(TrainingSetup(recipe, Hardware.parse("1x80GB"))).plan()
        assert plan.fits == offload
        totals[offload] = plan.memory.total
        assert f"{plan.memory.total / 2**30:.1f}" in PAGE
    # The shape whose parameters the guide to HyLoRA counts.
    assert sum(group.model for group in plan.parameters.values()) == 9_780_235_392
    # Every layer's input, in bfloat16; one of them comes back at a time.
    assert plan.memory.offloaded == 32 * (131072 * 4096 * 2,)
    assert totals[False] - totals[True] == pytest.approx(31 * 2**30, abs=2**30)
