# SPDX-License-Identifier: Apache-2.0
"""The code of docs/guides/subspaces.md runs as it stands there, and its figures are the committed ones."""

import importlib.util
import json
import re

import torch

from tests.pages import ROOT, blocks, page

PAGE = page("docs/guides/subspaces.md")


def test_the_code_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in blocks(PAGE, "python"):
        if "torch.onnx" not in block or importlib.util.find_spec("onnxscript"):
            exec(block, names)
    images = names["images"]
    torch.testing.assert_close(names["program"].module()(images), names["logits"])


def test_times_of_a_change_are_the_committed_measurement():
    measured: dict = {}
    for result in json.loads((ROOT / "docs/benchmarks/subspace_switching_cpu.json").read_text())["results"]:
        case = result["network"].removeprefix("resnet"), str(result["side"]), str(result["batch_size"])
        measured.setdefault(case, []).append(f"{result['over_weakest']:.3f}")
    rows = re.findall(r"^\| ResNet-(\d+), (\d+) pixels, batch of (\d+) \| (.*) \|$", PAGE, flags=re.MULTILINE)
    assert {tuple(case): cells.split(" | ") for *case, cells in rows} == measured
