# SPDX-License-Identifier: Apache-2.0
"""Result files: what an evaluation writes and a report reads."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hylora.files import write_atomically

__all__ = ["PlainJson", "Result", "check_output", "check_same", "pointer"]


class PlainJson:
    """A dataclass that results hold."""

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON types, where tuples are lists."""
        return json.loads(json.dumps(asdict(self)))


class Result(dict[str, Any]):
    """What a result file holds, in plain JSON types; fields are named by their path, as `("results", 0, "nll")`."""

    @classmethod
    def parse(cls, content: bytes) -> Result | None:
        """The result in a file's bytes; None where they are no JSON."""
        try:
            values = json.loads(content.decode("utf-8"))
        except ValueError:
            return None
        return cls(values if isinstance(values, dict) else {})

    @property
    def kind(self) -> str | None:
        """What was evaluated, None where this is no result. A file of lm-eval's own counts as "harness"."""
        if isinstance(self.get("kind"), str):
            return self["kind"]
        return "harness" if isinstance(self.get("results"), dict) and {"configs", "config"} <= self.keys() else None

    def pick(self, *keys: str | int, kind: type | tuple[type, ...]) -> Any:
        """The value under `keys`.

        Raises:
            ValueError: if it is missing or not of `kind`, naming its path.
        """
        value: Any = self
        for depth, key in enumerate(keys, 1):
            try:
                value = value[key]
            except (KeyError, IndexError, TypeError):
                raise ValueError(f"{pointer(*keys[:depth])} is missing") from None
        if not isinstance(value, kind) or (isinstance(value, bool) and kind not in (bool, object)):
            names = " or ".join(part.__name__ for part in (kind if isinstance(kind, tuple) else (kind,)))
            raise ValueError(f"{pointer(*keys)} is {repr(value)[:40]}, not of type {names}")
        return value

    def get_at(self, *keys: str | int) -> Any:
        """The value under `keys`, None where there is none."""
        try:
            return self.pick(*keys, kind=object)
        except ValueError:
            return None

    def number(self, *keys: str | int) -> float:
        """The number under `keys`, as a float; infinities and NaN are numbers too.

        Raises:
            ValueError: as `pick`.
        """
        return float(self.pick(*keys, kind=(int, float)))

    def finite_number(self, *keys: str | int) -> float:
        """The number under `keys`, which must be finite.

        Raises:
            ValueError: as `pick`, and if it is not finite.
        """
        value = self.number(*keys)
        if not math.isfinite(value):
            raise ValueError(f"{pointer(*keys)}={value} must be a finite number; measure it anew")
        return value

    def optional_number(self, *keys: str | int) -> float | None:
        """As `finite_number`; None where there is none, or a word stands for it."""
        try:
            return self.finite_number(*keys)
        except ValueError:
            return None

    def save(self, path: str | os.PathLike) -> None:
        """Write a file; a reader sees the old file or the whole new one.

        Raises:
            OSError: if it cannot be written; an older file is still there then.
        """
        write_atomically(path, json.dumps(self, indent=2) + "\n")


def pointer(*keys: str | int) -> str:
    """A path in JSON, as `results[0].perplexity`; keys that are no plain names are quoted."""
    text = ""
    for key in keys:
        if isinstance(key, int):
            text += f"[{key}]"
        elif key.replace("-", "_").isidentifier():
            text += f".{key}" if text else key
        else:
            text += f"[{key!r}]"
    return text


def check_same(path: str | os.PathLike, kept: dict[str, Any], asked: dict[str, Any], part: str = "") -> None:
    """Check before an evaluation goes on that it does so under the same settings.

    Args:
        path: of the file it would go on with.
        kept: the settings in that file.
        asked: those of now.
        part: what they belong to, for the message.

    Raises:
        ValueError: naming the first difference.
    """
    # As it will read back, where tuples are lists.
    asked = json.loads(json.dumps(asked))
    for name in [*asked, *kept]:
        if kept.get(name) != asked.get(name):
            raise ValueError(
                f"{str(path)!r} was made with {part}{name}={kept.get(name)!r} and now it is {asked.get(name)!r}: "
                "choose another output or start anew with --overwrite"
            )


def check_output(path: str | os.PathLike, overwrite: bool = False) -> Path:
    """Check before a long evaluation that its result can be written.

    Args:
        path: of the result file; its folder is made.
        overwrite: whether an existing file may be replaced.

    Returns:
        The path.

    Raises:
        ValueError: if the file exists and may not be replaced, or `path` is a folder.
        OSError: if the folder cannot be made.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"output={str(path)!r} is a folder; give the name of a file in it, such as ppl.json")
    if path.exists() and not overwrite:
        raise ValueError(f"output={str(path)!r} exists; choose another name or add --overwrite")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
