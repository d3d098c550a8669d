# SPDX-License-Identifier: Apache-2.0
"""The lists of readers say the same as the readers' lists."""

from __future__ import annotations

import pytest
import torch

from hylora_kernels import SequenceLayout
from hylora_kernels.options import SpanOptions
from hylora_kernels.triton_backend.inverse import inverse_lists
from hylora_kernels.triton_backend.lists import reading_lists
from hylora_kernels.triton_backend.tables import span_tables
from tests.kernels.triton_backend.choices import random_choice

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

LAYOUTS = {
    "dense": SequenceLayout.dense(2, 200),
    "ragged": SequenceLayout(3, 300, ((0, 7, 293), (2, 0, 1), (2, 1, 130), (2, 140, 160))),
    "empty": SequenceLayout(1, 4, ()),
}


def setup(layout, selection, query_group, top_k=4):
    options = SpanOptions(16, top_k, 80, selection, query_group, "relevance", "attention", 0)
    tables = span_tables(layout, options, torch.device(DEVICE))
    return tables, reading_lists(random_choice(3, layout, options).to(DEVICE), tables, options)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize(("selection", "query_group"), [("chunk", 1), ("causal", 80), ("causal", 1), ("causal", 16)])
def test_every_block_knows_its_readers_in_order(layout, selection, query_group):
    tables, lists = setup(layout, selection, query_group)
    expected = [[] for _ in range(3 * len(tables.blocks))]
    for head in range(3):
        for reader, (*_, base, _) in enumerate(tables.readers.tolist()):
            for slot, block in enumerate(lists.blocks[head, reader].tolist()):
                if block >= 0:
                    mask = None if lists.masks is None else int(lists.masks[head, reader, slot])
                    expected[head * len(tables.blocks) + base + block].append((reader, mask))
    inverse = inverse_lists(lists, tables)
    offsets, readers = inverse.offsets.tolist(), inverse.readers.tolist()
    masks = [None] * len(readers) if inverse.masks is None else inverse.masks.tolist()
    entries = list(zip(readers, masks, strict=True))
    assert [entries[first:last] for first, last in zip(offsets, offsets[1:], strict=False)] == expected
    assert {inverse.offsets.dtype, inverse.readers.dtype, inverse.order.dtype} == {torch.int32}
    assert readers == [] or max(offsets) <= len(readers) == lists.blocks.numel()


def test_longest_lists_come_first_and_equals_as_they_lie():
    tables, lists = setup(LAYOUTS["ragged"], "causal", 16)
    inverse = inverse_lists(lists, tables)
    lengths = inverse.offsets.diff().tolist()
    assert len(set(lengths)) > 2
    assert inverse.order.tolist() == sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))


def test_without_retrieval_nobody_reads():
    tables, lists = setup(LAYOUTS["dense"], "chunk", 1, top_k=0)
    assert not inverse_lists(lists, tables).offsets.any()
