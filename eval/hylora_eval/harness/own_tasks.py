# SPDX-License-Identifier: Apache-2.0
"""Our benchmarks as tasks of lm-eval: complete configurations that its `TaskManager` takes in place of a name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from hylora_eval.harness.names import ruler_name
from hylora_eval.ruler.generation import check_generation, generate
from hylora_eval.ruler.haystack import load_haystack
from hylora_eval.ruler.records import Record
from hylora_eval.ruler.scoring import clean_prediction, score_prediction
from hylora_eval.ruler.tasks import TASKS, resolve_tasks

__all__ = ["perplexity_task", "ruler_task", "ruler_tasks"]

# lm-eval would take examples from the test data, and read all of it for that.
_NO_EXAMPLES = {"num_fewshot": 0, "fewshot_config": {"samples": []}}


def ruler_tasks(
    tokenizer: PreTrainedTokenizerBase,
    lengths: Sequence[int],
    tasks: str | Iterable[str] = "all",
    samples: int = 500,
    seed: int = 42,
    mode: str = "exact",
    **options: Any,
) -> list[dict[str, Any]]:
    """RULER as tasks of lm-eval, one for each task and length, called for example "hylora-ruler:vt@4096".

    Samples are those of `hylora_eval.ruler.generate`, and so are the scores, in per cent, those of
    `hylora_eval.ruler.evaluate`: an HFLM of the same model with a `max_length` of at least the length answers the same
    prompts. Samples are generated when lm-eval loads a task.

    Args:
        tokenizer: of the model.
        lengths: tokens of a prompt and its answer, one or several.
        tasks: names of tasks or groups, or "all" for the eleven of chapter 6.
        samples: of each task at each length.
        seed, mode: as for `generate`.
        **options: further arguments of `generate`: `haystack`, `sentences`, `qa_files`, `more_words`.

    Returns:
        Configurations for `tasks` of `simple_evaluate` or of `hylora_eval.harness.evaluate`.

    Raises:
        ValueError, ImportError, OSError: as `generate` would.
    """
    configurations = []
    for length in lengths:
        for name in resolve_tasks(tasks):
            check_generation(name, tokenizer, length, samples, seed=seed, mode=mode, **options)
            draw = _later(name, tokenizer, length, samples, seed, mode, options)
            facts = {"samples": samples, "seed": seed, "mode": mode}
            if TASKS[name].needs_essay:
                facts["haystack"] = load_haystack(options.get("haystack")).name
            configurations.append(ruler_task(name, draw, ruler_name(name, length), facts))
    return configurations


def ruler_task(
    task: str,
    records: Sequence[Record] | Callable[[], Sequence[Record]],
    name: str | None = None,
    facts: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Records of one RULER task as a task of lm-eval.

    Args:
        task: name of the RULER task.
        records: its samples, for example those of `load_records`, or a function that gives them.
        name: of the task within lm-eval; by default "hylora-ruler:" and the RULER task's name.
        facts: what else lm-eval's result should say of the task; plain JSON types.

    Returns:
        A configuration with two metrics: "score" in per cent, and "empty", the share of empty answers.
    """
    chosen = TASKS[task]

    def read(**_: Any) -> dict[str, Dataset]:
        rows = [
            {"input": record.input, "answer_prefix": record.answer_prefix, "outputs": list(record.outputs)}
            for record in (records() if callable(records) else records)
        ]
        return {"test": Dataset.from_list(rows)}

    def score(document: dict[str, Any], answers: Sequence[str]) -> dict[str, float]:
        (answer,) = answers
        return {
            "score": 100 * score_prediction(task, answer, document["outputs"]),
            "empty": float(not clean_prediction(answer)),
        }

    return {
        "task": name or f"hylora-ruler:{task}",
        "custom_dataset": read,
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "input",
        "doc_to_target": "outputs",
        "gen_prefix": "answer_prefix",
        # The prefix brings the space before it.
        "target_delimiter": "",
        "generation_kwargs": {"until": [], "max_gen_toks": chosen.tokens_to_generate, "do_sample": False},
        "process_results": score,
        "metric_list": [
            {"metric": "score", "aggregation": "mean", "higher_is_better": True},
            {"metric": "empty", "aggregation": "mean", "higher_is_better": False},
        ],
        "metadata": {"version": 1, **(facts or {})},
        **_NO_EXAMPLES,
    }


def perplexity_task(documents: Iterable[str], name: str = "hylora-perplexity") -> dict[str, Any]:
    """Perplexity of texts as a task of lm-eval, by its rolling likelihood.

    The context is the `max_length` of the HFLM; `hylora_eval.perplexity` with `mode="sliding"`,
    `length=max_length + 1`, `stride=max_length` and BOS before each document sums the same likelihood.

    Args:
        documents: texts.
        name: of the task within lm-eval.

    Returns:
        A configuration with the metrics word_perplexity, byte_perplexity and bits_per_byte.

    Raises:
        ValueError: if there is no document, or one is empty.
    """
    texts = list(documents)
    if not texts or not all(texts):
        raise ValueError(f"{len(texts)} documents, {sum(not text for text in texts)} of them empty; give at least one")

    def read(**_: Any) -> dict[str, Dataset]:
        return {"test": Dataset.from_dict({"text": texts})}

    return {
        "task": name,
        "custom_dataset": read,
        "test_split": "test",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "text",
        "metric_list": [
            {"metric": "word_perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False},
            {"metric": "byte_perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False},
            {"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False},
        ],
        "metadata": {"version": 1},
        **_NO_EXAMPLES,
    }


def _later(
    task: str, tokenizer: PreTrainedTokenizerBase, length: int, samples: int, seed: int, mode: str, options: dict
) -> Callable[[], list[Record]]:
    # A plain function: lm-eval copies configurations deeply, and a function is copied as it is.
    def draw() -> list[Record]:
        return generate(task, tokenizer, length, samples, seed, mode, **options)

    return draw
