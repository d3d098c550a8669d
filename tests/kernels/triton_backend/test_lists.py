# SPDX-License-Identifier: Apache-2.0
"""A reader's list holds exactly the blocks that its queries chose."""

from __future__ import annotations

import pytest
import torch

from hylora_kernels import SequenceLayout
from hylora_kernels.options import SpanOptions
from hylora_kernels.triton_backend import lists as module
from hylora_kernels.triton_backend.lists import reading_lists
from hylora_kernels.triton_backend.tables import span_tables
from tests.kernels.triton_backend.choices import random_choice

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

LAYOUTS = {
    "dense": SequenceLayout.dense(2, 200),
    "ragged": SequenceLayout(3, 300, ((0, 7, 293), (2, 0, 1), (2, 1, 130), (2, 140, 160))),
    "empty": SequenceLayout(1, 4, ()),
}
# selection, query_group, chunk_size: readers of 64 queries and of less, units that divide 64 and that do not
SMALL_UNITS = [
    ("causal", 1, 80),
    ("causal", 16, 80),
    ("causal", 20, 80),
    ("causal", 63, 126),
    ("chunk", 64, 40),
    ("causal", 7, 21),
    ("causal", 5, 135),
]


def setup(layout, selection, query_group, chunk_size, top_k=4, retrieval="relevance"):
    options = SpanOptions(16, top_k, chunk_size, selection, query_group, retrieval, "attention", 0)
    tables = span_tables(layout, options, torch.device(DEVICE))
    return options, tables, random_choice(3, layout, options).to(DEVICE)


def bits(mask: int) -> set:
    return {i for i in range(64) if mask >> i & 1}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize(("selection", "query_group", "chunk_size"), SMALL_UNITS)
def test_a_reader_reads_the_union_of_its_queries_choices(layout, selection, query_group, chunk_size):
    options, tables, blocks = setup(layout, selection, query_group, chunk_size)
    assert not tables.shared
    lists = reading_lists(blocks, tables, options)
    assert lists.blocks.shape == lists.masks.shape == (3, len(tables.readers), lists.blocks.shape[2])
    assert (lists.blocks.dtype, lists.masks.dtype) == (torch.int32, torch.int64)
    for head in range(3):
        for number, (_, first, tokens, _, origin, _, unit) in enumerate(tables.readers.tolist()):
            expected = {}
            for row in range(tokens):
                own = unit + (first - origin + row) // options.unit_size - (first - origin) // options.unit_size
                for block in blocks[head, own].tolist():
                    if block >= 0:
                        expected.setdefault(block, set()).add(row)
            listed, masks = lists.blocks[head, number].tolist(), lists.masks[head, number].tolist()
            count = len(expected)
            assert listed[:count] == sorted(expected)
            assert set(listed[count:]) <= {-1} and set(masks[count:]) <= {0}
            assert [bits(mask) for mask in masks[:count]] == [expected[block] for block in sorted(expected)]


def test_slices_over_heads_change_nothing(monkeypatch):
    options, tables, blocks = setup(LAYOUTS["ragged"], "causal", 5, 80)
    whole = reading_lists(blocks, tables, options)
    monkeypatch.setattr(module, "_SLICE", 1)
    for one, other in zip(whole, reading_lists(blocks, tables, options), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("selection", "query_group", "chunk_size"), [("chunk", 64, 80), ("causal", 64, 128)])
def test_large_units_read_their_own_choice_without_a_copy(selection, query_group, chunk_size):
    options, tables, blocks = setup(LAYOUTS["ragged"], selection, query_group, chunk_size)
    lists = reading_lists(blocks, tables, options)
    assert lists.masks is None
    assert lists.blocks.data_ptr() == blocks.data_ptr() and torch.equal(lists.blocks, blocks)


@pytest.mark.parametrize(("selection", "query_group"), [("chunk", 64), ("causal", 8)])
@pytest.mark.parametrize(("top_k", "retrieval"), [(0, "relevance"), (4, "none")])
def test_without_retrieval_lists_are_empty(selection, query_group, top_k, retrieval):
    options, tables, blocks = setup(LAYOUTS["dense"], selection, query_group, 80, top_k, retrieval)
    lists = reading_lists(blocks, tables, options)
    assert lists.blocks.shape == (3, len(tables.readers), 0)


def test_lists_hold_no_more_than_there_are_blocks():
    options, tables, blocks = setup(SequenceLayout.dense(1, 100), "causal", 1, 64)
    assert reading_lists(blocks, tables, options).blocks.shape[2] == len(tables.blocks) == 7
