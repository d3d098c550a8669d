# SPDX-License-Identifier: Apache-2.0
"""Names of tasks: lm-eval's own, sets of them, and RULER at a length."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from hylora_eval.report.harness_tasks import GROUPS, THESIS_TASKS
from hylora_eval.ruler.tasks import resolve_tasks

__all__ = ["TASK_SETS", "expand_names", "ruler_name", "split_babilong_name", "split_ruler_name"]

# The thesis's tasks, and long ones that lm-eval has: the members of its groups, so that each is kept once it is done.
TASK_SETS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        **{
            name: tuple(task for task, column in THESIS_TASKS.items() if column.group == group)
            for name, group in zip(("thesis-short", "thesis-long"), GROUPS, strict=True)
        },
        "longbench-v2": (
            "longbench2_single",
            "longbench2_multi",
            "longbench2_incontext",
            "longbench2_history",
            "longbench2_code",
            "longbench2_structured",
        ),
        # Those in English.
        "infinite-bench": (
            "infinitebench_passkey",
            "infinitebench_number_string",
            "infinitebench_kv_retrieval",
            "infinitebench_longbook_sum_en",
            "infinitebench_longbook_qa_en",
            "infinitebench_longbook_choice_en",
            "infinitebench_longdialogue_qa_en",
            "infinitebench_code_debug",
            "infinitebench_code_run",
            "infinitebench_math_find",
        ),
    }
)

_RULER = re.compile(r"hylora-ruler(?::(?P<tasks>[\w-]+))?@(?P<length>\d+)")
_BABILONG = re.compile(r"(?P<task>babilong(?:_qa\d+)?)@(?P<length>\w+)")
# Lengths of BABILong's data, in tokens of another tokenizer, and its tasks at all of them.
BABILONG_LENGTHS = ("0k", "1k", "2k", "4k", "8k", "16k", "32k", "64k", "128k")
BABILONG_TASKS = tuple(f"babilong_qa{number}" for number in range(1, 6))


def ruler_name(task: str, length: int) -> str:
    """What a RULER task of ours is called within lm-eval."""
    return f"hylora-ruler:{task}@{length}"


def split_ruler_name(name: str) -> tuple[str, int] | None:
    """The RULER task and the length that a name stands for; None where it stands for something else."""
    match = _RULER.fullmatch(name)
    return None if match is None else (match["tasks"] or "all", int(match["length"]))


def split_babilong_name(name: str) -> tuple[str, str] | None:
    """The task of BABILong and the length that a name stands for; None where it stands for something else.

    Raises:
        ValueError: if there is no such length, or the task is not there at each length.
    """
    match = _BABILONG.fullmatch(name)
    if match is None:
        return None
    if match["length"] not in BABILONG_LENGTHS:
        raise ValueError(f"{name!r}: BABILong has the lengths {', '.join(BABILONG_LENGTHS)}")
    if match["task"] not in ("babilong", *BABILONG_TASKS):
        raise ValueError(f"{name!r}: of BABILong, {BABILONG_TASKS[0]} to {BABILONG_TASKS[-1]} have lengths")
    return match["task"], match["length"]


def expand_names(names: Iterable[str]) -> list[str]:
    """Each task once, with sets, and RULER at a length, replaced by what is in them.

    Args:
        names: lm-eval's tasks, groups or tags, `TASK_SETS`, and names such as "hylora-ruler@4096" (the eleven tasks of
            chapter 6), "hylora-ruler:NIAH-S@4096", "hylora-ruler:vt@4096", "babilong@8k" or "babilong_qa1@8k".

    Raises:
        ValueError: if nothing is named, a RULER task is unknown or has no length, or BABILong does not have one.
    """
    expanded: list[str] = []
    for name in filter(None, map(str.strip, names)):
        ruler, babilong = split_ruler_name(name), split_babilong_name(name)
        if babilong is not None:
            tasks = BABILONG_TASKS if babilong[0] == "babilong" else babilong[:1]
            expanded += [f"{task}@{babilong[1]}" for task in tasks]
        elif ruler is not None:
            expanded += [ruler_name(task, ruler[1]) for task in resolve_tasks(ruler[0])]
        elif name.startswith("hylora-ruler"):
            raise ValueError(
                f"{name!r} names RULER without a length; write hylora-ruler@4096, or hylora-ruler:vt@4096 for one task"
            )
        else:
            expanded += TASK_SETS.get(name, (name,))
    if not expanded:
        raise ValueError(f"no task is named; name some of lm-eval's, or a set: {', '.join(TASK_SETS)}")
    return list(dict.fromkeys(expanded))
