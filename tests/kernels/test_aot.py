# SPDX-License-Identifier: Apache-2.0
"""Every kernel compiles for real GPUs with the launches it ships with, and fits them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# By kind of reader; the rest run with both.
OWN_KERNELS = {
    "shared": {"add_retrieved_gradients"},
    "tokens": {"attend_pairs", "differentiate_pairs", "merge_slots", "sum_runs"},
}
KERNELS = {
    "append",
    "attend_tile",
    "attention_forward",
    "combine_tiles",
    "own_gradients",
    "pool_queries",
    "query_gradient",
    "rank_blocks",
    "retrieve",
    "summarize",
}

# Compiles what chooses with summaries in bfloat16, and prints for each kernel its resources and whether it rounds.
CHOICE = """
import json, sys
from dataclasses import asdict
import torch
from suite.compiling import compiling_for, resources
from hylora_kernels import SequenceLayout, SpanOptions
from hylora_kernels.decode import DecodeState
from hylora_kernels.scoring import Scoring
from hylora_kernels.triton_backend import select_blocks, span_decode

options = SpanOptions(16, 4, 64, "token", summary="mean_std", summary_dtype="bfloat16")
prompt, token = ([torch.empty(1, heads, n, 128, dtype=torch.float16) for heads in (4, 2, 2)] for n in (150, 1))
with compiling_for(int(sys.argv[1])) as compiled:
    select_blocks(*prompt, SequenceLayout.dense(1, 150), options, 0.1)
    state = DecodeState(1, 4, 2, 128, 256, options, dtype=torch.float16)
    span_decode(*token, SequenceLayout.dense(1, 1), state.tensors(), options, Scoring(0.1))
rounds = lambda kernel: ".rn.bf16" in kernel.asm["ptx"]
print(json.dumps([{**asdict(resources(kernel)), "rounds": rounds(kernel)} for kernel in compiled]))
"""

# Compiles what steps launch under a softcap, and where own chunks are a library's; lists of readers are cut.
VARIANTS = """
import json, sys
from dataclasses import asdict
import torch
from suite.compiling import compile_calls, own_chunks_given, resources
from hylora_kernels import SpanOptions

call = (int(sys.argv[1]), (2, 2), [33 * 256], [512], 96, torch.bfloat16, SpanOptions(chunk_size=256))
capped = compile_calls(*call, softcap=50.0)
with own_chunks_given():
    given = compile_calls(*call)
print(json.dumps([[asdict(resources(kernel)) for kernel in kernels] for kernels in (capped, given)]))
"""

pytest.importorskip("triton")


def printed(script, *arguments):
    """What a script prints in a process of its own: this one has Triton's interpreter."""
    paths = os.pathsep.join(str(ROOT / path) for path in (".", "kernels/torch-ext", "eval", "benchmarks"))
    environment = {**os.environ, "PYTHONPATH": paths, "TRITON_INTERPRET": "0"}
    command = [sys.executable, "-c", script, *arguments]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return json.loads(run.stdout)


def compile_kernels(folder, *arguments):
    """Run the command in a process of its own: this one has Triton's interpreter."""
    command = [sys.executable, str(ROOT / "benchmarks/aot.py"), "--output", str(folder), *arguments]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(ROOT / p) for p in (".", "kernels/torch-ext", "eval")),
    }
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return json.loads((folder / "aot.json").read_text())["results"]


def names_in(result):
    return {kernel["kernel"] for kernel in result["kernels"]}


@pytest.mark.parametrize("arch", [pytest.param("80", marks=pytest.mark.slow), "90"])
def test_kernels_compile_within_a_gpus_limits(tmp_path, arch):
    """The command fails where registers spill at head dimensions up to 128, or shared memory does not suffice."""
    results = compile_kernels(tmp_path, "--arch", arch, "--head-dim", "64", "128", "--dtype", "bfloat16")
    assert [(r["case"]["head_dim"], r["case"]["readers"]) for r in results] == [
        (head_dim, readers) for head_dim in (64, 128) for readers in ("shared", "tokens")
    ]
    for result in results:
        assert names_in(result) == KERNELS | OWN_KERNELS[result["case"]["readers"]]
        assert all(kernel["registers"] > 0 for kernel in result["kernels"])
    assert "attention_forward" in (tmp_path / "aot.md").read_text()


@pytest.mark.parametrize("arch", [pytest.param("80", marks=pytest.mark.slow), "90"])
def test_kernels_round_summaries_to_bfloat16_and_read_them(arch):
    kernels = {kernel["kernel"]: kernel for kernel in printed(CHOICE, arch)}
    assert kernels.keys() >= {"summarize", "retrieve", "append", "rank_blocks"}
    assert {name for name, kernel in kernels.items() if kernel["rounds"]} == {"summarize", "append"}
    assert not any(kernel["stack"] for kernel in kernels.values())


@pytest.mark.parametrize("arch", [pytest.param("80", marks=pytest.mark.slow), "90"])
def test_kernels_compile_with_a_softcap_and_beside_a_library(arch):
    capped, given = printed(VARIANTS, arch)
    retrieving = {"attention_forward", "query_gradient", "add_retrieved_gradients", "sum_runs"}
    assert {kernel["kernel"] for kernel in capped} >= {*retrieving, "own_gradients", "attend_tile"}
    names = {kernel["kernel"] for kernel in given}
    assert names >= retrieving and "own_gradients" not in names
    assert not any(kernel["stack"] for kernel in (*capped, *given))


def test_the_documented_table_covers_what_is_supported():
    results = json.loads((ROOT / "docs/benchmarks/aot.json").read_text())["results"]
    cases = {tuple(result["case"].values()) for result in results}
    for arch in (80, 90):
        for readers in ("shared", "tokens"):
            assert cases >= {(arch, head_dim, "bfloat16", readers) for head_dim in (64, 80, 96, 128, 160, 256)}
    for result in results:
        assert names_in(result) == KERNELS | OWN_KERNELS[result["case"]["readers"]]
