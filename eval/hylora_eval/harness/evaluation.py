# SPDX-License-Identifier: Apache-2.0
"""`evaluate`: lm-eval's results as plain JSON types."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lm_eval import simple_evaluate
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager
from lm_eval.utils import handle_non_serializable, simple_parse_args_string

from hylora_eval.harness.loading import LoadedTask

__all__ = ["BY_TASK", "evaluate", "read_generation"]

# The parts of lm-eval's result that are dictionaries with an entry for each task.
BY_TASK = (
    "results",
    "groups",
    "group_subtasks",
    "configs",
    "versions",
    "n-shot",
    "higher_is_better",
    "n-samples",
)

# Draws for the standard errors that need any, such as that of LAMBADA's perplexity: lm-eval's 100,000 take minutes,
# and 1,000 tell a standard error to two per cent.
BOOTSTRAP = 1000

# A variable of lm-eval's that keeps it from starting processes to draw in.
_IN_PROCESS = "DISABLE_MULTIPROC"


def evaluate(
    lm: LM,
    tasks: Sequence[LoadedTask],
    num_fewshot: int | None = None,
    limit: float | None = None,
    log_samples: bool = False,
    gen_kwargs: dict[str, Any] | None = None,
    apply_chat_template: bool = False,
) -> dict[str, Any]:
    """Evaluate tasks with lm-eval.

    Args:
        lm: a model as `wrap` gives it, or another of lm-eval's.
        tasks: what `load_tasks`, `ruler_tasks` and `perplexity_task` give.
        num_fewshot: examples in the prompt; by default the task's own number. A task that sets 0 keeps it.
        limit: samples of each task (below 1: that share of them); by default all.
        log_samples: keep every prompt and answer, as "samples".
        gen_kwargs: how answers are generated, where it is to be otherwise than the task says.
        apply_chat_template: put the tokenizer's chat template around every prompt, with examples as earlier turns.

    Returns:
        lm-eval's "results" (values and standard errors by task, as "metric,filter" and "metric_stderr,filter"),
        "versions", "n-shot", "n-samples", "higher_is_better", "configs", "groups", "group_subtasks" and "config".
    """
    with _one_process():
        result = simple_evaluate(
            lm,
            tasks=list(tasks),
            num_fewshot=num_fewshot,
            batch_size=getattr(lm, "batch_size", None),
            limit=limit,
            bootstrap_iters=BOOTSTRAP,
            log_samples=log_samples,
            gen_kwargs=gen_kwargs,
            apply_chat_template=apply_chat_template,
            # All is loaded, or a complete configuration: there is no need for lm-eval's index.
            task_manager=TaskManager(include_defaults=False),
        )
    kept = (*BY_TASK, "config", *(["samples"] if log_samples else []))
    return json.loads(json.dumps({key: result.get(key, {}) for key in kept}, default=handle_non_serializable))


def read_generation(text: str | None) -> dict[str, Any] | None:
    """Arguments of generation given as KEY=VALUE with commas between, as lm-eval reads them; None where none are.

    Raises:
        ValueError: if a part is not of that form.
    """
    if text is None:
        return None
    for part in text.split(","):
        if not all(part.partition("=")):
            raise ValueError(f"--gen-kwargs {part!r} is not of the form KEY=VALUE, for example max_gen_toks=64")
    return simple_parse_args_string(text)


@contextmanager
def _one_process() -> Iterator[None]:
    """Let lm-eval draw in this process: it would fork, and a process with threads may then wait for ever."""
    known = os.environ.get(_IN_PROCESS)
    os.environ[_IN_PROCESS] = "1"
    try:
        yield
    finally:
        if known is None:
            del os.environ[_IN_PROCESS]
        else:
            os.environ[_IN_PROCESS] = known
