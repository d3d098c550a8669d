# SPDX-License-Identifier: Apache-2.0
"""The micro-batches of each update, for one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from hylora.training.randomness import RowOrder
from hylora.training.task import Batch

__all__ = ["Batches", "Layout", "MapBatches", "StreamBatches", "make_batches"]


@dataclass(frozen=True)
class Layout:
    """How the rows of an update are spread.

    Args:
        batch_size: rows per process and forward pass.
        accumulation: forward passes per update.
        rank: number of this process.
        world_size: number of processes.
    """

    batch_size: int
    accumulation: int
    rank: int = 0
    world_size: int = 1


class Batches(Protocol):
    """Micro-batches by update."""

    def window(self, step: int) -> list[Batch]:
        """This process's micro-batches of update `step`."""

    def state(self) -> dict[str, Any] | None:
        """What is needed to go on after the last window, as plain JSON types; None where the step says all."""

    def restore(self, state: dict[str, Any] | None) -> None:
        """Go on where `state` was taken."""


def make_batches(rows: Any, collate: Callable[[Sequence[Any]], Batch], layout: Layout, seed: int) -> Batches:
    """Micro-batches of map-style rows or of a stream."""
    if hasattr(rows, "__len__"):
        return MapBatches(rows, collate, layout, seed)
    return StreamBatches(rows, collate, layout)


class MapBatches:
    """Batches of rows that can be asked for: a function of the step alone.

    An update takes the next `global_batch_size` rows of the order over all epochs, whatever the number of processes.
    No batch is short, and none is dropped at the end of an epoch.
    """

    def __init__(self, rows: Any, collate: Callable[[Sequence[Any]], Batch], layout: Layout, seed: int) -> None:
        if len(rows) == 0:
            raise ValueError("there is no row to train on")
        self._rows = rows
        self._collate = collate
        self._layout = layout
        self._order = RowOrder(len(rows), seed)

    def window(self, step: int) -> list[Batch]:
        layout = self._layout
        first = step * layout.accumulation
        return [
            self._batch(micro * layout.world_size + layout.rank) for micro in range(first, first + layout.accumulation)
        ]

    def _batch(self, index: int) -> Batch:
        size = self._layout.batch_size
        return self._collate(
            [self._rows[self._order[position]] for position in range(index * size, (index + 1) * size)]
        )

    def state(self) -> None:
        return None

    def restore(self, state: dict[str, Any] | None) -> None:
        pass


class StreamBatches:
    """Batches of an endless stream, each process reading its own part; its place has to be kept."""

    def __init__(self, stream: Any, collate: Callable[[Sequence[Any]], Batch], layout: Layout) -> None:
        self._stream = stream.shard(layout.rank, layout.world_size)
        self._collate = collate
        self._layout = layout
        self._rows: Iterator[Any] | None = None

    def window(self, step: int) -> list[Batch]:
        if self._rows is None:
            self._rows = iter(self._stream)
        size = self._layout.batch_size
        return [self._collate(list(islice(self._rows, size))) for _ in range(self._layout.accumulation)]

    def state(self) -> dict[str, Any]:
        return self._stream.state_dict()

    def restore(self, state: dict[str, Any] | None) -> None:
        if state is not None:
            self._stream.load_state_dict(state)
