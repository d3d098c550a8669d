# SPDX-License-Identifier: Apache-2.0
"""A run on real digits that shows every hook within seconds."""

from __future__ import annotations

import itertools
from pathlib import Path

import torch

from hylora.training.checkpoint import checkpoint_steps, load_checkpoint
from hylora.training.recipe_loading import parse_overrides
from hylora.training.run import run
from vision_extras.recipe import ImageRecipe
from vision_extras.run import make_task

# Eight updates of two passes each. The resolution rises in the first four (32, 14, 8 and 8 images), pruning begins
# after the second, and the network grows before the fifth.
TREE = {
    "task": "images",
    "images": {"name": "digits", "held_out": 0.1},
    "model": {"width": 8, "blocks": 1},
    "resolution": {"start": 4, "final": 8, "until": 0.5},
    "growth": {"at": [0.5]},
    "pruning": {"sparsity": 0.5, "begin": 0.25, "end": 0.75},
    "optimizer": {
        "name": "sgd",
        "lr": 0.1,
        "momentum": 0.9,
        "weight_decay": 0.05,
        "schedule": {"name": "cosine", "warmup_steps": 2},
    },
    "training": {"steps": 8, "global_batch_size": 8, "batch_size": 4, "mixed_precision": "float32"},
    "evaluation": {"at_end": False, "batch_size": 128},
    "tracking": {"progress": False},
}


_seeds = itertools.count()


def recipe(path: Path | str = "unused", **settings) -> ImageRecipe:
    """The recipe with some keys set: `recipe(folder, **{"training.steps": 2})`."""
    tree = parse_overrides({**TREE, "output": {"path": str(path), "checkpoint_every": 0, "keep_checkpoints": 99}}, [])
    for key, value in settings.items():
        *parents, last = key.split(".")
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = value
    return ImageRecipe.from_tree(tree)


def train(folder: Path, prepare=lambda task: None, **settings):
    """Train; gives what it came to and the model's state.

    Args:
        folder: of the run.
        prepare: what to do with the task before.
        **settings: of the recipe.
    """
    made = []
    # A new process would not find the global generator where the run before left it.
    torch.manual_seed(next(_seeds))

    def make(recipe, accelerator):
        made.append(make_task(recipe, accelerator))
        prepare(made[0])
        return made[0]

    result = run(recipe(folder, **settings), make)
    return result, {name: value.clone() for name, value in made[0].model.state_dict().items()}


def before_pass(number: int, action):
    """What makes something happen before the n-th forward pass of training, from 1."""

    def prepare(task):
        seen = []

        def count(module, inputs):
            seen.append(module.training)
            if module.training and sum(seen) == number:
                action()

        task.model.register_forward_pre_hook(count)

    return prepare


def checkpoints(folder: Path) -> dict:
    """Every checkpoint of a run by its step."""
    folder = folder / "checkpoints"
    return {step: load_checkpoint(folder / f"step-{step:06d}") for step in checkpoint_steps(folder)}
