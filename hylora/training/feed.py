# SPDX-License-Identifier: Apache-2.0
"""Where the batches of each update come from."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from hylora.randomness import generator
from hylora.training.moment import Moment

__all__ = ["Batch", "Collate", "Feed", "RowFeed", "RowOrder", "Share", "StreamFeed", "WindowSize", "made_ahead"]

Batch = Mapping[str, Tensor]

# Rows, a generator for each of them, and the window's shape: gives a batch.
Collate = Callable[[Sequence[Any], Sequence[torch.Generator], Any], Batch]


@dataclass(frozen=True)
class Share:
    """One process's place among those that share each update.

    Args:
        rank: its number, from 0.
        world_size: how many there are.
    """

    rank: int = 0
    world_size: int = 1


@dataclass(frozen=True)
class WindowSize:
    """How much an update sees.

    Args:
        rows: over all processes and forward passes.
        rows_per_pass: at most so many in one process's forward pass.
        shape: what `collate` makes of them, for example a resolution; the same for all processes.

    Raises:
        ValueError: if a number is below 1.
    """

    rows: int
    rows_per_pass: int
    shape: Any = None

    def __post_init__(self) -> None:
        for name in ("rows", "rows_per_pass"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)!r} must be at least 1")

    def passes(self, world_size: int) -> int:
        """Forward passes of each process."""
        return -(-self.rows // (self.rows_per_pass * world_size))

    def parts(self, share: Share) -> list[tuple[range, Any]]:
        """The rows of the window, from 0, in each forward pass of one process, and the shape they get.

        Processes take turns pass by pass. Where the rows do not divide evenly, parts differ by one row at most.

        Raises:
            ValueError: if a process would have a pass with no row.
        """
        count = self.passes(share.world_size) * share.world_size
        if self.rows < count:
            raise ValueError(
                f"rows={self.rows} must be at least {count}, one for each forward pass of {share.world_size} "
                f"processes; use more rows, or more than rows_per_pass={self.rows_per_pass}"
            )
        bounds = [part * self.rows // count for part in range(count + 1)]
        ranges = [range(bounds[part], bounds[part + 1]) for part in range(share.rank, count, share.world_size)]
        return [(part, self.shape) for part in ranges]


class Feed(Protocol):
    """Micro-batches by update, for one process."""

    def window(self, moment: Moment) -> list[Batch]:
        """This process's micro-batches of an update; every process has equally many, none of them empty."""

    def state(self) -> dict[str, Any] | None:
        """What is needed to go on after the last window, as plain JSON types; None where the moment says all."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""


class RowOrder:
    """The order in which rows are seen: each epoch is a permutation keyed by (seed, epoch), one epoch after another.

    Args:
        rows: how many there are.
        seed: of the permutations.
    """

    def __init__(self, rows: int, seed: int) -> None:
        self.rows = rows
        self.seed = seed
        self._epoch: int | None = None
        self._permutation: list[int] = []

    def __getitem__(self, position: int) -> int:
        """The row at a position counted from the start of training, over all epochs."""
        epoch, within = divmod(position, self.rows)
        if epoch != self._epoch:
            self._permutation = torch.randperm(self.rows, generator=generator("order", self.seed, epoch)).tolist()
            self._epoch = epoch
        return self._permutation[within]


class _Request(NamedTuple):
    """A batch to make: rows at these positions of the order, in this shape. It travels to the worker that makes it."""

    seed: int
    positions: range
    shape: Any


class _Batches(torch.utils.data.Dataset):
    """Batches by request."""

    def __init__(self, rows: Any, collate: Collate) -> None:
        self._rows = rows
        self._collate = collate
        self._order: RowOrder | None = None

    def __getitem__(self, request: _Request) -> Batch:
        if self._order is None or self._order.seed != request.seed:
            self._order = RowOrder(len(self._rows), request.seed)
        if hasattr(self._rows, "at"):
            rows = [self._rows.at(*divmod(position, len(self._rows))) for position in request.positions]
        else:
            rows = [self._rows[self._order[position]] for position in request.positions]
        generators = [generator("row", request.seed, position) for position in request.positions]
        return self._collate(rows, generators, request.shape)


class RowFeed:
    """Batches of rows that can be asked for: a function of the moment alone.

    An update takes the next rows of the order over all epochs, as many as `sizes` says, whatever the number of
    processes. None is dropped at the end of an epoch. Each row has a generator of its own, keyed by its position, so
    that augmentation does not depend on processes, workers or interruptions.

    Args:
        rows: map-style (`__len__` and `__getitem__`). Those that have an order of their own, such as mixtures in fixed
            shares, also have `at(epoch, index)`; all others are seen in a new order in each epoch.
        collate: makes a batch of rows, a generator for each, and the window's shape. Runs in workers.
        sizes: of each window: a `WindowSize`, or a pure function from the moment to one.
        share: which part of each window is this process's.
        workers: as in `made_ahead`.

    Raises:
        ValueError: if there are no rows.
    """

    def __init__(
        self,
        rows: Any,
        collate: Collate,
        sizes: WindowSize | Callable[[Moment], WindowSize],
        share: Share | None = None,
        workers: int | None = None,
    ) -> None:
        if len(rows) == 0:
            raise ValueError("rows=0 must be at least 1: there is nothing to train on")
        self._batches = _Batches(rows, collate)
        self._sizes = sizes if callable(sizes) else lambda moment: sizes
        self._share = share or Share()
        self._workers = workers
        self._next: Moment | None = None
        self._made: Iterator[Batch] = iter(())

    def window(self, moment: Moment) -> list[Batch]:
        if moment != self._next:
            self._made = self._make_from(moment)
        batches = list(islice(self._made, self._sizes(moment).passes(self._share.world_size)))
        self._next = Moment(moment.step + 1, moment.steps, moment.seed)
        return batches

    def _make_from(self, moment: Moment) -> Iterator[Batch]:
        """The batches of this update and of all later ones."""
        for step in range(moment.step, moment.steps):
            # Sizes that do not work are told now, and not when their turn comes.
            self._sizes(Moment(step, moment.steps, moment.seed)).parts(self._share)
        return made_ahead(self._batches, self._requests(moment), self._workers)

    def _requests(self, moment: Moment) -> Iterator[_Request]:
        first = sum(self._sizes(Moment(step, moment.steps, moment.seed)).rows for step in range(moment.step))
        for step in range(moment.step, moment.steps):
            size = self._sizes(Moment(step, moment.steps, moment.seed))
            for part, shape in size.parts(self._share):
                yield _Request(moment.seed, range(first + part.start, first + part.stop), shape)
            first += size.rows

    def state(self) -> None:
        return None

    def restore(self, state: dict[str, Any]) -> None:
        pass


def made_ahead(batches: Any, requests: Iterable[Any], workers: int | None) -> Iterator[Batch]:
    """Batches by request, in the order of the requests.

    Args:
        batches: with `__getitem__` from a request to a batch; it is called in the workers.
        requests: of a type that can travel to them.
        workers: processes that make batches ahead; 0 makes them when they are asked for, None is 2 beside a GPU and 0
            on a CPU.
    """
    workers = workers if workers is not None else 2 * torch.cuda.is_available()
    if not workers:
        return map(batches.__getitem__, requests)
    return iter(
        DataLoader(
            batches,
            sampler=requests,
            batch_size=None,
            collate_fn=_as_made,
            num_workers=workers,
            worker_init_fn=_leave_session,
            pin_memory=torch.cuda.is_available(),
            # Its own draw of a seed for the workers must not come from the generator that training seeds.
            generator=torch.Generator(),
        )
    )


def _as_made(batch: Batch) -> Batch:
    return batch


def _leave_session(worker: int) -> None:
    """Launchers signal a whole session; a worker that ended by it would take the training process down, unsaved."""
    os.setsid()


class StreamFeed:
    """Batches of an endless stream, each process reading its own part; its place has to be kept.

    Args:
        stream: has `shard(rank, world_size)`, `state_dict()` and `load_state_dict()`, and iterates over rows.
        collate: as in `RowFeed`.
        size: of every window.
        share: which part is this process's.

    Raises:
        ValueError: if the window's rows do not spread evenly over processes and passes.
    """

    def __init__(self, stream: Any, collate: Collate, size: WindowSize, share: Share | None = None) -> None:
        self._share = share or Share()
        if size.rows % (size.rows_per_pass * self._share.world_size):
            raise ValueError(
                f"rows={size.rows} of an update must be a multiple of {size.rows_per_pass} times "
                f"{self._share.world_size} processes in a stream"
            )
        self._stream = stream.shard(self._share.rank, self._share.world_size)
        self._collate = collate
        self._size = size
        self._rows: Iterator[Any] | None = None

    def window(self, moment: Moment) -> list[Batch]:
        if self._rows is None:
            self._rows = iter(self._stream)
        count = self._size.rows_per_pass
        return [
            self._batch(moment, first, count)
            for first in range(0, self._size.passes(self._share.world_size) * count, count)
        ]

    def _batch(self, moment: Moment, first: int, count: int) -> Batch:
        rows = list(islice(self._rows, count))
        generators = [moment.generator("row", self._share.rank, number) for number in range(first, first + count)]
        return self._collate(rows, generators, self._size.shape)

    def state(self) -> dict[str, Any]:
        return self._stream.state_dict()

    def restore(self, state: dict[str, Any]) -> None:
        self._stream.load_state_dict(state)
        self._rows = None
