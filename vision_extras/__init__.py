# SPDX-License-Identifier: Apache-2.0
"""Vision models on the same loop as the language models.

What a run schedules (resolution, batch size, depth, sparsity) is a pure function of training progress, so that a
resumed run and every process agree on it by construction. `recipe` has a run's settings, and `run` trains.
"""

__all__ = ["curricula", "images", "metrics", "models", "pruning", "recipe", "run", "task"]
