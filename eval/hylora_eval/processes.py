# SPDX-License-Identifier: Apache-2.0
"""Several processes that evaluate together, each with a model of its own and a share of the samples."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from accelerate import PartialState

__all__ = ["ALONE", "Processes", "launched"]

Item = TypeVar("Item")
T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """What the processes do together; where any of them fails, all raise its error.

    Args:
        state: accelerate's view of them; None for a single process.
    """

    state: PartialState | None = None

    @property
    def count(self) -> int:
        """How many there are."""
        return 1 if self.state is None else self.state.num_processes

    @property
    def index(self) -> int:
        """Which one this is, from 0."""
        return 0 if self.state is None else self.state.process_index

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes files and speaks."""
        return self.index == 0

    def on_main(self, work: Callable[[], T]) -> T:
        """Do something on the main process; every process gets its result, which must be picklable."""
        if self.state is None:
            return work()
        from hylora.training.processes import on_main

        return on_main(self.state, work)

    def on_all(self, work: Callable[[], T]) -> T:
        """Do something on every process, which gets its own result; `work` must not wait for other processes."""
        if self.state is None:
            return work()
        from hylora.training.processes import on_all

        return on_all(self.state, work)

    def dealt(self, items: Sequence[Item], work: Callable[[Item], T]) -> Iterator[list[T]]:
        """Do something with each of some items, which are dealt over the processes in turn.

        Yields:
            On every process, the results of the next item of each process, in the order of the items.
        """
        for start in range(0, len(items), self.count):
            mine = items[start : start + self.count][self.index : self.index + 1]
            yield self._gathered(lambda mine=mine: [work(item) for item in mine])

    def _gathered(self, work: Callable[[], list[T]]) -> list[T]:
        mine = self.on_all(work)
        if self.state is None:
            return mine
        from accelerate.utils import gather_object

        return gather_object(mine)


ALONE = Processes()


def launched() -> Processes:
    """The processes that a launcher started, such as `accelerate launch`; a single one where none did.

    Raises:
        RuntimeError: if several were started and accelerate would let each of them run for itself.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return ALONE
    from hylora.training.parallelism import process_state

    return Processes(process_state())
