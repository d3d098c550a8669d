# SPDX-License-Identifier: Apache-2.0
"""Rows read, tokenised and packed while training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import datasets
import numpy as np
import torch
from datasets.distributed import split_dataset_by_node
from torch import Tensor

from hylora.language.data.documents import DocumentEncoder
from hylora.language.data.mixture import next_source
from hylora.language.data.packing import Piece, assemble, has_target
from hylora.language.data.sources import explain
from hylora.randomness import derive_key

__all__ = ["StreamedSource", "TokenStream"]


@dataclass(frozen=True)
class StreamedSource:
    """One source of a stream.

    Attributes:
        records: raw records with the encoder's columns.
        encoder: makes the documents.
        length: tokens per row.
        packing: as in `DataRecipe`.
        keep: whether a document with this content key belongs to the stream.
        shuffle_buffer: records held in memory to shuffle them; 0 keeps their order.
        seed: keys the shuffling.
        rank, world_size: which part of the documents is read.
        whole_files: whether a part may be whole files, where they divide evenly, so that no process reads all of them.
    """

    records: datasets.IterableDataset
    encoder: DocumentEncoder
    length: int
    packing: str
    keep: Callable[[int], bool]
    shuffle_buffer: int
    seed: int
    rank: int = 0
    world_size: int = 1
    whole_files: bool = True

    def open(self, epoch: int) -> datasets.IterableDataset:
        """This rank's records for one pass, in that pass's order."""
        # A new object each time: a dataset never forgets a state that it once loaded.
        records = self.records.select_columns(self.encoder.columns)
        if self.shuffle_buffer:
            records = records.shuffle(seed=derive_key("stream", self.seed, epoch), buffer_size=self.shuffle_buffer)
        if self.world_size > 1:
            strategy = "auto" if self.whole_files else "examples"
            records = split_dataset_by_node(records, self.rank, self.world_size, strategy)
        return records

    def encode(self, record: dict[str, Any]) -> list[Piece]:
        """The record's document, if it has one and it belongs to this stream."""
        columns = self.encoder.columns
        if not self.keep(self.encoder.content_key(tuple(record[name] for name in columns))):
            return []
        encoded = self.encoder({name: [record[name]] for name in columns})
        labels = encoded.get("labels", encoded["input_ids"])
        return [
            Piece(np.array(ids, dtype=np.int32), np.array(marks, dtype=np.int32))
            for ids, marks in zip(encoded["input_ids"], labels, strict=True)
        ]


