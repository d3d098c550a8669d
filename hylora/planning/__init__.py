# SPDX-License-Identifier: Apache-2.0
"""What fine-tuning takes, before anyone rents a GPU."""

from hylora.planning.advice import Advice, advise
from hylora.planning.hardware import Hardware
from hylora.planning.planner import TrainingPlan, TrainingSetup, plan_training

__all__ = ["Advice", "Hardware", "TrainingPlan", "TrainingSetup", "advise", "plan_training"]
