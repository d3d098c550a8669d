# SPDX-License-Identifier: Apache-2.0
"""Image models sharded over processes."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from tests.pages import ROOT
from tests.processes import launch, launch_environment


@pytest.mark.slow
def test_fsdp2_trains_what_one_process_does(tmp_path):
    """In parameter groups of their own, and without batch statistics, which each process would have for itself."""
    recipe = ["recipes/vision/digits.yaml", "model.norm=group", "training.epochs=1", "tracking.progress=false"]
    launch(1, "-m", "hylora.train", *recipe, f"output.path={tmp_path / 'one'}")
    launch(
        2,
        *("-m", "tests.sharded", *recipe, "training.batch_size=32", f"output.path={tmp_path / 'two'}"),
        variables=launch_environment(ROOT / "recipes/accelerate/fsdp2.yaml"),
    )
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-4, msg=name)
