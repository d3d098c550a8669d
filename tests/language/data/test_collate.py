# SPDX-License-Identifier: Apache-2.0
"""Batches of rows."""

from __future__ import annotations

import torch

from hylora.language.data import Padding


def row(*ids, **extra):
    ids = torch.tensor(ids)
    return {"input_ids": ids, "labels": ids.clone(), **extra}


def test_rows_of_one_length_are_stacked_without_a_mask():
    batch = Padding()([row(1, 2), row(3, 4)])
    assert batch["input_ids"].tolist() == batch["labels"].tolist() == [[1, 2], [3, 4]]
    assert set(batch) == {"input_ids", "labels"}


def test_shorter_rows_are_padded_on_the_right():
    batch = Padding(9)([row(1), row(3, 4, 5)])
    assert batch["input_ids"].tolist() == [[1, 9, 9], [3, 4, 5]]
    assert batch["labels"].tolist() == [[1, -100, -100], [3, 4, 5]]
    assert batch["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1]]
    assert all(values.dtype == torch.int64 for values in batch.values())


def test_positions_are_kept():
    batch = Padding()([row(1, 2, position_ids=torch.tensor([0, 0])), row(3, 4, position_ids=torch.tensor([0, 1]))])
    assert batch["position_ids"].tolist() == [[0, 0], [0, 1]]
