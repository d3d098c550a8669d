# SPDX-License-Identifier: Apache-2.0
"""Streams give what cached data gives, go on where they were, and share documents among processes."""

from __future__ import annotations

import json
from itertools import islice

import pytest
import torch

from hylora.language.data import SourceRecipe

TEXTS = [f"{index:02d} {'word ' * (index % 7)}" for index in range(40)]


def ids(rows):
    return [row["input_ids"].tolist() for row in rows]


def resumed(stream, fresh, count):
    """The state after `count` rows through JSON, loaded into another stream."""
    for _ in islice(stream, count):
        pass
    fresh.load_state_dict(json.loads(json.dumps(stream.state_dict())))
    return fresh


@pytest.fixture(params=["one.jsonl", "one.parquet", "three.jsonl"])
def corpus(request, write):
    """The same documents in one file or three."""
    name, _, suffix = request.param.partition(".")
    if name == "one":
        return write(f"corpus.{suffix}", TEXTS)
    for part in range(3):
        folder = write(f"corpus/{part}.{suffix}", TEXTS[part * 15 : (part + 1) * 15]).rsplit("/", 1)[0]
    return folder


@pytest.mark.parametrize("packing", ["eos", "documents", "none"])
def test_a_stream_is_the_cached_data_again_and_again(build, corpus, packing):
    options = {"packing": packing, "length": 16, "validation_fraction": 0.2}
    cached, streamed = build(corpus, **options), build(corpus, **options, streaming=True)
    twice = list(islice(streamed.train, 2 * len(cached.train)))
    for index, row in enumerate(twice):
        expected = cached.train[index % len(cached.train)]
        assert set(row) == set(expected)
        assert all(torch.equal(row[name], expected[name]) for name in row)
    assert ids(streamed.validation) == ids(streamed.validation) == ids(cached.validation)


@pytest.mark.parametrize("world_size", [1, 3])
def test_a_stream_goes_on_where_it_was(build, corpus, world_size):
    def stream():
        return build(corpus, streaming=True, length=16, validation_fraction=0.2).train.shard(
            world_size - 1, world_size
        )

    rows = ids(islice(stream(), 60))
    for count in (0, 1, 7, 33):
        assert ids(islice(resumed(stream(), stream(), count), 60 - count)) == rows[count:]


def test_a_state_can_be_taken_before_and_after_loading(build, write):
    path = write("a.jsonl", TEXTS)
    stream = build(path, streaming=True).train
    start = stream.state_dict()
    rows = ids(islice(stream, 9))
    state = stream.state_dict()
    stream.load_state_dict(state)
    assert stream.state_dict() == state
    stream.load_state_dict(start)
    assert ids(islice(stream, 9)) == rows


def test_a_long_document_is_resumed_in_the_middle(build, write):
    path = write("a.txt", "".join(TEXTS))
    rows = ids(islice(build(path, streaming=True).train, 30))
    assert (
        ids(islice(resumed(build(path, streaming=True).train, build(path, streaming=True).train, 11), 19)) == rows[11:]
    )


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("max_documents", [None, 25])
def test_processes_share_the_documents(build, corpus, tokenizer, world_size, max_documents):
    data = build(SourceRecipe(corpus, max_documents=max_documents), streaming=True, length=16, packing="none")
    starts = []
    for rank in range(world_size):
        # One pass of each process: it ends where its first row comes again.
        rows = iter(data.train.shard(rank, world_size))
        part = [tokenizer.decode(next(rows)["input_ids"][:2])]
        for row in rows:
            start = tokenizer.decode(row["input_ids"][:2])
            if start == part[0]:
                break
            part.append(start)
        starts += [start for start in part if start.isdecimal()]
    assert sorted(starts) == [text[:2] for text in TEXTS[:max_documents]]


def test_weighted_streams_take_turns_in_their_shares(build, write, show):
    language = write("a.jsonl", ["a" * 100])
    code = write("b.jsonl", ["b" * 30])
    data = build((language, 0.7), (code, 0.3), streaming=True, length=10)
    rows = [show(row) for row in islice(data.train, 100)]
    assert sum("b" in row for row in rows) == 30
    again = resumed(data.train, build((language, 0.7), (code, 0.3), streaming=True, length=10).train, 37)
    assert [show(row) for row in islice(again, 63)] == rows[37:]


def test_a_shuffled_stream_is_keyed_by_seed_and_pass(build, write):
    path = write("a.jsonl", [f"{index:04d}" for index in range(60)])

    def rows(seed):
        stream = build(path, streaming=True, shuffle_buffer=20, length=5, seed=seed).train
        return [tuple(row) for row in ids(islice(stream, 120))]

    assert rows(0) == rows(0) != rows(1)
    first, second = rows(0)[:60], rows(0)[60:]
    assert first != second
    assert len(set(first)) == 60 and set(first) == set(second)


def test_a_shuffled_stream_goes_on_where_it_was(build, write):
    folder = write("corpus/a.jsonl", TEXTS[:15]).rsplit("/", 1)[0]
    write("corpus/b.jsonl", TEXTS[15:])

    def stream():
        return build(folder, streaming=True, shuffle_buffer=10, length=16).train.shard(1, 2)

    rows = ids(islice(stream(), 60))
    for count in (0, 1, 11, 33):
        assert ids(islice(resumed(stream(), stream(), count), 60 - count)) == rows[count:]


def test_a_state_of_another_process_is_refused(build, write):
    stream = build(write("a.jsonl", TEXTS), streaming=True).train
    state = stream.shard(0, 2).state_dict()
    with pytest.raises(ValueError, match=r"of its own .* \(0, 1, 1\), not \(0, 2, 1\); resume with the same"):
        stream.load_state_dict(state)
    with pytest.raises(ValueError, match=r"rank=2 must be in \[0, 2\)"):
        stream.shard(2, 2)


def test_a_stream_without_a_row_ends_with_an_error(build, write):
    stream = build(write("a.jsonl", ["abc"]), streaming=True).train
    message = r"data\.sources\.0\.path=\S+ must give each process a row of 8 .* process 0 of 1 none"
    with pytest.raises(ValueError, match=message):
        next(iter(stream))


def test_worker_processes_are_refused(build, write, monkeypatch):
    stream = build(write("a.jsonl", TEXTS), streaming=True).train
    monkeypatch.setattr(torch.utils.data, "get_worker_info", lambda: object())
    with pytest.raises(RuntimeError, match="num_workers must be 0"):
        next(iter(stream))


def test_held_out_documents_without_a_row_are_refused_before_training(build, corpus):
    message = r"data\.validation_fraction=0\.2 must leave at least one row of 4096 tokens"
    with pytest.raises(ValueError, match=message):
        build(corpus, streaming=True, length=4096, validation_fraction=0.2)
