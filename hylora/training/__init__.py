# SPDX-License-Identifier: Apache-2.0
"""The loop: it trains any task as a typed recipe says."""

from hylora.lazy import lazy_exports

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

_EXPORTS = {
    "Batch": "hylora.training.feed",
    "CheckpointError": "hylora.training.checkpoint",
    "EvaluationRecipe": "hylora.training.recipe",
    "LoopRecipe": "hylora.training.recipe",
    "Method": "hylora.training.method",
    "Moment": "hylora.training.moment",
    "OptimizerRecipe": "hylora.training.recipe",
    "OutputRecipe": "hylora.training.recipe",
    "Recipe": "hylora.training.recipe",
    "RecipeError": "hylora.training.recipe_loading",
    "RowFeed": "hylora.training.feed",
    "RunResult": "hylora.training.whole_run",
    "ScheduleRecipe": "hylora.training.recipe",
    "StreamFeed": "hylora.training.feed",
    "Task": "hylora.training.task",
    "TaskKind": "hylora.training.tasks",
    "TrackingRecipe": "hylora.training.recipe",
    "TrainingError": "hylora.training.loop",
    "WindowSize": "hylora.training.feed",
    "decay_matrices": "hylora.training.optimizer",
    "run": "hylora.training.whole_run",
    "share_of": "hylora.training.processes",
}
__getattr__, __dir__ = lazy_exports(__name__, _EXPORTS)
