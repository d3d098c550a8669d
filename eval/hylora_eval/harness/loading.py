# SPDX-License-Identifier: Apache-2.0
"""Tasks by their names, with messages that say what to do where one cannot be had."""

from __future__ import annotations

import difflib
import random
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lm_eval.api.group import Group
from lm_eval.api.task import Task
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
from lm_eval.tasks import TaskManager
from transformers import PreTrainedTokenizerBase

from hylora_eval.harness.names import expand_names, split_babilong_name, split_ruler_name
from hylora_eval.harness.own_tasks import ruler_tasks
from hylora_eval.harness.scrolls import FOLDERS, ScrollsTask

__all__ = ["LoadedTask", "load_tasks", "task_manager"]

# What lm-eval evaluates: one of its tasks, or a configuration that it makes one from.
LoadedTask = Task | Group | dict[str, Any]


def load_tasks(
    names: Iterable[str],
    tokenizer: PreTrainedTokenizerBase,
    include_path: Path | None = None,
    samples: int = 500,
) -> dict[str, list[LoadedTask]]:
    """Load tasks with their data, so that what is missing is known before any model is.

    Args:
        names: as for `expand_names`.
        tokenizer: of the model, for RULER.
        include_path: folder of YAML tasks; they come before lm-eval's of the same name.
        samples: of each RULER task.

    Returns:
        By each name, the tasks to evaluate. RULER's samples are only checked; lm-eval generates them when it runs.

    Raises:
        ValueError: if a task is unknown (naming the nearest), needs images or sound, or runs code that a model wrote.
        OSError: if a task's data is not to be had.
        ImportError: if a task needs a package that is not installed.
    """
    expanded = expand_names(names)
    if include_path is not None and not include_path.is_dir():
        raise ValueError(f"include path {str(include_path)!r} is not a folder; give one with YAML tasks")
    manager = task_manager(include_path)
    plain = [name for name in expanded if split_ruler_name(name) is None]
    for name in plain:
        known, _, _ = name.partition("@") if split_babilong_name(name) else (name, "", "")
        if known not in manager.task_index and known not in FOLDERS:
            near = difflib.get_close_matches(name, [*manager.all_tasks, *FOLDERS], 3)
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise ValueError(f"unknown task {name!r}{hint} `lm-eval ls tasks` lists all, and --include-path adds some")
    loaded: dict[str, list[LoadedTask]] = {}
    for name in expanded:
        ruler = split_ruler_name(name)
        if ruler is not None:
            loaded[name] = ruler_tasks(tokenizer, [ruler[1]], ruler[0], samples)
        else:
            loaded[name] = _load(name, manager)
    return loaded


@cache
def task_manager(include_path: Path | None = None) -> TaskManager:
    """lm-eval's index of tasks, which takes seconds to build."""
    return TaskManager(include_path=include_path)


def _load(name: str, manager: TaskManager) -> list[LoadedTask]:
    # As lm-eval does before it loads: a few tasks draw their samples then.
    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(DEFAULT_OTHER_SEED)
    torch.manual_seed(DEFAULT_OTHER_SEED)
    try:
        if name in FOLDERS and not _is_included(name, manager):
            return [ScrollsTask(name)]
        found = _load_babilong(name, manager) or manager.load([name])
    except ImportError as error:
        raise ImportError(f"task {name!r} needs a package that is not installed: {error}") from error
    except OSError as error:
        raise OSError(
            f"the data of task {name!r} is not to be had: {error}. Most tasks read the Hugging Face Hub: run the "
            "command once where there is a network, copy the cache (the folder that HF_HOME names, by default "
            "~/.cache/huggingface) here and set HF_HUB_OFFLINE=1; or write a task with local files and give its "
            "folder as --include-path"
        ) from error
    except Exception as error:
        raise ValueError(f"task {name!r} could not be loaded ({type(error).__name__}: {error})") from error
    for task in found["tasks"].values():
        if getattr(task, "MULTIMODAL", False):
            raise ValueError(f"task {task.task_name!r} has images or sound; only text can be evaluated here")
        if getattr(task, "UNSAFE_CODE", False):
            raise ValueError(f"task {task.task_name!r} runs code that a model wrote, which is not done here")
    groups = found.get("groups", {})
    return [groups[name]] if name in groups else list(found["tasks"].values())


def _load_babilong(name: str, manager: TaskManager) -> dict[str, Any] | None:
    """A task of BABILong at a length, under a name of its own; None where the name stands for something else."""
    split = split_babilong_name(name)
    if split is None:
        return None
    task, length = split
    # In a group, for a member may differ from what lm-eval has under its name.
    group = {"group": name, "task": [{"task": task, "metadata": {"max_seq_lengths": length}}]}
    (loaded,) = manager.load([group])["tasks"].values()
    loaded.set_config("task", name)
    return {"tasks": {name: loaded}}


def _is_included(name: str, manager: TaskManager) -> bool:
    """Whether a task comes from the folder that was asked for, not from lm-eval."""
    entry = manager.task_index.get(name)
    folder = manager.include_path
    return entry is not None and folder is not None and entry.yaml_path.is_relative_to(folder)