class _Cursor:
    """Reads the rows of one source and knows, after each, where to go on.

    The place is the pass, the state of the records before the document that the last row ended in (their number, if
    they are shuffled), and the number of that document's tokens used so far.
    """

    def __init__(self, source: StreamedSource, place: dict[str, Any] | None) -> None:
        self.source = source
        self.place = place or {"epoch": 0, "records": None, "offset": 0}

    def rows(self, repeat: bool) -> Iterator[dict[str, Tensor]]:
        """Rows from the place on: to the end of the pass, or of pass after pass for ever."""
        while True:
            empty = not self.place["records"] and self.place["offset"] == 0
            for row in self._rows_of_pass():
                if has_target(row):
                    empty = False
                    yield row
            if not repeat:
                return
            if empty:
                source = self.source
                raise ValueError(
                    f"{source.encoder.key}.path={source.encoder.path!r} must give each process a row of "
                    f"{source.length} tokens, and gave process {source.rank} of {source.world_size} none; use more "
                    "data, fewer processes or a shorter sequence_length"
                )
            self.place = {"epoch": self.place["epoch"] + 1, "records": None, "offset": 0}

    def _rows_of_pass(self) -> Iterator[dict[str, Tensor]]:
        """All rows of the current pass from the place on; `place` is up to date at each."""
        source, epoch = self.source, self.place["epoch"]
        pieces: list[Piece] = []
        missing = source.length
        for before, offset, document in self._documents():
            while offset < len(document.input_ids):
                part = slice(offset, offset + missing)
                pieces.append(Piece(document.input_ids[part], document.labels[part]))
                offset += len(pieces[-1].input_ids)
                missing -= len(pieces[-1].input_ids)
                if missing == 0 or source.packing == "none":
                    self.place = {"epoch": epoch, "records": before, "offset": offset}
                    yield assemble(pieces, source.packing)
                    pieces, missing = [], source.length

    def _documents(self) -> Iterator[tuple[Any, int, Piece]]:
        """Documents with the state of the records before each, and the first token to use."""
        offset = self.place["offset"]
        for before, record in self._records():
            for document in self.source.encode(record):
                yield before, offset, document
            offset = 0

    def _records(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        """Records of the current pass from the place on, with the state before each."""
        start = self.place["records"]
        records = self.source.open(self.place["epoch"])
        try:
            if self.source.shuffle_buffer:
                # The state of a shuffled dataset leaves out its buffer: going on would skip what was in it.
                yield from islice(enumerate(records), start or 0, None)
                return
            if start is not None:
                records.load_state_dict(start)
            for record in records:
                yield start, record
                start = records.state_dict()
        # Files are decoded as they are read, so that what is wrong with one may show late.
        except (OSError, ValueError) as error:
            encoder = self.source.encoder
            raise ValueError(explain(encoder.path, encoder.key, None, error)) from error


class TokenStream(torch.utils.data.IterableDataset):
    """Iterable rows of one or several sources, tokenised and packed on the fly.

    A repeating stream never ends: each source begins again when it is used up (in a new order if it is shuffled), and
    with several sources rows take turns in the shares of the weights, exactly as in `MixedRows`. One that does not
    repeat reads its sources one after the other, once.

    `state_dict()` is the place after the last row, and a stream that loaded it goes on with the next one, exactly. A
    shuffled stream finds the place by reading the pass again from its start, without tokenising; one that is not
    shuffled goes there at once.

    Args:
        sources: what to read.
        weights: share of the rows of each source.
        repeat: whether the stream is endless.
    """

    def __init__(self, sources: list[StreamedSource], weights: list[float], repeat: bool) -> None:
        self._sources = sources
        self._weights = weights
        self._repeat = repeat
        self._start = {"counts": [0] * len(sources), "sources": [None] * len(sources)}
        self._counts: list[int] = []
        self._cursors: list[_Cursor] = []

    def shard(self, rank: int, world_size: int) -> TokenStream:
        """The part of the stream for one process; the parts share no document and leave none out.

        Args:
            rank: number of the process, from 0.
            world_size: number of processes.
        """
        if not 0 <= rank < world_size:
            raise ValueError(f"rank={rank} must be in [0, {world_size}); pass the number of this process")
        sources = [replace(source, rank=rank, world_size=world_size) for source in self._sources]
        return TokenStream(sources, self._weights, self._repeat)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        if torch.utils.data.get_worker_info() is not None:
            raise RuntimeError("num_workers must be 0: a stream is read by the training process itself")
        self._counts = list(self._start["counts"])
        places = self._start["sources"]
        self._cursors = [_Cursor(source, place) for source, place in zip(self._sources, places, strict=True)]
        iterators = [cursor.rows(self._repeat) for cursor in self._cursors]
        if not self._repeat:
            for iterator in iterators:
                yield from iterator
            return
        while True:
            source = next_source(self._counts, self._weights)
            row = next(iterators[source])
            self._counts[source] += 1
            yield row

    def state_dict(self) -> dict[str, Any]:
        """Where the stream is, as plain JSON types."""
        first = self._sources[0]
        place = self._start
        if self._cursors:
            place = {"counts": list(self._counts), "sources": [cursor.place for cursor in self._cursors]}
        return {"rank": first.rank, "world_size": first.world_size, **place}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Make the next iteration go on where the state was taken.

        Args:
            state: from `state_dict` of the same stream, in a process of the same rank.

        Raises:
            ValueError: if it is of another rank, another number of processes, or other sources.
        """
        first = self._sources[0]
        ours = (first.rank, first.world_size, len(self._sources))
        theirs = (state["rank"], state["world_size"], len(state["sources"]))
        if ours != theirs:
            raise ValueError(
                f"the state of a stream must be of its own (rank, processes, sources) {ours}, not {theirs}; resume "
                "with the same processes and sources"
            )
        self._start = {"counts": state["counts"], "sources": state["sources"]}
        self._cursors = []
