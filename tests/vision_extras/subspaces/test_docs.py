# SPDX-License-Identifier: Apache-2.0
"""The code of docs/guides/subspaces.md runs as it stands there."""

import importlib.util

import torch

from tests.pages import blocks, page


def test_the_code_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in blocks(page("docs/guides/subspaces.md"), "python"):
        if "torch.onnx" not in block or importlib.util.find_spec("onnxscript"):
            exec(block, names)
    images = names["images"]
    torch.testing.assert_close(names["program"].module()(images), names["logits"])
