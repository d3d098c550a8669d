# SPDX-License-Identifier: Apache-2.0
"""How a model did: what result files hold of each task and length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hylora_eval.fingerprints import text_sha256
from hylora_eval.ruler.records import Record
from hylora_eval.ruler.scoring import Score, group_scores, score_samples, score_task

__all__ = ["LengthResult", "TaskResult"]


@dataclass(frozen=True)
class TaskResult:
    """How a model did on one task.

    Attributes:
        score: mean score, its standard error, samples and empty predictions.
        shortest: tokens of the shortest sample, its answer's room included.
        longest: of the longest.
        prompts_sha256: over the hashes of all prompts: equal where two evaluations asked the same.
        seconds: spent answering, over all runs that took part; None where that is not known.
        haystack: name of the prose around needles; None where there is none.
        sentences: how it was split.
        scores: of each sample, from 0 to 100, in their order.
        depths: for each sample where each piece of evidence begins, in per cent of the input; None for tasks whose
            answers are all over the text, and for records that another program wrote.
    """

    score: Score
    shortest: int
    longest: int
    prompts_sha256: str
    seconds: float | None
    haystack: str | None
    sentences: str | None
    scores: list[float]
    depths: list[list[float]] | None

    @classmethod
    def of(cls, records: Sequence[Record], predictions: Sequence[str], seconds: float | None = None) -> TaskResult:
        """Score what was predicted for the samples of one task.

        Args:
            records: the samples.
            predictions: what was generated for each.
            seconds: that it took.

        Raises:
            ValueError: as `score_samples`.
        """
        first, outputs = records[0], [record.outputs for record in records]
        return cls(
            score=score_task(first.task, predictions, outputs),
            shortest=min(record.length for record in records),
            longest=max(record.length for record in records),
            prompts_sha256=text_sha256("".join(record.prompt_sha256 for record in records)),
            seconds=None if seconds is None else round(seconds, 3),
            haystack=first.haystack,
            sentences=first.sentences,
            scores=score_samples(first.task, predictions, outputs),
            depths=[_per_cent(record.depths) for record in records] if first.evidence else None,
        )


@dataclass(frozen=True)
class LengthResult:
    """How a model did at one length.

    Attributes:
        length: tokens asked for.
        tasks: result of each task.
        batch_size: prompts that were answered at once; None where that is not known.
    """

    length: int
    tasks: Mapping[str, TaskResult]
    batch_size: int | None = None

    @property
    def averages(self) -> dict[str, Score]:
        """The averages of chapter 6 for which all tasks are there (see `group_scores`)."""
        return group_scores({name: result.score for name, result in self.tasks.items()})

    def task_rows(self) -> list[dict[str, Any]]:
        """A row of plain JSON types for each task: its name, the length, and the fields of its score and result."""
        rows = []
        for name, result in self.tasks.items():
            values = asdict(result)
            rows.append({"task": name, "length": self.length, **values.pop("score"), **values})
        return rows

    def average_rows(self) -> list[dict[str, Any]]:
        """The same for each average, with its name as "group"."""
        return [{"group": name, "length": self.length, **asdict(score)} for name, score in self.averages.items()]


def _per_cent(depths: Sequence[float]) -> list[float]:
    return [round(100 * depth, 2) for depth in depths]
