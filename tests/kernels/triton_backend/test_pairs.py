# SPDX-License-Identifier: Apache-2.0
"""Slices of pairs are all pairs once, within the memory that they may take."""

from __future__ import annotations

import pytest
import torch

from hylora_kernels import SequenceLayout
from hylora_kernels.options import SpanOptions
from hylora_kernels.triton_backend import pairs
from hylora_kernels.triton_backend.launch import Launch
from hylora_kernels.triton_backend.tables import span_tables
from tests.kernels.triton_backend.choices import random_choice

GROUPS, HEAD_DIM, TOP_K = 2, 16, 4


@pytest.mark.parametrize("limit", [1, 1000, 20_000, 100_000, 1 << 27])
@pytest.mark.parametrize("query_group", [1, 16])
def test_slices_are_all_pairs_within_bounds(query_group, limit, monkeypatch):
    layout = SequenceLayout(2, 200, ((0, 7, 193), (1, 0, 1), (1, 1, 130)))
    options = SpanOptions(16, TOP_K, 80, "causal", query_group)
    tables = span_tables(layout, options, torch.device("cpu"))
    chosen = random_choice(3, layout, options)
    monkeypatch.setattr(pairs, "_SLICE", limit)
    seen = torch.zeros_like(chosen)
    per_unit = GROUPS * TOP_K * HEAD_DIM * query_group
    unit = 0
    for part in pairs.pair_slices(chosen, tables, GROUPS, HEAD_DIM):
        heads, units, _ = part.chosen.shape
        assert heads * units * per_unit <= max(limit, per_unit)
        assert (part.heads.start, part.heads.stop) == (GROUPS * part.kv_heads.start, GROUPS * part.kv_heads.stop)
        at = slice(unit, unit + units)
        assert torch.equal(part.chosen, chosen[part.kv_heads, at])
        assert torch.equal(part.units, tables.units[at])
        seen[part.kv_heads, at] += 1
        unit = at.stop % len(tables.units)
    assert (seen == 1).all()


@pytest.mark.parametrize("unit_size", [1, 5, 31])
@pytest.mark.parametrize("groups", [1, 3, 4, 32])
@pytest.mark.parametrize("block_m", [16, 64])
def test_tiles_are_full(block_m, groups, unit_size):
    tile = pairs.pair_tile(Launch(block_m, 256, 4, 2), unit_size, groups)
    assert tile["ROWS"] == max(block_m, 32 if unit_size == 31 else 0)
    assert groups % tile["HEADS"] == 0
    assert tile["ROWS"] % (tile["PAIRS"] * tile["HEADS"]) == 0
    assert tile["ROWS"] // tile["PAIRS"] // tile["HEADS"] >= unit_size
    assert tile["SIZE"] >= tile["PAIRS"] > 0
