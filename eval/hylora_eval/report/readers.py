# SPDX-License-Identifier: Apache-2.0
"""From one result to its numbers, a reader for each kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from hylora_eval.compare.matching import read_figures
from hylora_eval.estimates import cautions, percent_interval
from hylora_eval.report.harness_tasks import THESIS_TASKS
from hylora_eval.report.header import read_subject
from hylora_eval.report.measurements import Measurement, Place, Source
from hylora_eval.report.retrieval_tables import read_rules
from hylora_eval.report.training import read_comparison, read_images, read_training
from hylora_eval.results import Result, pointer

__all__ = ["READERS"]


def _perplexity(result: Result, source: Source) -> Iterator[Measurement]:
    subject = read_subject(result, source.path)
    conditions = {
        "tokens": result.pick("data", "tokens_sha256", kind=str),
        "mode": result.pick("settings", "mode", kind=str),
        "stride": result.get_at("settings", "stride"),
        "bos": result.get_at("settings", "bos"),
    }
    figures = read_figures(result)
    for keys in _rows(result):
        yield Measurement(
            kind="perplexity",
            subject=subject,
            item="",
            length=result.pick(*keys, "length", kind=int),
            value=result.number(*keys, "perplexity"),
            error=result.optional_number(*keys, "perplexity_standard_error"),
            interval=_interval(result, *keys),
            remarks=_cautions(result, *keys),
            figure=figures.get(("perplexity", result.pick(*keys, "length", kind=int))),
            places=(Place(source, pointer(*keys, "perplexity")),),
            conditions=_known(conditions),
            data=str(result["data"].get("path", "")),
            higher_is_better=False,
        )


def _harness(result: Result, source: Source) -> Iterator[Measurement]:
    subject = read_subject(result, source.path)
    for task in result.pick("results", kind=dict):
        known = THESIS_TASKS.get(task)
        variations = {
            "examples in the prompt": result.get_at("n-shot", task),
            "version of the task": result.get_at("versions", task),
            "samples": result.get_at("n-samples", task, "effective"),
        }
        for key in result.pick("results", task, kind=dict):
            metric, comma, filtered = key.partition(",")
            keys = ("results", task, key)
            # Of the thesis's tasks, its metric alone; other words than numbers stand for groups without a mean.
            if not comma or metric.endswith("_stderr") or (known is not None and metric != known.metric):
                continue
            if not isinstance(value := result.get_at(*keys), (int, float)) or isinstance(value, bool):
                continue
            scale = 1.0 if known is None else known.scale
            error = result.optional_number("results", task, f"{metric}_stderr,{filtered}")
            yield Measurement(
                kind="other task" if known is None else "task",
                subject=subject,
                item=f"{task} ({metric})" if known is None else task,
                length=None,
                value=scale * result.number(*keys),
                error=None if error is None else scale * error,
                places=(Place(source, pointer(*keys)),),
                variations=_known(variations),
                higher_is_better=result.get_at("higher_is_better", task, metric) if known is None else True,
            )


def _ruler(result: Result, source: Source) -> Iterator[Measurement]:
    subject = read_subject(result, source.path)
    settings = result.pick("settings", kind=dict)
    conditions = {
        **{name: settings.get(name) for name in ("mode", "seed", "samples", "haystack")},
        "chat template": settings.get("chat_template"),
        "sha256 of the haystack": settings.get("haystack_sha256"),
        "sentences": settings.get("sentences"),
        "fingerprint of the tokenizer": result.get_at("tokenizer", "fingerprint"),
    }
    figures = read_figures(result)
    for keys in _rows(result):
        score, samples = result.number(*keys, "score"), _count(result, *keys, "samples")
        task, length = result.pick(*keys, "task", kind=str), result.pick(*keys, "length", kind=int)
        yield Measurement(
            kind="ruler",
            subject=subject,
            item=task,
            length=length,
            value=score,
            error=result.optional_number(*keys, "standard_error"),
            interval=percent_interval(score, samples),
            samples=samples,
            figure=figures.get((task, length)),
            depths=_depths(result, samples, *keys),
            places=(Place(source, pointer(*keys, "score")),),
            conditions=_known(conditions),
            variations=_known({"samples": samples, "prompts": result.get_at(*keys, "prompts_sha256")}),
            higher_is_better=True,
        )


def _depths(result: Result, samples: int, *keys: str | int) -> tuple[tuple[float, ...], ...]:
    """Depths of each sample's needles, in per cent; nothing where a task has none, or the result keeps no scores."""
    if None in (result.get_at(*keys, "depths"), result.get_at(*keys, "scores")):
        return ()
    count = len(result.pick(*keys, "depths", kind=list))
    if count != samples:
        raise ValueError(f"{pointer(*keys, 'depths')} has {count} lists, not one for each of {samples} samples")
    for index in range(count):
        own = result.pick(*keys, "depths", index, kind=list)
        if not all(isinstance(depth, (int, float)) and 0 <= depth <= 100 for depth in own):
            raise ValueError(f"{pointer(*keys, 'depths', index)}={own} must be depths from 0 to 100 per cent")
    return tuple(map(tuple, result.pick(*keys, "depths", kind=list)))


