# SPDX-License-Identifier: Apache-2.0
"""A run on real digits that shows every hook within seconds."""

from __future__ import annotations

import itertools
from pathlib import Path

import torch

from hylora.training.checkpoint import checkpoint_steps, load_checkpoint
from hylora.training.recipe_loading import parse_overrides
from hylora.training.whole_run import run
from vision_extras.recipe import ImageRecipe
from vision_extras.run import make_task

# Four epochs on some 170 digits: images of 4 and 8 pixels first and of 8 in the end, a network that grows in width and
# depth before the third epoch, and pruning after it. Statistics are of each image alone, so that results do not depend
# on how images are spread over passes and processes.
TREE = {
    "task": "images",
    "images": {"name": "digits", "held_out": 0.9},
    "augment": {"shift": 1},
    "model": {"name": "resnet20", "norm": "group"},
    "sampler": {
        "name": "msc_vbswc",
        "smallest": 4,
        "largest": 8,
        "scales": 2,
        "multiple": 4,
        "start": 0.5,
        "until": 0.5,
    },
    "growth": {"width": 0.5, "depth": 0.4, "until": 0.5},
    "pruning": {"sparsity": 0.5, "at": 3},
    "optimizer": {"lr": 0.05, "schedule": {"name": "cosine", "warmup_steps": 2}},
    "training": {"epochs": 4, "global_batch_size": 64, "batch_size": 32, "mixed_precision": "float32"},
    "evaluation": {"at_end": False, "batch_size": 128},
    "tracking": {"progress": False},
}


_seeds = itertools.count()


def recipe(path: Path | str = "unused", **settings) -> ImageRecipe:
    """The recipe with some keys set: `recipe(folder, **{"training.epochs": 2})`."""
    return made(ImageRecipe, TREE, path, **settings)


def made(kind: type, tree: dict, path: Path | str = "unused", **settings):
    """A recipe of a kind from a tree of plain values, with some keys set."""
    tree = parse_overrides({**tree, "output": {"path": str(path), "checkpoint_every": 0, "keep_checkpoints": 99}}, [])
    for key, value in settings.items():
        *parents, last = key.split(".")
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = value
    return kind.from_tree(tree)


def train(folder: Path, prepare=lambda task: None, **settings):
    """Train an image classifier; gives what it came to and the model's state.

    Args:
        folder: of the run.
        prepare: what to do with the task before.
        **settings: of the recipe.
    """
    return trained(recipe(folder, **settings), make_task, prepare)


def trained(recipe, make_task, prepare=lambda task: None):
    """As `train`, by any recipe, with what makes its task."""
    tasks = []
    # A new process would not find the global generator where the run before left it.
    torch.manual_seed(next(_seeds))

    def make(recipe, accelerator):
        tasks.append(make_task(recipe, accelerator))
        prepare(tasks[0])
        return tasks[0]

    result = run(recipe, make)
    return result, {name: value.clone() for name, value in tasks[0].model.state_dict().items()}


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
