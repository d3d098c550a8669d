# SPDX-License-Identifier: Apache-2.0
"""Choices turned around say the same as the choices, and runs cut them up without a gap."""

from __future__ import annotations

import pytest
import torch

from hylora_kernels import SequenceLayout
from hylora_kernels.options import SpanOptions
from hylora_kernels.triton_backend.inverse import cut_into_runs, inverse_lists, longest_first
from hylora_kernels.triton_backend.tables import span_tables
from tests.kernels.triton_backend.choices import random_choice

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

LAYOUTS = {
    "dense": SequenceLayout.dense(2, 200),
    "ragged": SequenceLayout(3, 300, ((0, 7, 293), (2, 0, 1), (2, 1, 130), (2, 140, 160))),
    "empty": SequenceLayout(1, 4, ()),
}
SELECTIONS = pytest.mark.parametrize(("selection", "query_group"), [("chunk", 1), ("causal", 1), ("causal", 16)])


def setup(layout, selection, query_group, top_k=4):
    options = SpanOptions(16, top_k, 80, selection, query_group, "relevance", "attention", 0)
    tables = span_tables(layout, options, torch.device(DEVICE))
    chosen = random_choice(3, layout, options).to(DEVICE)
    return tables, chosen, inverse_lists(chosen, tables.units, len(tables.blocks))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@SELECTIONS
def test_every_block_knows_who_chose_it_in_order(layout, selection, query_group):
    tables, chosen, inverse = setup(layout, selection, query_group)
    expected = [[] for _ in range(3 * len(tables.blocks))]
    for head in range(3):
        for unit, (*_, base, _) in enumerate(tables.units.tolist()):
            for slot, block in enumerate(chosen[head, unit].tolist()):
                if block >= 0:
                    expected[head * len(tables.blocks) + base + block].append(4 * unit + slot)
    offsets, entries = inverse.offsets.tolist(), inverse.entries.tolist()
    assert [entries[first:last] for first, last in zip(offsets, offsets[1:], strict=False)] == expected
    assert {inverse.offsets.dtype, inverse.entries.dtype} == {torch.int32}
    assert len(entries) == chosen.numel()


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@SELECTIONS
@pytest.mark.parametrize("size", [1, 3, 64])
def test_runs_cut_each_list_up(layout, selection, query_group, size):
    _, _, inverse = setup(layout, selection, query_group)
    lengths = inverse.offsets.diff().tolist()
    rows, first = (x.tolist() for x in cut_into_runs(inverse, size))
    expected = [row for row, length in enumerate(lengths) for _ in range(-(-length // size))]
    assert rows[: len(expected)] == expected
    assert set(rows[len(expected) :]) <= {len(lengths)}
    assert [rows[start:end] for start, end in zip(first, first[1:], strict=False)] == [
        [row] * -(-length // size) for row, length in enumerate(lengths)
    ]


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@SELECTIONS
@pytest.mark.parametrize("size", [1, 3])
def test_lists_of_several_runs_can_come_first(layout, selection, query_group, size):
    _, chosen, inverse = setup(layout, selection, query_group)
    lengths = inverse.offsets.diff().tolist()
    order = longest_first(inverse)
    assert order.tolist() == sorted(range(len(lengths)), key=lambda row: -lengths[row])
    rows, first = (x.tolist() for x in cut_into_runs(inverse, size, order))
    assert first == [0, *torch.tensor([-(-lengths[row] // size) for row in order.tolist()]).cumsum(0).tolist()]
    assert rows[: first[-1]] == [row for row in range(len(lengths)) for _ in range(first[row], first[row + 1])]
    several = sum(length > size for length in lengths)
    assert several <= chosen.numel() // (size + 1)
    assert first[several] <= 2 * (chosen.numel() // (size + 1))


def test_without_a_choice_there_are_no_lists():
    _, chosen, inverse = setup(LAYOUTS["dense"], "chunk", 1, top_k=0)
    assert chosen.numel() == 0 and not inverse.offsets.any()
    assert cut_into_runs(inverse, 4).rows.numel() == 0
