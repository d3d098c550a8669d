# SPDX-License-Identifier: Apache-2.0
"""What every update sees, and that only the moment decides it."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from hylora.randomness import derive_key
from hylora.training.feed import RowFeed, RowOrder, Share, StreamFeed, WindowSize
from hylora.training.moment import Moment


def keep(rows, generators, shape):
    """A batch that shows what it was made of."""
    return {"rows": torch.tensor(rows), "draws": torch.stack([torch.rand(2, generator=g) for g in generators])}


def growing(moment):
    """Windows of 1 to 5 rows, in forward passes of two, each with its own shape."""
    return WindowSize(1 + moment.step % 5, 2, shape=8 + moment.step)


def windows(feed, steps=6, seed=0, start=0):
    return [feed.window(Moment(step, steps, seed)) for step in range(start, steps)]


def rows_of(window):
    return sorted(int(row) for batch in window for row in batch["rows"])


def test_an_epoch_sees_every_row_once_and_runs_into_the_next():
    rows = list(range(10))
    seen = [row for window in windows(RowFeed(rows, keep, WindowSize(4, 2)), steps=5) for row in rows_of(window)]
    assert Counter(seen) == dict.fromkeys(rows, 2)
    order = RowOrder(10, seed=0)
    first, second = [order[i] for i in range(10)], [order[i] for i in range(10, 20)]
    assert sorted(first) == sorted(second) == rows and first != second


def test_order_depends_on_the_seed_alone():
    order = RowOrder(20, 3)
    backwards = [order[i] for i in reversed(range(60))]
    assert backwards[::-1] == [RowOrder(20, 3)[i] for i in range(60)]
    assert [RowOrder(20, 4)[i] for i in range(60)] != backwards[::-1]


def test_rows_that_bring_an_order_keep_it():
    class Ordered(list):
        def at(self, epoch, index):
            return 10 * epoch + self[index]

    seen = [row for window in windows(RowFeed(Ordered([5, 3, 4]), keep, WindowSize(2, 1)), steps=3) for row in window]
    assert [int(batch["rows"]) for batch in seen] == [5, 3, 4, 15, 13, 14]


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_share_an_update_without_overlap(world_size):
    """Any number of processes sees the same rows in the same update."""
    rows = list(range(23))
    alone = [rows_of(window) for window in windows(RowFeed(rows, keep, WindowSize(8, 1)))]
    parts = [windows(RowFeed(rows, keep, WindowSize(8, 1), Share(rank, world_size))) for rank in range(world_size)]
    for step, expected in enumerate(alone):
        assert sorted(row for part in parts for row in rows_of(part[step])) == expected


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_windows_of_any_size_lose_nothing_and_have_as_many_passes_everywhere(world_size):
    sizes = [WindowSize(rows, 2) for rows in range(3, 12)]
    for size in sizes:
        parts = [[rows for rows, _ in size.parts(Share(rank, world_size))] for rank in range(world_size)]
        assert {len(part) for part in parts} == {size.passes(world_size)}
        assert sorted(row for part in parts for rows in part for row in rows) == list(range(size.rows))
        assert all(1 <= len(rows) <= 2 for part in parts for rows in part)


def test_draws_are_the_rows_own():
    """Neither processes nor how windows are cut change what augmentation draws for the n-th row that is seen."""
    rows = list(range(7))

    def draws(feeds):
        found = [batch for feed in feeds for window in windows(feed, steps=5) for batch in window]
        pairs = [(int(r), tuple(d.tolist())) for batch in found for r, d in zip(*batch.values(), strict=True)]
        return sorted(pairs)

    alone = draws([RowFeed(rows, keep, WindowSize(4, 2))])
    assert draws([RowFeed(rows, keep, WindowSize(4, 1), Share(rank, 2)) for rank in range(2)]) == alone
    assert len({draw for _, draw in alone}) == len(alone)


def test_sizes_follow_the_moment_and_shapes_reach_the_batch():
    def collate(rows, generators, shape):
        return {"rows": torch.tensor(rows), "shape": torch.tensor(shape)}

    found = windows(RowFeed(list(range(9)), collate, growing), steps=7)
    assert [len(rows_of(window)) for window in found] == [1, 2, 3, 4, 5, 1, 2]
    assert [{int(batch["shape"]) for batch in window} for window in found] == [{8 + step} for step in range(7)]
    seen = Counter(row for window in found for row in rows_of(window))
    assert sum(seen.values()) == 18 and set(seen.values()) == {2}


@pytest.mark.parametrize("workers", [0, 2])
def test_any_window_can_be_asked_for_first(workers):
    """After an interruption the feed begins in the middle, and workers make the same batches."""
    whole = windows(RowFeed(list(range(9)), keep, growing), steps=8)
    rest = windows(RowFeed(list(range(9)), keep, growing, workers=workers), steps=8, start=3)
    for expected, found in zip(whole[3:], rest, strict=True):
        for left, right in zip(expected, found, strict=True):
            assert all(torch.equal(left[name], right[name]) for name in left)


def test_making_batches_draws_nothing_from_the_global_generator():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    windows(RowFeed(list(range(9)), keep, growing, workers=1))
    assert torch.equal(torch.rand(3), expected)


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="rows=0"):
        RowFeed([], keep, WindowSize(1, 1))


def test_sizes_that_will_not_work_are_refused_before_training():
    """Three rows one by one on two processes would leave a pass of one of them empty, in the fifth update."""
    feed = RowFeed([1, 2], keep, lambda moment: WindowSize(3 if moment.step == 4 else 4, 1), Share(0, 2))
    with pytest.raises(ValueError, match="rows=3 must be at least 4"):
        feed.window(Moment(0, 6, 0))


@pytest.mark.parametrize(("rows", "rows_per_pass", "least"), [(1, 1, 2), (1, 4, 2), (3, 1, 4)])
def test_every_pass_of_every_process_needs_a_row(rows, rows_per_pass, least):
    feed = RowFeed([1, 2], keep, WindowSize(rows, rows_per_pass), Share(0, 2))
    message = f"rows={rows} must be at least {least}, one for each forward pass of 2 processes"
    with pytest.raises(ValueError, match=message):
        feed.window(Moment(0, 1, 0))


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
    def make():
        return StreamFeed(Counting(), keep, WindowSize(8, 2), Share(rank=1, world_size=2))

    whole = make()
    expected = windows(whole, steps=4)
    assert [batch["rows"].tolist() for batch in expected[0]] == [[1, 3], [5, 7]]

    interrupted = make()
    interrupted.window(Moment(0, 4, 0))
    state = interrupted.state()
    interrupted.window(Moment(1, 4, 0))
    resumed = make()
    resumed.restore(state)
    for left, right in zip(windows(resumed, steps=4, start=1), expected[1:], strict=True):
        assert all(torch.equal(a[name], b[name]) for a, b in zip(left, right, strict=True) for name in a)


def test_keys_differ_in_every_part():
    keys = {derive_key("step", seed, step, rank) for seed in range(5) for step in range(5) for rank in range(5)}
    assert len(keys) == 125 and all(0 <= key < 2**63 for key in keys)
    assert derive_key("step", 1, 2, 3) == derive_key("step", 1, 2, 3) != derive_key("order", 1, 2, 3)