def _interval(result: Result, *keys: str | int) -> tuple[float, float] | None:
    """That of a perplexity; older results have none."""
    low, high = (result.optional_number(*keys, name) for name in ("low", "high"))
    return None if low is None or high is None else (low, high)


def _cautions(result: Result, *keys: str | int) -> tuple[str, ...]:
    """What to beware of in a perplexity that has an interval."""
    if _interval(result, *keys) is None:
        return ()
    result.pick(*keys, "mode", kind=str)
    _count(result, *keys, "documents")
    result.finite_number(*keys, "largest_document")
    return tuple(cautions(result.pick(*keys, kind=dict)))


def _count(result: Result, *keys: str | int) -> int:
    """How many there were, at least one."""
    if (count := result.pick(*keys, kind=int)) < 1:
        raise ValueError(f"{pointer(*keys)}={count} must be at least 1; measure it anew")
    return count


def _retrieval(result: Result, source: Source) -> Iterator[Measurement]:
    return read_rules(result, read_subject(result, source.path), source)


def _runtime(result: Result, source: Source) -> Iterator[Measurement]:
    settings, model = result.pick("settings", kind=dict), result.pick("model", kind=dict)
    # Times compare within the rounds of one run only.
    conditions = {
        "run": source.sha256,
        "part": settings.get("part"),
        "dtype": model.get("dtype"),
        "device": result.get_at("environment", "device") or model.get("device"),
        "batch size": settings.get("batch_size"),
    }
    for keys in _rows(result):
        shared = {
            "subject": read_subject(result, source.path, result.pick(*keys, "contender", kind=str)),
            "item": result.pick(*keys, "work", kind=str),
            "length": result.pick(*keys, "length", kind=int),
            "error": None,
            "conditions": tuple((name, str(value)) for name, value in conditions.items()),
            "data": str(model.get("path", "")),
            "higher_is_better": False,
        }
        failure = result.get_at(*keys, "error")
        if failure:
            shared |= {"value": None, "remark": str(failure), "places": (Place(source, pointer(*keys, "error")),)}
            yield Measurement(kind="time", **shared)
            yield Measurement(kind="memory", **shared)
            continue
        median, smallest, largest = (
            1e3 * result.finite_number(*keys, "time", name) for name in ("median", "smallest", "largest")
        )
        place = Place(source, pointer(*keys, "time", "median"))
        yield Measurement(kind="time", value=median, spread=(smallest, largest), places=(place,), **shared)
        peak = result.finite_number(*keys, "peak_bytes") / 2**20
        yield Measurement(kind="memory", value=peak, places=(Place(source, pointer(*keys, "peak_bytes")),), **shared)


def _rows(result: Result) -> Iterator[tuple[str, int]]:
    """Where each row of a result stands."""
    return (("results", index) for index in range(len(result.pick("results", kind=list))))


def _known(values: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((name, str(value)) for name, value in values.items() if value is not None)


# kind of result -> its reader.
READERS: dict[str, Callable[[Result, Source], Iterator[Measurement]]] = {
    "perplexity": _perplexity,
    "harness": _harness,
    "ruler": _ruler,
    "retrieval": _retrieval,
    "runtime": _runtime,
    "comparison": read_comparison,
    "images": read_images,
    "training": read_training,
}
