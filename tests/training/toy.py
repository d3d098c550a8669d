# SPDX-License-Identifier: Apache-2.0
"""A task that is not language: regression with dropout, trained in milliseconds."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from hylora.training.checkpoint import latest_checkpoint, load_checkpoint
from hylora.training.feed import RowFeed, WindowSize
from hylora.training.loop import Trainer
from hylora.training.parallelism import build_accelerator
from hylora.training.recipe import (
    EvaluationRecipe,
    LoopRecipe,
    OptimizerRecipe,
    OutputRecipe,
    Recipe,
    ScheduleRecipe,
    TrackingRecipe,
)
from hylora.training.run_folder import RunFolder
from hylora.training.task import Task
from hylora.training.whole_run import run as run_recipe


class Regression(nn.Module):
    """Summed squared error of a small network with dropout and batch statistics."""

    def __init__(self, dropout=0.2):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 1))
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x, y, weight):
        if self.training:
            self.seen += len(x)
        error = (self.layers(x * self.frozen)[:, 0] - y) ** 2
        return (error * weight).sum(), weight.sum()


class ToyTask(Task):
    """Rows of (x, y, weight); the weights are the terms that a row counts for, some of them none."""

    last_file = "toy.json"

    def __init__(self, rows=10, dropout=0.2, batch_size=2):
        self.model = Regression(dropout)
        draw = torch.Generator().manual_seed(1)
        x = torch.randn(rows, 3, generator=draw)
        self.rows = [{"x": x[i], "y": x[i].sum().sin(), "weight": torch.tensor(float(i % 3))} for i in range(rows)]
        self.feed = RowFeed(self.rows, self.collate, WindowSize(4, batch_size))
        self.evaluations = 0

    def collate(self, rows, generators=None, shape=None):
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    def count(self, batch):
        return int(batch["weight"].sum())

    def evaluate(self, model, accelerator, check_stop):
        # Draws numbers, as a task may.
        torch.rand(7)
        self.evaluations += 1
        check_stop()
        with torch.no_grad():
            loss_sum, count = model(**self.collate(self.rows))
        return {"loss": float(loss_sum / count)}

    def identity(self):
        return {"rows": len(self.rows)}

    def save(self, folder, state):
        save_file(state_of(self), folder / "model.safetensors")
        (folder / self.last_file).write_text("{}")


def make_recipe(
    folder: Path,
    steps: int = 6,
    batch_size: int = 2,
    checkpoint_every: int = 2,
    evaluate_every: int = 0,
    record_every: int = 1,
    max_grad_norm: float | None = 1.0,
    optimizer: str = "adamw",
    overwrite: bool = False,
    **loop,
) -> Recipe:
    """A recipe of the toy task in `folder`."""
    return Recipe(
        task="toy",
        training=LoopRecipe(**{"steps": steps, "global_batch_size": 4, "batch_size": batch_size, **loop}),
        optimizer=OptimizerRecipe(
            name=optimizer,
            lr=0.05,
            momentum=0.9 if optimizer == "sgd" else 0.0,
            max_grad_norm=max_grad_norm,
            schedule=ScheduleRecipe(name="cosine", warmup_steps=2),
        ),
        evaluation=EvaluationRecipe(every=evaluate_every, at_end=False),
        tracking=TrackingRecipe(every=record_every, progress=False),
        output=OutputRecipe(
            path=str(folder), checkpoint_every=checkpoint_every, keep_checkpoints=20, overwrite=overwrite
        ),
    )


def make_trainer(folder: Path, task: Task | None = None, **options):
    """A trainer of the toy task in `folder`."""
    recipe = make_recipe(folder, **options)
    folder.mkdir(exist_ok=True)
    run_folder = RunFolder(folder)
    task = task or ToyTask(batch_size=recipe.training.batch_size)
    return Trainer(task, build_accelerator(recipe.training, recipe.tracking, run_folder.logs), run_folder, recipe)


def run(folder: Path, task: Task | None = None, resume: bool = False, **options):
    """Train the toy task, without a run around it; gives the outcome and the model's state."""
    # Another process would find torch's generator anywhere; nothing may depend on where this one left it.
    torch.seed()
    task = task or ToyTask(batch_size=options.get("batch_size", 2))
    trainer = make_trainer(folder, task, **options)
    path = latest_checkpoint(RunFolder(folder).checkpoints) if resume else None
    outcome = trainer.run(None if path is None else load_checkpoint(path))
    return outcome, state_of(task)


def whole_run(folder: Path, task: Task | None = None, **options):
    """A run from its recipe to its results; gives how it ended."""
    torch.seed()
    return run_recipe(make_recipe(folder, **options), lambda recipe, accelerator: task or ToyTask())


def state_of(task: Task):
    return {name: value.clone() for name, value in task.model.state_dict().items()}


def results_of(folder: Path):
    """The weights that a finished run wrote."""
    assert (folder / ToyTask.last_file).is_file()
    return load_file(folder / "model.safetensors")
