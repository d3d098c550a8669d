# SPDX-License-Identifier: Apache-2.0
"""What fine-tuning takes, before anyone rents a GPU."""

from hylora.lazy import lazy_exports

__all__ = ["Advice", "Hardware", "TrainingPlan", "TrainingSetup", "advise", "plan_training"]

_EXPORTS = {
    "Advice": "hylora.planning.advice",
    "Hardware": "hylora.planning.hardware",
    "TrainingPlan": "hylora.planning.planner",
    "TrainingSetup": "hylora.planning.planner",
    "advise": "hylora.planning.advice",
    "plan_training": "hylora.planning.planner",
}
__getattr__, __dir__ = lazy_exports(__name__, _EXPORTS)
