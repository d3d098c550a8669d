# SPDX-License-Identifier: Apache-2.0
"""The file of results, written after every line, so that a run that is cut short leaves what it has.

It also says what is being done. A process that takes up a part whose process ended finds there what that was at,
leaves it out, and goes on with what is not done.
"""

from __future__ import annotations

import faulthandler
import json
import os
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from environment import describe

from .timing import Budget

# What a process ends with whose device answers nothing any more.
DEVICE_LOST = 75


class Results:
    """A JSON object in a folder; parts of the benchmarks write one section of it or more.

    Args:
        folder: made if it is not there; parts that ran before stay in its file.
        run: names what one process or several, one after the other, do together.
        patience: seconds after which what is being done counts as hanging, which ends the process; None for no end.
    """

    def __init__(self, folder: Path, run: str = "", patience: float | None = None) -> None:
        self.folder = folder
        self.patience = patience
        self._run = run
        self._path = folder / "gpu.json"
        folder.mkdir(parents=True, exist_ok=True)
        self.data: dict[str, Any] = json.loads(self._path.read_text()) if self._path.exists() else {}
        self._bury()

    def start(self, name: str, **content: Any) -> Section:
        """A new section in place of an older one, or the one that an earlier process of this run began."""
        self.data["environment"] = describe()
        begun = self.data.get(name, {})
        if self._run and begun.get("run") == self._run:
            content = begun
        self.data[name] = section = Section(name, {**content, "run": self._run}, self)
        self.save()
        return section

    def enter(self, name: str, place: dict[str, Any]) -> None:
        """Note what is being done, for a section; until it is left it may be that which the process ends at."""
        self.data["at"]["places"].append([name, _plain(place)])
        self.save()
        self._watch()

    def leave(self) -> None:
        """The innermost of what is being done is done."""
        self.data["at"]["places"].pop()
        self.save()  # or else the next process would take it for what this one ended at
        self._watch()

    def save(self) -> None:
        """Write everything, whole or not at all."""
        draft = self._path.with_suffix(".draft")
        draft.write_text(json.dumps(self.data, indent=1) + "\n")
        os.replace(draft, self._path)

    def _bury(self) -> None:
        """Leave out what an earlier process was at, of this run or another, if that ended without a word."""
        before = self.data.get("at", {})
        self.data["at"] = {"run": self._run, "places": []}
        if before.get("places"):
            name, place = before["places"][-1]
            self.data[name] = section = Section(name, self.data[name], self)
            if not section.has_left_out(place):  # or else it said why
                section.leave_out("the process ended here: see gpu.log", **place, traceback="")

    def _watch(self) -> None:
        """What hangs is to show where, and to end the process."""
        if self.patience is not None:
            if self.data["at"]["places"]:
                faulthandler.dump_traceback_later(self.patience, exit=True)
            else:
                faulthandler.cancel_dump_traceback_later()


class Section(dict):
    """What one part found.

    Under "left_out" is what it did not measure, and why; under "done" what needs no second time.

    Args:
        name: its own.
        content: to begin with.
        results: that it is a section of.
    """

    def __init__(self, name: str, content: dict[str, Any], results: Results) -> None:
        super().__init__({"left_out": [], "done": [], **content})
        self._name, self._results = name, results

    def add(self, key: str, *items: dict[str, Any]) -> None:
        """Append to one of the lists."""
        self[key] += items
        self._results.save()

    def leave_out(self, reason: str, **what: Any) -> None:
        """Note what is not measured."""
        self.add("left_out", {**what, "reason": reason})

    @contextmanager
    def attempt(self, **what: Any) -> Iterator[None]:
        """Go on after a failure, which is noted with its traceback; where the device is lost, the process ends."""
        self._results.enter(self._name, what)
        try:
            yield
            _synchronize()  # what fails on the device is to fail here
        except Exception as error:
            traceback.print_exc()
            self.leave_out(describe_error(error), **what, traceback=traceback.format_exc())
            if not _device_answers():
                os._exit(DEVICE_LOST)
        finally:
            self._results.leave()

    def todo(self, places: Iterable[dict[str, Any]], budget: Budget) -> Iterator[dict[str, Any]]:
        """The places that are not done, as long as there is time; what is not measured at the others is noted."""
        for place in places:
            if self.has_left_out(place) or _plain(place) in self["done"]:
                continue
            if budget.spent:
                self.leave_out("no time left", **place)
            else:
                yield place
                self.add("done", _plain(place))

    def has_left_out(self, place: dict[str, Any]) -> bool:
        """Whether exactly this was left out."""
        notes = ("reason", "traceback")
        return any(
            {k: v for k, v in item.items() if k not in notes} == _plain(place) for item in _plain(self["left_out"])
        )

    @property
    def failed(self) -> bool:
        """Whether anything ended in an exception, or the process with it."""
        return any("traceback" in item for item in self["left_out"])


def describe_error(error: Exception) -> str:
    """The kind of an error and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _plain(place: Any) -> Any:
    """As it is read from a file."""
    return json.loads(json.dumps(place))


def _synchronize() -> None:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _device_answers() -> bool:
    try:
        _synchronize()
    except Exception:
        return False
    return True
