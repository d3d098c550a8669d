# SPDX-License-Identifier: Apache-2.0
"""Held-out rows over processes: each once, and as many batches everywhere."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from hylora.training.evaluation import deal, evaluation_mode, mean_loss, totals
from hylora.training.feed import Share


class Stream:
    def __iter__(self):
        return iter(range(7))


@pytest.mark.parametrize("rows", [list(range(7)), Stream()], ids=["map-style", "stream"])
@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("limit", [None, 4])
def test_batches_cover_the_rows_once_and_are_as_many_everywhere(rows, processes, limit):
    parts = [list(deal(rows, 2, Share(rank, processes), lambda row: -1, limit)) for rank in range(processes)]
    assert len({len(part) for part in parts}) == 1
    dealt = [row for part in parts for batch in part for row in batch if row != -1]
    assert sorted(dealt) == list(range(limit or 7))


def test_what_a_model_gives_is_summed_over_batches():
    def model(x):
        return x.sum(), torch.tensor(len(x)), (x > 1).sum()

    batches, stops = [{"x": torch.arange(3.0)}, {"x": torch.arange(2.0)}], []
    accelerator = Accelerator(cpu=True)
    assert totals(model, batches, accelerator, lambda: stops.append(1)) == [4.0, 5.0, 1.0] and len(stops) == 2
    assert mean_loss(lambda x: model(x)[:2], batches, accelerator, lambda: None) == pytest.approx(0.8)


def test_evaluation_mode_restores_each_module_even_after_an_error():
    model = nn.Sequential(nn.Linear(1, 1), nn.Dropout().eval())
    with pytest.raises(RuntimeError, match="inside"), evaluation_mode(model):
        assert not any(module.training for module in model.modules())
        raise RuntimeError("inside")
    assert model.training and model[0].training and not model[1].training
