# SPDX-License-Identifier: Apache-2.0
"""`generate`: samples of a task at a length."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from hylora_eval.ruler.cautions import cautions
from hylora_eval.ruler.exact import exact_drafts
from hylora_eval.ruler.family import Draft
from hylora_eval.ruler.haystack import Haystack
from hylora_eval.ruler.material import Material, load_material
from hylora_eval.ruler.records import Record
from hylora_eval.ruler.strict import strict_drafts

__all__ = ["check_generation", "generate"]


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
    material = load_material(
        task, tokenizer, length, samples, mode, haystack, sentences, qa_files, more_words, chat_template
    )
    drafts = list(_draw(material, samples, seed, mode, progress or (lambda done: None)))
    kept, essay = material.task.tokens_to_generate, material.essay
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
    material = load_material(task, tokenizer, length, samples, mode, **options)
    next(_draw(material, samples, seed, mode, lambda done: None))
    return cautions(material, tokenizer, samples)


def _draw(
    material: Material, samples: int, seed: int, mode: str, progress: Callable[[int], None]
) -> Iterator[tuple[Draft, int]]:
    """Samples and the tokens of their prompts."""
    drafts = strict_drafts if mode == "strict" else exact_drafts
    return drafts(material, samples, seed, progress)
