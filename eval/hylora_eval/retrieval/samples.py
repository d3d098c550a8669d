# SPDX-License-Identifier: Apache-2.0
"""Samples with needles: RULER's needle and variable tasks, and the recall documents of the demo, dense and sparse."""

from __future__ import annotations

import os

import torch
from transformers import PreTrainedTokenizerBase

from hylora.demo.corpus import load_corpus
from hylora.demo.facts import FactTask
from hylora_eval import ruler
from hylora_eval.recall import check_sequences, draw_recall_sequences, tokenize_recall
from hylora_eval.retrieval.needles import Needles, Sample
from hylora_eval.ruler.counting import prompt_tokens

__all__ = ["NEEDLE_TASKS", "needle_samples"]

# Of "facts": a fact in so many tokens, and how many of them come again.
TOKENS_OF_A_FACT, ASKED = 21, 8

NEEDLE_TASKS = (
    "recall",
    "facts",
    *(name for name, task in ruler.TASKS.items() if task.family in ("needles", "variables")),
)


def needle_samples(
    task: str,
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    samples: int = 5,
    seed: int = 42,
    haystack: ruler.Haystack | str | os.PathLike | None = None,
) -> list[Sample]:
    """Draw sequences in which it is known what must be found.

    In a RULER task each piece of evidence is a needle, and the prompt's last token asks for all of them. In a document
    of "recall", pairs of key and value in a row, every key that comes again asks for the value it had before. So do
    those of "facts", library text in which many facts are scattered and a few are asked for.

    Args:
        task: a name in `NEEDLE_TASKS`.
        tokenizer: the model's; a fast one.
        length: tokens of a sample. A RULER prompt is shorter by the answer it leaves room for.
        samples: how many.
        seed: of the samples.
        haystack: prose for the tasks that need it, as for `hylora_eval.ruler.load_haystack`.

    Returns:
        The samples.

    Raises:
        ValueError: if the task has no needles, the length does not suit it, or the tokenizer cannot tell where a
            needle is.
        ImportError: if wonderwords is not installed (RULER).
        OSError: if the haystack cannot be read.
    """
    if task not in NEEDLE_TASKS:
        raise ValueError(f"task {task!r} has no needles whose place is known; choose one of {', '.join(NEEDLE_TASKS)}")
    if task in ("recall", "facts"):
        if task == "recall":
            # Whole pairs of key and value after a heading: an odd number of tokens.
            sequences = draw_recall_sequences(tokenizer, length - (length + 1) % 2, samples, f"retrieval-{seed}")
        else:
            drawing = FactTask(tokenizer, load_corpus("held_out"))
            facts = min(max(ASKED, length // TOKENS_OF_A_FACT), len(drawing.words.keys))
            sequences = tokenize_recall(
                tokenizer,
                (drawing.document(length, f"retrieval-{seed}-{index}", facts, ASKED) for index in range(samples)),
            )
        # Another tokenizer may join what is counted as two tokens.
        check_sequences(sequences)
        return [Sample(sequence.input_ids, Needles.of_recall(sequence, tokens=2)) for sequence in sequences]
    records = ruler.generate(task, tokenizer, length, samples, seed, haystack=haystack)
    drawn = []
    for record in records:
        tokens = torch.tensor(prompt_tokens(tokenizer, record.prompt))
        drawn.append(Sample(tokens, Needles.at_end(len(tokens), record.evidence_tokens(tokenizer))))
    return drawn
