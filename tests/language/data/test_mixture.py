# SPDX-License-Identifier: Apache-2.0
"""Weighted mixtures: shares of tokens, whatever the sizes of the sources."""

from __future__ import annotations

from collections import Counter

import pytest

from hylora.language.data.mixture import MixedRows, next_source


def owners(rows):
    return [row[0] for row in rows]


@pytest.mark.parametrize(
    ("sizes", "weights", "total"),
    [
        ((70, 30), (0.7, 0.3), 100),
        ((700, 30), (0.7, 0.3), 1000),
        ((7, 300), (0.7, 0.3), 1000),
        ((13, 5, 1), (2, 1, 1), 25),
        ((10,), (1.0,), 10),
    ],
)
def test_shares_hold_from_the_first_row_on(sizes, weights, total):
    rows = MixedRows([[(source, i) for i in range(size)] for source, size in enumerate(sizes)], weights, seed=0)
    assert len(rows) == total == sum(rows.counts)
    taken = owners(rows[i] for i in range(len(rows)))
    for end in range(1, len(rows) + 1):
        counts = Counter(taken[:end])
        for source, weight in enumerate(weights):
            assert abs(counts[source] - end * weight / sum(weights)) <= 1
    # Every row of every source is in the epoch, and none is repeated before the others of its source.
    seen = Counter(rows[i] for i in range(len(rows)))
    assert len(seen) == sum(sizes)
    for source in range(len(sizes)):
        passes = {count for row, count in seen.items() if row[0] == source}
        assert max(passes) - min(passes) <= 1


def test_map_style_and_step_by_step_order_agree():
    weights = (0.7, 0.2, 0.1)
    rows = MixedRows([[(source, i) for i in range(50)] for source in range(3)], weights, seed=0)
    counts = [0, 0, 0]
    for index in range(len(rows)):
        source = next_source(counts, weights)
        assert rows[index][0] == source
        counts[source] += 1


def test_later_epochs_go_on_in_new_orders_with_the_same_shares():
    sizes = (7, 5)
    rows = MixedRows([[(source, i) for i in range(size)] for source, size in enumerate(sizes)], (1, 2), seed=0)
    epochs = [[rows.at(epoch, index) for index in range(len(rows))] for epoch in range(5)]
    assert epochs[0] == [rows[index] for index in range(len(rows))]
    assert all(owners(epoch) == owners(epochs[0]) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 5
    for source, size in enumerate(sizes):
        read = [row for epoch in epochs for row in epoch if row[0] == source]
        # Pass after pass, across the ends of epochs: no row comes again before all others have come.
        for start in range(0, len(read) - size + 1, size):
            assert len(set(read[start : start + size])) == size
    # A function of epoch and index alone.
    assert rows.at(3, 4) == epochs[3][4]


def test_the_order_is_keyed_by_the_seed():
    sources = [[(source, i) for i in range(20)] for source in range(2)]

    def order(seed):
        rows = MixedRows(sources, (3, 1), seed)
        return [rows[i] for i in range(len(rows))]

    assert order(0) == order(0) != order(1)
    assert owners(order(0)) == owners(order(1))


def test_the_realised_share_of_tokens_is_the_weight(build, write, show):
    language = write("language.jsonl", ["la" * 50] * 20)
    code = write("code.jsonl", ["C" * 10] * 5)
    data = build((language, 0.7), (code, 0.3), length=16)
    rows = [show(row) for row in data.train]
    share = sum("C" in row for row in rows) / len(rows)
    assert share == pytest.approx(0.3, abs=1 / len(rows))
    first, second = data.description["train"]
    assert first["rows_per_epoch"] == first["rows"] == 126
    assert second["rows"] == 3 and second["rows_per_epoch"] == 54


def test_many_repeats_are_told(build, write, caplog):
    build((write("a.jsonl", ["a" * 100]), 1), (write("b.jsonl", ["b" * 15]), 1))
    assert "data.sources.1.weight: an epoch reads" in caplog.text
    assert "data.sources.0.weight" not in caplog.text


def test_without_weights_every_row_comes_once_and_in_order(build, write, show):
    data = build(write("a.jsonl", ["a" * 15]), write("b.jsonl", ["b" * 23]))
    assert [show(row) for row in data.train] == ["a" * 8, "a" * 7 + "<eos>", "b" * 8, "b" * 8, "b" * 7 + "<eos>"]
