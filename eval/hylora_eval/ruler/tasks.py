# SPDX-License-Identifier: Apache-2.0
"""RULER's tasks: prompts, parameters, answer lengths and groups.

Prompts and parameters are those of NVIDIA's RULER (Apache-2.0, Copyright (c) 2024 NVIDIA; see NOTICE); which tasks
make a group is chapter 6's definition (section 6.6.3.4).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

__all__ = ["ALL_TASKS", "AVERAGES", "GROUPS", "TASKS", "Prompt", "Task", "resolve_tasks"]


@dataclass(frozen=True)
class Prompt:
    """The text around a context.

    Attributes:
        question: what comes before and after `{context}`.
        answer_prefix: how the answer begins; a base model continues it.
    """

    question: str
    answer_prefix: str

    def singular(self) -> Prompt:
        """The prompt where one value of one key is asked for."""
        changes = (("Some", "A"), ("are all", "is"), ("are", "is"), ("answers", "answer"))
        texts = []
        for text in (self.question, self.answer_prefix):
            for plural, singular in changes:
                text = text.replace(plural, singular)
            texts.append(text)
        return Prompt(*texts)

    def fill(self, **fields: Any) -> tuple[str, str]:
        """The input and the answer's prefix with their fields filled in."""
        return self.question.format(**fields), self.answer_prefix.format(**fields)


NEEDLES = Prompt(
    question=(
        "Some special magic {type_needle_v} are hidden within the following text. Make sure to memorize it. "
        "I will quiz you about the {type_needle_v} afterwards.\n{context}\n"
        "What are all the special magic {type_needle_v} for {query} mentioned in the provided text?"
    ),
    answer_prefix=" The special magic {type_needle_v} for {query} mentioned in the provided text are",
)
IMPLIED = Prompt(
    question=(
        "Sentences about people are hidden within the following text. Make sure to memorize them. "
        "I will ask you about them afterwards.\n{context}\n"
        "Question: {query} The text does not say it in these words, but it follows from one of the hidden sentences."
    ),
    answer_prefix=" Answer: The name of that person is",
)
VARIABLES = Prompt(
    question=(
        "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n{context}\nQuestion: "
        "Find all variables that are assigned the value {query} in the text above."
    ),
    answer_prefix=(
        " Answer: According to the chain(s) of variable assignment in the text above, {num_v} variables are assigned "
        "the value {query}, they are: "
    ),
)
COMMON_WORDS = Prompt(
    question=(
        "Below is a numbered list of words. In these words, some appear more often than others. "
        "Memorize the ones that appear most often.\n{context}\n"
        "Question: What are the 10 most common words in the above list?"
    ),
    answer_prefix=" Answer: The top 10 words that appear most often in the list are:",
)
FREQUENT_WORDS = Prompt(
    question=(
        "Read the following coded text and track the frequency of each coded word. Find the three most frequently "
        "appeared coded words. {context}\nQuestion: Do not provide any explanation. Please ignore the dots '....'. "
        "What are the three most frequently appeared words in the above coded text?"
    ),
    answer_prefix=(" Answer: According to the coded text above, the three most frequently appeared words are:"),
)
QUESTIONS = Prompt(
    question=(
        "Answer the question based on the given documents. "
        "Only give me the answer and do not output any other words.\n\n"
        "The following are given documents.\n\n{context}\n\n"
        "Answer the question based on the given documents. "
        "Only give me the answer and do not output any other words.\n\nQuestion: {query}"
    ),
    answer_prefix=" Answer:",
)


@dataclass(frozen=True)
class Task:
    """One task of the benchmark.

    Attributes:
        name: as in RULER.
        family: which generator draws its samples.
        prompt: its text.
        tokens_to_generate: tokens kept free for the answer, and the most that are generated.
        metric: "all" for the share of the expected answers that are given, "part" for whether any of them is.
        settings: parameters of the family.
    """

    name: str
    family: str
    prompt: Prompt
    tokens_to_generate: int
    metric: str = "all"
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def is_official(self) -> bool:
        """Whether it is one of RULER's."""
        return self.family != "implied"

    @property
    def needs_essay(self) -> bool:
        """Whether its haystack is prose."""
        return self.settings.get("haystack") == "essay"


