# SPDX-License-Identifier: Apache-2.0
"""Which rows every update sees, and that only the seed and the step decide it."""

from __future__ import annotations

from collections import Counter

import pytest

from hylora.training.batches import Layout, MapBatches, StreamBatches, make_batches
from hylora.training.randomness import RowOrder, derive_key


def windows(rows, layout, seed=0, steps=range(6)):
    batches = MapBatches(rows, list, layout, seed)
    return [batches.window(step) for step in steps]


def rows_of(window):
    return sorted(row for batch in window for row in batch)


def test_an_epoch_sees_every_row_once_and_runs_into_the_next():
    rows = list(range(10))
    seen = [
        row
        for window in windows(rows, Layout(batch_size=2, accumulation=2), steps=range(5))
        for row in rows_of(window)
    ]
    assert Counter(seen) == dict.fromkeys(rows, 2)
    order = RowOrder(10, seed=0)
    first, second = [order[i] for i in range(10)], [order[i] for i in range(10, 20)]
    assert sorted(first) == sorted(second) == rows and first != second


def test_order_depends_on_the_seed_alone():
    order = RowOrder(20, 3)
    backwards = [order[i] for i in reversed(range(60))]
    assert backwards[::-1] == [RowOrder(20, 3)[i] for i in range(60)]
    assert [RowOrder(20, 4)[i] for i in range(60)] != backwards[::-1]


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_share_an_update_without_overlap(world_size):
    """Any number of processes sees the same rows in the same update."""
    rows = list(range(23))
    alone = [rows_of(window) for window in windows(rows, Layout(1, 8))]
    parts = [windows(rows, Layout(1, 8 // world_size, rank, world_size)) for rank in range(world_size)]
    for step, expected in enumerate(alone):
        assert sorted(row for part in parts for row in rows_of(part[step])) == expected


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="no row"):
        MapBatches([], list, Layout(1, 1), 0)


class Counting:
    """An endless stream of integers, in parts."""

    def __init__(self, rank=0, world_size=1):
        self.place, self.rank, self.world_size = 0, rank, world_size

    def shard(self, rank, world_size):
        return Counting(rank, world_size)

    def __iter__(self):
        while True:
            self.place += 1
            yield (self.place - 1) * self.world_size + self.rank

    def state_dict(self):
        return {"place": self.place}

    def load_state_dict(self, state):
        self.place = state["place"]


def test_a_stream_goes_on_where_its_state_was_taken():
    layout = Layout(batch_size=2, accumulation=2, rank=1, world_size=2)
    whole = make_batches(Counting(), list, layout, seed=0)
    assert isinstance(whole, StreamBatches)
    expected = [whole.window(step) for step in range(4)]
    assert expected[0] == [[1, 3], [5, 7]]

    interrupted = make_batches(Counting(), list, layout, seed=0)
    interrupted.window(0)
    state = interrupted.state()
    interrupted.window(1)
    resumed = make_batches(Counting(), list, layout, seed=0)
    resumed.restore(state)
    assert [resumed.window(step) for step in range(1, 4)] == expected[1:]


def test_keys_differ_in_every_part():
    keys = {derive_key("step", seed, step, rank) for seed in range(5) for step in range(5) for rank in range(5)}
    assert len(keys) == 125 and all(0 <= key < 2**63 for key in keys)
    assert derive_key("step", 1, 2, 3) == derive_key("step", 1, 2, 3) != derive_key("order", 1, 2, 3)
