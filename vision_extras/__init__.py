# SPDX-License-Identifier: Apache-2.0
"""Vision models on the same loop as the language models.

What a run schedules (resolution, batch size, depth, sparsity) is a pure function of training progress, so that a
resumed run and every process agree on it by construction. `run` trains, as a recipe of `recipe` says.
"""
