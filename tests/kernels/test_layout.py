# SPDX-License-Identifier: Apache-2.0
"""Sequence layouts: what is recognised, what is refused, what is taken together."""

from __future__ import annotations

import pytest
import torch

from hylora_kernels import SequenceLayout


def test_dense():
    layout = SequenceLayout.dense(2, 5)
    assert layout.sequences == ((0, 0, 5), (1, 0, 5))
    assert layout.is_dense
    assert layout.segments() == ((slice(0, 2), 0, 5),)


def test_a_full_mask_is_dense():
    assert SequenceLayout.from_padding_mask(torch.ones(3, 4)) == SequenceLayout.dense(3, 4)


def test_padding_on_either_side_both_sides_and_everywhere():
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
    layout = SequenceLayout.from_padding_mask(mask)
    assert layout.sequences == ((0, 2, 2), (1, 0, 3), (2, 1, 2), (4, 0, 4))
    assert not layout.is_dense


def test_a_gap_in_the_mask_is_refused():
    with pytest.raises(ValueError, match="row 1 has a gap"):
        SequenceLayout.from_padding_mask(torch.tensor([[1, 1, 1], [1, 0, 1]]))


def test_boundaries_cut_the_real_tokens():
    positions = torch.tensor([[0, 1, 2, 0, 1, 0], [0, 0, 0, 1, 2, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 0]])
    layout = SequenceLayout.from_boundaries(positions == 0, mask)
    assert layout.sequences == ((0, 0, 3), (0, 3, 2), (0, 5, 1), (1, 2, 3))


def test_the_first_real_token_needs_no_mark():
    assert SequenceLayout.from_boundaries(torch.zeros(1, 3, dtype=torch.bool)) == SequenceLayout.dense(1, 3)


def test_cu_seqlens():
    layout = SequenceLayout.from_cu_seqlens(torch.tensor([0, 3, 3, 5], dtype=torch.int32), length=7)
    assert (layout.batch, layout.length, layout.sequences) == (1, 7, ((0, 0, 3), (0, 3, 2)))
    assert SequenceLayout.from_cu_seqlens([0, 4]) == SequenceLayout.dense(1, 4)


@pytest.mark.parametrize("bounds", [[], [1, 2], [0, 3, 2], 5])
def test_impossible_cu_seqlens_are_refused(bounds):
    with pytest.raises(ValueError, match="cu_seqlens"):
        SequenceLayout.from_cu_seqlens(bounds)


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        ([(0, 0, 0)], "at least one token"),
        ([(2, 0, 1)], "does not fit"),
        ([(0, 3, 2)], "does not fit"),
        ([(0, -1, 2)], "does not fit"),
        ([(0, 0, 3), (0, 2, 2)], "overlaps"),
        ([(1, 0, 2), (0, 0, 2)], "precedes"),
    ],
)
def test_impossible_sequences_are_refused(sequences, message):
    with pytest.raises(ValueError, match=message):
        SequenceLayout(2, 4, tuple(sequences))


@pytest.mark.parametrize("shapes", [((3,), None), ((2, 3), (2, 4))])
def test_wrong_mask_shapes_are_refused(shapes):
    starts, mask = (None if s is None else torch.ones(s, dtype=torch.bool) for s in shapes)
    with pytest.raises(ValueError, match=r"\[batch, length\]"):
        SequenceLayout.from_boundaries(starts, mask)


def test_segments_take_rows_cut_alike_together_and_cover_everything():
    cuts = [[(0, 2), (2, 3)], [(0, 2), (2, 3)], [], [(1, 4)], [(0, 2), (2, 3)]]
    sequences = tuple((row, *cut) for row, row_cuts in enumerate(cuts) for cut in row_cuts)
    segments = SequenceLayout(5, 5, sequences).segments()
    assert segments[:2] == ((slice(0, 2), 0, 2), (slice(0, 2), 2, 3))
    covered = [(row, s.start, s.length) for s in segments for row in range(s.rows.start, s.rows.stop)]
    assert sorted(covered) == list(sequences)
