# SPDX-License-Identifier: Apache-2.0
"""Two processes measure, detect and prune as one does."""

from __future__ import annotations

import pytest
import torch

from tests.outcomes import records_of
from tests.processes import launch
from vision_extras.models.weights import read_weights

OVERRIDES = [
    "images.held_out=0",
    "model.norm=group",
    "model.width=0.5",
    "training.epochs=4",
    "training.global_batch_size=512",
    "training.batch_size=128",
    "evaluation.every=0",
    "evaluation.at_end=false",
    "signals.fisher=33",
    "signals.kl_uniform=true",
    "pruning.sparsity=0.8",
]


def run(folder, processes, *overrides):
    launch(
        processes, "-m", "hylora.train", "recipes/vision/digits.yaml", *OVERRIDES, *overrides, f"output.path={folder}"
    )
    return records_of(folder), read_weights(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ["pruning.at=detect", "pruning.detector.signal=fisher", "pruning.detector.window=1"],
        ["pruning.at=2", "pruning.criterion=fisher", "pruning.scope=local"],
    ],
    ids=["detected", "fisher"],
)
def test_two_processes_are_one(tmp_path, overrides):
    one, weights = run(tmp_path / "one", 1, *overrides)
    two, others = run(tmp_path / "two", 2, *overrides)
    assert any(record["sparsity"] > 0 for record in one)
    for record, other in zip(one, two, strict=True):
        assert other == pytest.approx(record, rel=1e-2)
    assert weights.keys() == others.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(others[name], weight, rtol=1e-2, atol=1e-3)
    zeros = [sum(int((value == 0).sum()) for value in state.values() if value.ndim > 1) for state in (weights, others)]
    assert zeros[0] == zeros[1] > 1000
