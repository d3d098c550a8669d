# SPDX-License-Identifier: Apache-2.0
"""`hylora eval harness`: tasks of the LM Evaluation Harness."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from hylora_eval.commands.frame import Evaluation, evaluation_command, number_table, with_error
from hylora_eval.results import Result

__all__ = ["harness"]


@evaluation_command()
def harness(
    evaluation: Evaluation,
    tasks: Annotated[
        str,
        typer.Option(help="lm-eval's tasks with commas between, a set such as thesis-long, or hylora-ruler@4096."),
    ],
    limit: Annotated[
        float | None, typer.Option(min=0, help="Samples of each task; below 1, that share of them.")
    ] = None,
    num_fewshot: Annotated[
        int | None, typer.Option(min=0, help="Examples in the prompt, instead of the task's.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Requests at once.")] = 1,
    max_length: Annotated[
        int | None, typer.Option(min=1, help="Tokens of a request; by default the model's, or what it was trained on.")
    ] = None,
    include_path: Annotated[Path | None, typer.Option(help="Folder with YAML tasks of yours.")] = None,
    gen_kwargs: Annotated[
        str | None, typer.Option(metavar="KEY=VALUE,...", help="How answers are generated, e.g. max_gen_toks=64.")
    ] = None,
    apply_chat_template: Annotated[
        bool, typer.Option("--apply-chat-template", help="Ask within the tokenizer's own chat template.")
    ] = False,
    log_samples: Annotated[
        bool, typer.Option("--log-samples", help="Keep every prompt and answer, in a folder beside the result.")
    ] = False,
) -> None:
    """Evaluate tasks of the LM Evaluation Harness, print a table and write the result.

    The result is written anew after each task; the same command goes on after an interruption.

    Raises:
        ValueError: on wrong input, before the model is loaded wherever that can be known.
        OSError: if a task's data is not to be had.
        ImportError: if lm-eval, or what a task needs, is not installed.
    """
    # Here, so that options are listed and refused without the seconds that these take to import.
    from hylora.runs.fingerprint import weights_fingerprint
    from hylora_eval import harness as lm_harness
    from hylora_eval.fingerprints import describe_tokenizer, text_sha256
    from hylora_eval.harness.evaluation import read_generation
    from hylora_eval.harness.model import context_length
    from hylora_eval.harness.names import expand_names, split_ruler_name
    from hylora_eval.harness.resuming import add_result, finished_tasks, resume, save_samples

    names = expand_names(tasks.split(","))
    if limit is not None and (limit == 0 or limit > 1 and limit != int(limit)):
        raise ValueError(f"--limit {limit:g} must be a whole number of samples, or a share between 0 and 1")
    ruler_lengths = [ruler[1] for ruler in map(split_ruler_name, names) if ruler is not None]
    longest_prompt = max(ruler_lengths, default=0)
    if max_length is not None and max_length < longest_prompt:
        raise ValueError(f"--max-length {max_length} would cut the prompts of RULER at {longest_prompt}; raise it")
    output, options = evaluation.output, evaluation.options
    generation = read_generation(gen_kwargs)
    if log_samples and output is None:
        raise ValueError("--log-samples needs --output: samples are kept beside the result")
    if apply_chat_template and ruler_lengths:
        raise ValueError(
            "--apply-chat-template would make RULER's prompts longer than asked for; use `hylora eval ruler "
            "--chat-template`, which counts it"
        )
    finished = [] if output is None or evaluation.overwrite else finished_tasks(output)
    missing = [name for name in names if name not in finished]
    evaluation.check_outputs(goes_on=bool(finished and missing))
    tokenizer = options.load_tokenizer()
    if apply_chat_template and not tokenizer.chat_template:
        raise ValueError(f"the tokenizer {tokenizer.name_or_path!r} has no chat template; leave it out")
    # RULER's samples are drawn, as many as are asked for; other tasks have theirs.
    drawn = int(limit) if limit is not None and limit >= 1 else 500
    loaded = lm_harness.load_tasks(missing, tokenizer, include_path, drawn)

    model = options.load_model()
    if max_length is None:
        max_length = max(context_length(model), options.manifest.context_length or 0, longest_prompt)
    lm = lm_harness.wrap(model, tokenizer, batch_size, max_length, note=evaluation.note)
    result = evaluation.start(
        "harness",
        model,
        tokenizer=describe_tokenizer(tokenizer),
        settings={
            "limit": limit,
            "num_fewshot": num_fewshot,
            "batch_size": lm.batch_size,
            "max_length": max_length,
            "include_path": None if include_path is None else str(include_path),
            "gen_kwargs": generation,
            "chat_template": text_sha256(str(tokenizer.chat_template)) if apply_chat_template else None,
            "weights": weights_fingerprint(model),
        },
    )
    if finished:
        resume(output, result)
    with evaluation.shown(_tables):
        for name in missing:
            found = lm_harness.evaluate(
                lm, loaded[name], num_fewshot, limit, log_samples, generation, apply_chat_template
            )
            add_result(result, name, found)
            if log_samples:
                save_samples(output.with_name(output.name + ".samples"), found["samples"])
            evaluation.save()


def _tables(result: Result) -> Iterator[Table]:
    """A row for each task and metric."""
    title = f"lm-eval, {result['attention']['asked']} attention"
    table = number_table(title, ("task", "metric", "examples", "samples", "value"), words=2)
    for task, values in result["results"].items():
        for key, value in values.items():
            metric, comma, filtered = key.partition(",")
            if comma and not metric.endswith("_stderr"):
                shots, samples = result["n-shot"].get(task, ""), result.get_at("n-samples", task, "effective")
                text = _text(value, values.get(f"{metric}_stderr,{filtered}"))
                table.add_row(task, metric, str(shots), "" if samples is None else str(samples), text)
    yield table


def _text(value: Any, error: Any) -> str:
    """A number with its error; lm-eval has words where there is none."""
    if not isinstance(value, int | float):
        return str(value)
    return with_error(value, error if isinstance(error, int | float) else None, 4)
