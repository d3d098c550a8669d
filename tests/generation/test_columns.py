# SPDX-License-Identifier: Apache-2.0
"""The record of padding, against a plain mask."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from hylora.generation.columns import Columns
from hylora_kernels import SequenceLayout

BATCH = 3
PIECE = st.tuples(st.integers(1, 4), *[st.tuples(st.integers(0, 4), st.integers(0, 4))] * BATCH)
STEP = st.one_of(
    PIECE.map(lambda piece: ("append", piece)),
    st.floats(0, 1).map(lambda share: ("crop", share)),
    st.lists(st.integers(0, BATCH - 1), min_size=BATCH, max_size=BATCH).map(lambda rows: ("take", rows)),
)


def mask_of(piece):
    """[B, n] bool: each row real between two bounds."""
    length, *bounds = piece
    index = torch.arange(length)
    return torch.stack([(index >= min(pair)) & (index < max(pair)) for pair in bounds])


@given(st.lists(STEP, max_size=12))
def test_counts_are_those_of_a_mask(steps):
    columns, mask = Columns(BATCH), torch.zeros(BATCH, 0, dtype=torch.bool)
    for step, what in steps:
        if step == "append":
            piece = mask_of(what)
            columns.append(SequenceLayout.from_padding_mask(piece))
            mask = torch.cat([mask, piece], dim=1)
        elif step == "crop":
            kept = int(what * columns.length)
            columns.crop(kept)
            mask = mask[:, :kept]
        else:
            columns.take(what)
            mask = mask[what]
        assert columns.length == mask.shape[1]
        for length in range(columns.length + 1):
            assert columns.real(length) == mask[:, :length].sum(dim=1).tolist()


def test_steps_of_one_token_are_one_run():
    columns = Columns(2)
    columns.append(SequenceLayout.from_padding_mask(torch.tensor([[0, 1, 1], [1, 1, 1]])))
    for _ in range(100):
        columns.append(SequenceLayout.dense(2, 1))
    assert columns._runs == [[(1, 103)], [(0, 103)]]
