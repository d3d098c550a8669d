# SPDX-License-Identifier: Apache-2.0
"""`evaluate`: how a model does on the benchmark, by length."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from torch import nn
from transformers import PreTrainedTokenizerBase

from hylora.runs.fingerprint import tokenizer_fingerprint
from hylora.training.evaluation import evaluation_mode
from hylora_eval.fingerprints import describe_model
from hylora_eval.processes import ALONE, Processes
from hylora_eval.ruler.answering import Answerer
from hylora_eval.ruler.generation import check_generation, generate
from hylora_eval.ruler.haystack import Haystack, load_haystack
from hylora_eval.ruler.outcome import LengthResult, TaskResult
from hylora_eval.ruler.predictions import Prediction, Predictions
from hylora_eval.ruler.records import Record
from hylora_eval.ruler.tasks import resolve_tasks

__all__ = ["evaluate"]


def evaluate(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    lengths: Sequence[int],
    tasks: str | Iterable[str] = "all",
    samples: int = 500,
    seed: int = 42,
    batch_size: int = 1,
    mode: str = "exact",
    haystack: Haystack | str | os.PathLike | None = None,
    *,
    sentences: str = "auto",
    qa_files: Mapping[str, str | os.PathLike] | None = None,
    more_words: str | os.PathLike | None = None,
    chat_template: bool = False,
    predictions: str | os.PathLike | None = None,
    progress: Callable[[int, str, int, int], None] | None = None,
    note: Callable[[str], None] | None = None,
    processes: Processes = ALONE,
) -> list[LengthResult]:
    """Evaluate a model on RULER.

    Every prompt is answered greedily, up to the task's number of tokens or an end-of-sequence token. Prompts go
    through the model's attention as it is set; each further token attends to all before it.

    Args:
        model: a transformers causal language model, or a PEFT model around one; its modules' modes are restored.
        tokenizer: its tokenizer.
        lengths: tokens of a prompt and its answer, one or several.
        tasks: names of tasks or groups, or "all" for the eleven of chapter 6.
        samples: of each task at each length.
        seed: of the samples.
        batch_size: prompts to answer at once. Those of a batch are padded on the left; if the model is found not to
            honour padding, prompts are answered one by one.
        mode, haystack, sentences, qa_files, more_words, chat_template: as for `generate`.
        predictions: a file to keep predictions in as they are made. If it exists, what it holds is not made again:
            further lengths, tasks or samples may be asked for, or smaller batches, but what predictions depend on must
            not have changed.
        progress: called with (length, task, samples done, samples in all), also with 0 done before the first.
        note: called with a sentence where something is done otherwise than asked, or scores mean less than they seem.
        processes: over which the prompts are dealt. All call this with the same arguments and models, and all get the
            whole result; the main one keeps predictions.

    Returns:
        The result at each length, in the order of `lengths`.

    Raises:
        ValueError: if an argument is out of its range, a length is too small for a task, or the file of predictions
            was made under other settings; all before the first prompt is answered.
        ImportError: if wonderwords is not installed.
        OSError: if a file cannot be read or written.
    """
    names = resolve_tasks(tasks)
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1")
    if not lengths:
        raise ValueError("lengths is empty; name at least one")
    prose = load_haystack(haystack)
    options = {
        "seed": seed,
        "mode": mode,
        "haystack": prose,
        "sentences": sentences,
        "qa_files": qa_files,
        "more_words": more_words,
        "chat_template": chat_template,
    }
    note = note or (lambda text: None)
    for length in lengths:
        for name in names:
            for caution in check_generation(name, tokenizer, length, samples, **options):
                note(caution)

    with evaluation_mode(model):
        answerer = Answerer(model, tokenizer)
        if batch_size > 1 and not processes.on_main(answerer.honours_padding):
            batch_size = 1
            note("this model answers a padded prompt otherwise than the prompt alone, so prompts go one by one")
        settings = {
            **describe_model(model),
            "tokenizer": tokenizer_fingerprint(tokenizer),
            "seed": seed,
            "mode": mode,
            # None as in files from before there was one.
            "chat_template": chat_template or None,
        }
        kept = processes.on_all(lambda: Predictions(settings, predictions if processes.is_main else None))
        results = []
        for length in lengths:
            done = {}
            for name in names:
                records = generate(name, tokenizer, length, samples, **options)
                report = None if progress is None else _reporter(progress, length, name, samples)
                done[name] = _evaluate_task(answerer, tokenizer, length, records, batch_size, kept, report, processes)
            results.append(LengthResult(length, done, batch_size))
    return results


def _evaluate_task(
    answerer: Answerer,
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    records: Sequence[Record],
    batch_size: int,
    kept: Predictions,
    report: Callable[[int], None] | None,
    processes: Processes,
) -> TaskResult:
    task = records[0].task
    hashes = [record.prompt_sha256 for record in records]
    made = processes.on_main(lambda: kept.of(length, task, hashes))
    # With one batch size the same batches whenever an evaluation was interrupted, and however many processes share
    # them: rounding may depend on who shares one.
    batches = [records[start : start + batch_size] for start in range(0, len(records), batch_size)]
    missing = [batch for batch in batches if not all(record.index in made for record in batch)]

    def answer(batch: Sequence[Record]) -> list[Prediction]:
        started = time.perf_counter()
        prompts = [record.tokens(tokenizer) for record in batch]
        answers = answerer.answer(prompts, batch[0].tokens_to_generate)
        seconds = (time.perf_counter() - started) / len(batch)
        return [
            Prediction(length, task, record.index, hashes[record.index], answer.text, answer.tokens, round(seconds, 4))
            for record, answer in zip(batch, answers, strict=True)
        ]

    if report is not None:
        report(len(made))
    for answered in processes.dealt(missing, answer):
        new = [prediction for batch in answered for prediction in batch]
        processes.on_main(lambda new=new: kept.add(new))
        made.update({prediction.index: prediction for prediction in new})
        if report is not None:
            report(len(made))
    ordered = [made[record.index] for record in records]
    return TaskResult.of(records, [one.prediction for one in ordered], sum(one.seconds for one in ordered))


def _reporter(
    progress: Callable[[int, str, int, int], None], length: int, task: str, samples: int
) -> Callable[[int], None]:
    return lambda done: progress(length, task, done, samples)
