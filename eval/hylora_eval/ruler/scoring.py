# SPDX-License-Identifier: Apache-2.0
"""Scores: the official metrics, their standard errors, and the averages of chapter 6 (section 6.6.3.4)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from hylora_eval.estimates import complete_groups, mean_of_estimates, percent_interval
from hylora_eval.ruler.tasks import AVERAGES, TASKS

__all__ = ["Score", "clean_prediction", "group_scores", "score_prediction", "score_samples", "score_task"]

_CONTROL = re.compile(r"[\x00-\x1f]")


@dataclass(frozen=True)
class Score:
    """A mean score in per cent.

    Attributes:
        score: from 0 to 100.
        standard_error: of the mean over samples; of an average of tasks, from those of its tasks. None where a task
            has a single sample.
        samples: how many it is from.
        empty: predictions with nothing in them.
    """

    score: float
    standard_error: float | None
    samples: int
    empty: int

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval, in per cent: that of right or wrong samples, and so wide enough for partial scores
        and for averages of tasks, whose samples it counts together."""
        return percent_interval(self.score, self.samples)


def clean_prediction(text: str) -> str:
    """A prediction as it is scored: control characters become line breaks, white space around it goes."""
    return _CONTROL.sub("\n", text.strip()).strip()


def score_prediction(task: str, prediction: str, outputs: Sequence[str]) -> float:
    """The official score of one prediction, from 0 to 1.

    An expected answer counts where it occurs anywhere in the prediction, in either case, also within a longer word.

    Args:
        task: name of the task; its metric is the share of the answers that occur, or for question answering whether
            any of them does.
        prediction: what was generated.
        outputs: the expected answers.
    """
    text = clean_prediction(prediction).lower()
    found = [output.lower() in text for output in outputs]
    return float(any(found)) if TASKS[task].metric == "part" else sum(found) / len(found)


def score_samples(task: str, predictions: Sequence[str], outputs: Sequence[Sequence[str]]) -> list[float]:
    """The score of each sample, from 0 to 100.

    Args:
        task: name of the task.
        predictions: what was generated for each sample.
        outputs: the expected answers of each.

    Raises:
        ValueError: if there is nothing to score, or not one prediction for each sample.
    """
    if len(predictions) != len(outputs) or not predictions:
        raise ValueError(
            f"{len(predictions)} predictions for {len(outputs)} samples of {task}; one for each is needed"
        )
    return [100 * score_prediction(task, text, answers) for text, answers in zip(predictions, outputs, strict=True)]


def score_task(task: str, predictions: Sequence[str], outputs: Sequence[Sequence[str]]) -> Score:
    """Mean score of a task.

    Args:
        task, predictions, outputs: as for `score_samples`.

    Raises:
        ValueError: as `score_samples`.
    """
    scores = score_samples(task, predictions, outputs)
    return Score(
        score=fmean(scores),
        standard_error=stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 else None,
        samples=len(scores),
        empty=sum(not clean_prediction(text) for text in predictions),
    )


def group_scores(tasks: Mapping[str, Score]) -> dict[str, Score]:
    """The averages of chapter 6.

    Args:
        tasks: score of each task.

    Returns:
        NIAH-S, NIAH-M, NIAH-M-QV, VT and CF-WE, each the plain mean of its tasks, and Average, the mean of all eleven
        tasks (not of the groups). What lacks a task is left out.
    """
    return {name: _mean(scores) for name, scores in complete_groups(AVERAGES, tasks).items()}


def _mean(scores: Sequence[Score]) -> Score:
    return Score(
        *mean_of_estimates([score.score for score in scores], [score.standard_error for score in scores]),
        samples=sum(score.samples for score in scores),
        empty=sum(score.empty for score in scores),
    )
