# SPDX-License-Identifier: Apache-2.0
"""The tables say what the options and the layout define."""

from __future__ import annotations

import pytest
import torch

from hylora_kernels import SequenceLayout
from hylora_kernels.options import SpanOptions
from hylora_kernels.triton_backend.tables import span_tables

LAYOUTS = {
    "dense": SequenceLayout.dense(2, 300),
    "ragged": SequenceLayout(3, 300, ((0, 7, 293), (2, 0, 1), (2, 1, 130), (2, 140, 160))),
    "empty": SequenceLayout(2, 5, ()),
}
SELECTIONS = [("chunk", 1), ("causal", 1), ("causal", 25), ("causal", 100)]


def tables_and_options(layout, selection, query_group):
    options = SpanOptions(16, 4, 100, selection, query_group, "relevance", "attention", 0)
    return span_tables(layout, options, torch.device("cpu")), options


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize(("selection", "query_group"), SELECTIONS)
def test_units_and_blocks_are_those_of_the_options(layout, selection, query_group):
    tables, options = tables_and_options(layout, selection, query_group)
    blocks, units = tables.blocks.tolist(), tables.units.tolist()
    assert tables.covered == (layout.is_dense and bool(layout.sequences))
    for row, start, length in layout.sequences:
        count = -(-length // 16)
        own, blocks = blocks[:count], blocks[count:]
        assert own == [[row, start + 16 * i, min(16, length - 16 * i)] for i in range(count)]
        assert options.units(length) <= len(units)
        first_block = units[0][4]
        assert tables.blocks[first_block].tolist() == own[0]
        for unit in range(options.units(length)):
            at, first, tokens, source, base, candidates = units[unit]
            size = options.unit_size
            assert (at, first, tokens) == (row, start + unit * size, min(size, length - unit * size))
            assert (base, candidates) == (first_block, options.candidates(unit))
            before = selection == "causal" and query_group > 1
            number = len(tables.units) - len(units) + unit
            assert source == (-1 if before and unit == 0 else number - before)
        units = units[options.units(length) :]
    assert not blocks and not units


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize(("selection", "query_group"), SELECTIONS)
def test_readers_cover_every_token_once_within_their_chunk(layout, selection, query_group):
    tables, options = tables_and_options(layout, selection, query_group)
    seen = torch.zeros(layout.batch, layout.length, dtype=torch.int64)
    for number, (row, first, tokens, chunk, origin) in enumerate(tables.readers.tolist()):
        seen[row, first : first + tokens] += 1
        assert 0 < tokens <= tables.reader_size
        assert chunk == origin + (first - origin) // 100 * 100
        assert first + tokens <= chunk + 100
        if tables.shared:
            assert tables.units[number, :3].tolist() == [row, first, tokens]
    assert tables.shared == (options.unit_size >= 32)
    assert tables.unit_size <= options.unit_size
    expected = torch.zeros_like(seen)
    for row, start, length in layout.sequences:
        expected[row, start : start + length] = 1
    assert torch.equal(seen, expected)
