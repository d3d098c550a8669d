# SPDX-License-Identifier: Apache-2.0
"""Stop when asked to: SIGTERM (a scheduler, a preempted machine) and SIGINT (Ctrl-C)."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

__all__ = ["StopRequest", "Stopped"]

# Seconds within which a second SIGTERM is the first one come by another way: schedulers signal launcher and processes,
# and the launcher passes it on.
_SAME_REQUEST = 10.0


class Stopped(BaseException):
    """The run was asked to stop. Like `KeyboardInterrupt` it is no `Exception`: nobody who handles errors holds it."""


class StopRequest:
    """Inside the `with` block the first signal asks to stop. A second Ctrl-C, or a later SIGTERM, acts as without it.

    The request ends the block at once, by `Stopped`, except in `deferred` parts: there it is noted, for whoever looks.
    A deferred part outside of any `with` block listens for itself.

    Attributes:
        received: name of the signal that came, or None.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._noted = 0.0
        self._deferred = False
        self._listening = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        self._listening = True
        # Python lets only the main thread handle signals; elsewhere they stay with whoever started the thread.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        self._listening = False
        self._restore()

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """A part that must not be left half-way."""
        before, self._deferred = self._deferred, True
        try:
            with contextlib.nullcontext() if self._listening else self:
                yield
        finally:
            self._deferred = before

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            if time.monotonic() - self._noted >= _SAME_REQUEST:
                self._restore()
                os.kill(os.getpid(), number)
            return
        self.received, self._noted = signal.Signals(number).name, time.monotonic()
        # Whoever presses Ctrl-C again means it.
        self._restore(signal.SIGINT)
        if not self._deferred:
            raise Stopped(self.received)

    def _restore(self, *numbers: int) -> None:
        for number in numbers or tuple(self._previous):
            # A handler that was not set from Python cannot be put back.
            handler = self._previous.pop(number, None)
            if handler is not None:
                signal.signal(number, handler)
