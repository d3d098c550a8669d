# SPDX-License-Identifier: Apache-2.0
"""The loop: it trains any task as a typed recipe says."""

from hylora.training.checkpoint import CheckpointError
from hylora.training.feed import Batch, RowFeed, StreamFeed, WindowSize
from hylora.training.loop import TrainingError
from hylora.training.method import Method
from hylora.training.moment import Moment
from hylora.training.optimizer import decay_matrices
from hylora.training.processes import share_of
from hylora.training.recipe import (
    EvaluationRecipe,
    LoopRecipe,
    OptimizerRecipe,
    OutputRecipe,
    Recipe,
    RecipeError,
    ScheduleRecipe,
    TrackingRecipe,
)
from hylora.training.run import RunResult, run
from hylora.training.task import Task
from hylora.training.tasks import TaskKind

__all__ = [
    "Batch",
    "CheckpointError",
    "EvaluationRecipe",
    "LoopRecipe",
    "Method",
    "Moment",
    "OptimizerRecipe",
    "OutputRecipe",
    "Recipe",
    "RecipeError",
    "RowFeed",
    "RunResult",
    "ScheduleRecipe",
    "StreamFeed",
    "Task",
    "TaskKind",
    "TrackingRecipe",
    "TrainingError",
    "WindowSize",
    "decay_matrices",
    "run",
    "share_of",
]
