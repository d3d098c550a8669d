# SPDX-License-Identifier: Apache-2.0
"""Rows to a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hylora.language.loss import IGNORED

__all__ = ["collate"]


def collate(rows: Sequence[dict[str, Tensor]], pad_token_id: int = 0) -> dict[str, Tensor]:
    """Stack rows, padding shorter ones on the right.

    Args:
        rows: dicts of one-dimensional int64 tensors: "input_ids", "labels" and, in all rows or none, "position_ids".
        pad_token_id: fills the padding. Padding is masked and carries no label, so that any token of the vocabulary
            will do.

    Returns:
        dict of [B, L] int64 tensors with the rows' keys, and "attention_mask" (1 for tokens, 0 for padding) where rows
        differ in length.
    """
    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    filling = {"input_ids": pad_token_id, "labels": IGNORED, "position_ids": 0}
    batch = {
        name: torch.nn.utils.rnn.pad_sequence([row[name] for row in rows], True, filling[name]) for name in rows[0]
    }
    longest = int(lengths.max())
    if int(lengths.min()) < longest:
        batch["attention_mask"] = (torch.arange(longest) < lengths[:, None]).long()
    return batch
