# SPDX-License-Identifier: Apache-2.0
"""The result of several tasks, which grows task by task and lets an interrupted evaluation go on."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from hylora.files import write_atomically
from hylora_eval.harness.evaluation import BY_TASK
from hylora_eval.results import Result, check_same

__all__ = ["add_result", "finished_tasks", "resume", "save_samples"]

# What results depend on; versions, dates and the tasks asked for may differ between two parts of an evaluation, and
# requests at once too: where memory ran out, fewer go on.
_SAME = ("model", "attention", "tokenizer", "settings")
_MAY_DIFFER = "batch_size"


def add_result(result: Result, name: str, found: dict[str, Any]) -> None:
    """Add what lm-eval found for one name (a task, or a group of them)."""
    for key in BY_TASK:
        result.setdefault(key, {}).update(found[key])
    result["config"] = found["config"]
    result.setdefault("finished", []).append(name)


def finished_tasks(path: str | os.PathLike) -> list[str]:
    """The names that an existing file has results for; none where there is no file of this kind."""
    return _read(path).get("finished", [])


def resume(path: str | os.PathLike, result: Result) -> None:
    """Add the results of an older file that has some.

    Args:
        path: of the older file.
        result: what is evaluated and how, without results.

    Raises:
        ValueError: if the file's results were made otherwise, naming the first difference.
    """
    older = _read(path)
    for part in _SAME:
        kept, asked = (
            {name: value for name, value in values.items() if name != _MAY_DIFFER}
            for values in (older.get(part, {}), result[part])
        )
        check_same(path, kept, asked, f"{part}.")
    result.update({key: older[key] for key in (*BY_TASK, "config", "finished")})


def save_samples(folder: Path, samples: dict[str, list[dict[str, Any]]]) -> None:
    """Write the prompts and answers of each task as JSON lines, in a file of its name.

    Args:
        folder: that is made.
        samples: by task, as lm-eval gives them.

    Raises:
        OSError: if a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for task, lines in samples.items():
        name = re.sub(r"[^\w.@-]", "_", task)
        write_atomically(folder / f"{name}.jsonl", "".join(json.dumps(line) + "\n" for line in lines))


def _read(path: str | os.PathLike) -> Result:
    found = Result.parse(Path(path).read_bytes()) if Path(path).is_file() else None
    return found if found is not None and found.kind == "harness" else Result()
