# SPDX-License-Identifier: Apache-2.0
"""`generate`: samples of a task at a length."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from transformers import PreTrainedTokenizerBase

from hylora_eval.ruler.cautions import cautions
from hylora_eval.ruler.chat import Chat, ChatTemplate
from hylora_eval.ruler.common_words import CommonWords
from hylora_eval.ruler.counting import TokenCounter
from hylora_eval.ruler.exact import exact_drafts
from hylora_eval.ruler.family import Draft, Family
from hylora_eval.ruler.frequent_words import FrequentWords
from hylora_eval.ruler.haystack import Essay, Haystack, load_haystack, sentence_splitter
from hylora_eval.ruler.implied import Implied
from hylora_eval.ruler.needles import Needles
from hylora_eval.ruler.questions import QuestionFile, Questions, load_questions
from hylora_eval.ruler.records import Record
from hylora_eval.ruler.streams import SampleStreams
from hylora_eval.ruler.strict import strict_drafts
from hylora_eval.ruler.tasks import TASKS, Task
from hylora_eval.ruler.variables import ExampleChain, Variables
from hylora_eval.ruler.words import read_words

__all__ = ["MODES", "check_generation", "generate"]

MODES = ("exact", "strict")


def generate(
    task: str,
    tokenizer: PreTrainedTokenizerBase,
    length: int = 4096,
    samples: int = 5,
    seed: int = 42,
    mode: str = "exact",
    haystack: Haystack | str | os.PathLike | None = None,
    *,
    sentences: str = "auto",
    qa_files: Mapping[str, str | os.PathLike] | None = None,
    more_words: str | os.PathLike | None = None,
    chat_template: bool = False,
    progress: Callable[[int], None] | None = None,
) -> list[Record]:
    """Generate samples of a RULER task.

    `"exact"` gives each sample as many units of haystack as fit: with one more (a word of prose or of a list, a line,
    a document) it would exceed `length`. Each sample has its own random numbers, so the first five of five hundred are
    the five one gets by asking for five.

    `"strict"` repeats the official generator: its random numbers, its search for a size, and so its prompts, byte for
    byte. That holds for one tokenizer, one version of wonderwords and, for prose, the same text and punkt.

    Args:
        task: a name in `TASKS`.
        tokenizer: any transformers tokenizer; it decides how much text a length is.
        length: tokens of a prompt and its answer.
        samples: how many.
        seed: of the random numbers.
        mode: "exact" or "strict".
        haystack: prose for the tasks that need it, as for `load_haystack`; None for the built-in.
        sentences: how prose is split, as for `sentence_splitter`.
        qa_files: for "qa_1" and "qa_2", the paths of SQuAD's and HotpotQA's JSON files.
        more_words: a file for `read_words`, for cwe at lengths that need more than the 8166 words of wonderwords.
        chat_template: put the tokenizer's own chat template around each question (under "exact" only); it is
            part of the length.
        progress: called with the number of samples done, after each.

    Returns:
        The samples in order.

    Raises:
        ValueError: if an argument is out of its range, the length is too small for the task, or a file it needs is not
            named or of another form.
        ImportError: if wonderwords is not installed.
        OSError: if a file cannot be read.
    """
    material = _material(
        task, tokenizer, length, samples, mode, haystack, sentences, qa_files, more_words, chat_template
    )
    drafts = list(_draw(task, material, tokenizer, length, samples, seed, mode, progress))
    kept, essay = TASKS[task].tokens_to_generate, material.essay
    return [
        Record(
            index=index,
            task=task,
            input=draft.input,
            answer_prefix=draft.answer_prefix,
            outputs=draft.outputs,
            length=tokens + kept,
            tokens_to_generate=kept,
            mode=mode,
            seed=seed,
            haystack=None if essay is None else essay.haystack.name,
            sentences=None if essay is None else essay.splitter.name,
            evidence=draft.evidence,
            chat_template=chat_template,
        )
        for index, (draft, tokens) in enumerate(drafts)
    ]


def check_generation(
    task: str, tokenizer: PreTrainedTokenizerBase, length: int, samples: int, seed: int, mode: str, **options: Any
) -> list[str]:
    """Find out before a long evaluation whether samples can be generated.

    Args:
        task, tokenizer, length, samples, seed, mode: as for `generate`.
        **options: its other arguments.

    Returns:
        Sentences on what to beware of in the scores.

    Raises:
        ValueError, ImportError, OSError: as `generate` would.
    """
    material = _material(task, tokenizer, length, samples, mode, **options)
    next(_draw(task, material, tokenizer, length, samples, seed, mode))
    family = _build_family(
        TASKS[task], length, material, example=lambda: ExampleChain().draw(ExampleChain.smallest, SampleStreams(task))
    )
    return cautions(TASKS[task], family, tokenizer, _counter(tokenizer, material), length, samples)


@dataclass(frozen=True)
class _Material:
    """What a task draws on beyond word lists; None where it needs none.

    Attributes:
        essay: prose.
        questions: a file of questions and documents.
        more_words: words for long lists.
        chat: what is put around every sample.
    """

    essay: Essay | None = None
    questions: QuestionFile | None = None
    more_words: Sequence[str] = ()
    chat: ChatTemplate | None = None


def _draw(
    task: str,
    material: _Material,
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    samples: int,
    seed: int,
    mode: str,
    progress: Callable[[int], None] | None = None,
) -> Iterator[tuple[Draft, int]]:
    """Samples and the tokens of their prompts."""
    drafts = strict_drafts if mode == "strict" else exact_drafts
    build = partial(_build_family, TASKS[task], length, material)
    counter = _counter(tokenizer, material)
    return drafts(TASKS[task], build, counter, length, samples, seed, progress or (lambda done: None))


def _counter(tokenizer: PreTrainedTokenizerBase, material: _Material) -> TokenCounter:
    return TokenCounter(tokenizer, leading=material.chat is None)


def _material(
    task: str,
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    samples: int,
    mode: str,
    haystack: Haystack | str | os.PathLike | None = None,
    sentences: str = "auto",
    qa_files: Mapping[str, str | os.PathLike] | None = None,
    more_words: str | os.PathLike | None = None,
    chat_template: bool = False,
) -> _Material:
    """Check the arguments of `generate` and read the files."""
    if task not in TASKS:
        raise ValueError(f"task={task!r} must be one of {', '.join(TASKS)}")
    if mode not in MODES:
        raise ValueError(f"mode={mode!r} must be one of {', '.join(map(repr, MODES))}")
    for field, value in (("length", length), ("samples", samples)):
        if value < 1:
            raise ValueError(f"{field}={value} must be at least 1")
    if mode == "strict" and not TASKS[task].is_official:
        raise ValueError(f"{task} is no task of the official generator, whose prompts are repeated; use mode='exact'")
    if mode == "strict" and chat_template:
        raise ValueError("mode='strict' repeats the official prompts, which have no chat template; use mode='exact'")
    material = _Material(chat=ChatTemplate(tokenizer) if chat_template else None)
    if TASKS[task].needs_essay:
        essay = Essay(load_haystack(haystack), sentence_splitter(sentences), anew=mode == "strict")
        return replace(material, essay=essay)
    if TASKS[task].family == "questions":
        file = load_questions(task, (qa_files or {}).get(task))
        if samples > len(file.questions):
            raise ValueError(f"samples={samples}, but the file of {task} has {len(file.questions)} questions")
        return replace(material, questions=file)
    if TASKS[task].family == "common_words" and more_words is not None:
        return replace(material, more_words=read_words(more_words))
    return material


def _build_family(task: Task, length: int, material: _Material, example: Callable[[], Draft]) -> Family:
    """The family of a task at a length; `example` draws the worked example of variable tracking.

    Raises:
        ValueError: if the length is too small for any sample.
    """
    family: Family
    match task.family:
        case "needles":
            family = Needles(task, material.essay)
        case "implied":
            family = Implied(task, material.essay)
        case "variables":
            family = Variables(example())
        case "common_words":
            family = CommonWords(length, material.more_words)
        case "frequent_words":
            family = FrequentWords(length - task.tokens_to_generate)
        case "questions":
            family = Questions(task.name, material.questions)
        case _:
            raise AssertionError(task.family)
    return family if material.chat is None else Chat(family, material.chat)