def _needles(name: str, haystack: str, keys: str, values: str, num_keys=1, num_values=1, num_queries=1) -> Task:
    settings = {
        "haystack": haystack,
        "keys": keys,
        "values": values,
        # As many keys as are asked for.
        "num_keys": max(num_keys, num_queries),
        "num_values": num_values,
        "num_queries": num_queries,
    }
    return Task(name, "needles", NEEDLES, 128, settings=MappingProxyType(settings))


def _implied(needles: int) -> Task:
    settings = MappingProxyType({"haystack": "essay", "needles": needles})
    return Task(f"niah_implied_{needles}", "implied", IMPLIED, 16, settings=settings)


TASKS: Mapping[str, Task] = MappingProxyType(
    {
        task.name: task
        for task in (
            _needles("niah_single_1", "noise", "words", "numbers"),
            _needles("niah_single_2", "essay", "words", "numbers"),
            _needles("niah_single_3", "essay", "words", "uuids"),
            _needles("niah_multikey_1", "essay", "words", "numbers", num_keys=4),
            _needles("niah_multikey_2", "needle", "words", "numbers"),
            _needles("niah_multikey_3", "needle", "uuids", "uuids"),
            _needles("niah_multivalue", "essay", "words", "numbers", num_values=4),
            _needles("niah_multiquery", "essay", "words", "numbers", num_queries=4),
            Task("vt", "variables", VARIABLES, 30),
            Task("cwe", "common_words", COMMON_WORDS, 120),
            Task("fwe", "frequent_words", FREQUENT_WORDS, 50),
            Task("qa_1", "questions", QUESTIONS, 32, metric="part"),
            Task("qa_2", "questions", QUESTIONS, 32, metric="part"),
            # No tasks of RULER's.
            _implied(1),
            _implied(4),
        )
    }
)

GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "NIAH-S": ("niah_single_1", "niah_single_2", "niah_single_3"),
        "NIAH-M": ("niah_multikey_1", "niah_multikey_2", "niah_multikey_3"),
        "NIAH-M-QV": ("niah_multivalue", "niah_multiquery"),
        "VT": ("vt",),
        "CF-WE": ("cwe", "fwe"),
    }
)

# The eleven tasks of chapter 6. Question answering, which comes from users' files, and needles that share no word with
# the question are asked for by name.
ALL_TASKS: tuple[str, ...] = tuple(name for group in GROUPS.values() for name in group)

# What is averaged: the groups, and all tasks (not the groups).
AVERAGES: Mapping[str, tuple[str, ...]] = MappingProxyType({**GROUPS, "Average": ALL_TASKS})


def resolve_tasks(names: str | Iterable[str]) -> tuple[str, ...]:
    """Names of tasks from "all" (the eleven), a group's name, task names or a mixture.

    Returns:
        Each task once, in the order of `TASKS`.

    Raises:
        ValueError: if a name is unknown or nothing is named.
    """
    names = [names] if isinstance(names, str) else list(names)
    chosen = set()
    for name in names:
        if name == "all":
            chosen.update(ALL_TASKS)
        elif name in GROUPS:
            chosen.update(GROUPS[name])
        elif name in TASKS:
            chosen.add(name)
        else:
            known = ["all", *GROUPS, *TASKS]
            near = difflib.get_close_matches(str(name), known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise ValueError(f"unknown RULER task {name!r}{hint} Known are {', '.join(known)}.")
    if not chosen:
        raise ValueError("tasks is empty; name some, or say 'all'")
    return tuple(name for name in TASKS if name in chosen)
