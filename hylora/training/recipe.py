# SPDX-License-Identifier: Apache-2.0
"""What every training run is made of, whatever it trains: the sections that the loop reads, typed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import Any, ClassVar, Literal, Self

from hylora.training import schedules
from hylora.training.fields import check_choice, check_range, expand_home, refuse_unread
from hylora.training.recipe_loading import RecipeError, build, parse_overrides, read_yaml, to_tree, write_yaml

__all__ = [
    "EvaluationRecipe",
    "LoopRecipe",
    "OptimizerRecipe",
    "OutputRecipe",
    "Recipe",
    "RecipeError",
    "ScheduleRecipe",
    "TrackingRecipe",
]

# The options that each schedule reads, in the order of its function's arguments.
_SCHEDULE_OPTIONS = {
    "constant": (),
    "linear": ("final",),
    "cosine": ("final",),
    "exponential": ("final",),
    "polynomial": ("final", "power"),
    "multi_step": ("milestones", "factor"),
    "piecewise": ("points",),
}


@dataclass(frozen=True, kw_only=True)
class ScheduleRecipe:
    """The learning rate over training, as a factor on `optimizer.lr`.

    Args:
        name: shape of the schedule after the warm-up.
        warmup_steps: updates over which the rate rises linearly.
        final: factor at the end, for linear, cosine, exponential (there it must be above 0) and polynomial.
        power: exponent of polynomial.
        milestones: points of progress in (0, 1) at which multi_step multiplies by `factor`.
        factor: see `milestones`.
        points: pairs of progress and factor, for piecewise.
    """

    name: Literal["constant", "linear", "cosine", "exponential", "polynomial", "multi_step", "piecewise"] = "constant"
    warmup_steps: int = 20
    final: float = 0.0
    power: float = 2.0
    milestones: tuple[float, ...] = ()
    factor: float = 0.1
    points: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        check_choice(self, "name")
        check_range(self, "warmup_steps", "final", "factor", least=0)
        if not all(0 <= factor < math.inf for _, factor in self.points):
            raise ValueError(f"points={self.points!r} must have factors that are finite and not negative")
        options = set().union(*_SCHEDULE_OPTIONS.values())
        refuse_unread(self, *options.difference(_SCHEDULE_OPTIONS[self.name]))
        self.build()

    def build(self) -> schedules.Schedule:
        """The schedule as a function of progress."""
        start = () if self.name == "piecewise" else (1.0,)
        options = [getattr(self, name) for name in _SCHEDULE_OPTIONS[self.name]]
        return getattr(schedules, self.name)(*start, *options)


@dataclass(frozen=True, kw_only=True)
class OptimizerRecipe:
    """How weights are updated.

    Args:
        name: the optimizer; `adamw_8bit` needs bitsandbytes and a GPU.
        lr: learning rate; null is the task's own (of language models 2e-4, and 2e-5 for `s2_attn`, as in the thesis).
        betas: of AdamW; the thesis gives none, these are LongLoRA's.
        eps: of AdamW.
        weight_decay: decoupled for AdamW.
        momentum: of sgd.
        max_grad_norm: gradients are clipped to this norm; null for no clipping.
        schedule: the rate over training.
    """

    name: Literal["adamw", "sgd", "adamw_8bit"] = "adamw"
    lr: float | None = None
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum: float = 0.0
    max_grad_norm: float | None = 1.0
    schedule: ScheduleRecipe = field(default_factory=ScheduleRecipe)

    def __post_init__(self) -> None:
        check_choice(self, "name")
        check_range(self, "lr", "eps", "max_grad_norm", above=0)
        check_range(self, "betas", least=0, below=1)
        check_range(self, "weight_decay", "momentum", least=0)
        refuse_unread(self, *(("betas", "eps") if self.name == "sgd" else ("momentum",)))


@dataclass(frozen=True, kw_only=True)
class LoopRecipe:
    """The part of training that knows no task.

    Args:
        steps: updates of the weights.
        global_batch_size: rows per update, over all processes and accumulated micro-batches.
        batch_size: rows per process and forward pass; how many are accumulated follows.
        workers: processes that make batches ahead of the training process; 0 makes them in it, null is 2 beside a GPU
            and 0 on a CPU.
        seed: of weights, data order, and whatever else is random.
        mixed_precision: `auto` is bf16 on GPUs that have it and float32 elsewhere.
        resume: continue from the latest complete checkpoint in `output.path`; start where there is none.
    """

    steps: int = 1000
    global_batch_size: int = 64
    batch_size: int = 1
    workers: int | None = None
    seed: int = 0
    mixed_precision: Literal["auto", "bf16", "float32"] = "auto"
    resume: bool = False

    def __post_init__(self) -> None:
        check_choice(self, "mixed_precision")
        check_range(self, "steps", "global_batch_size", "batch_size", least=1)
        check_range(self, "seed", "workers", least=0)
        if self.global_batch_size % self.batch_size:
            raise ValueError(
                f"global_batch_size={self.global_batch_size} must be a multiple of batch_size={self.batch_size}"
            )


@dataclass(frozen=True, kw_only=True)
class EvaluationRecipe:
    """Evaluation on the held-out split during training.

    Args:
        every: updates between evaluations; 0 for none in between.
        at_start: evaluate before the first update as well, for the end of training to show beside what came of it.
        at_end: evaluate when training ends.
        batch_size: rows per process and forward pass.
    """

    every: int = 0
    at_start: bool = False
    at_end: bool = True
    batch_size: int = 1

    def __post_init__(self) -> None:
        check_range(self, "every", least=0)
        check_range(self, "batch_size", least=1)


@dataclass(frozen=True, kw_only=True)
class TrackingRecipe:
    """Where progress is shown. `metrics.jsonl` in the output folder is always written.

    Args:
        trackers: experiment trackers, through accelerate.
        project: the trackers' project.
        every: updates between records; those in which something was measured that seldom is are always on record.
        progress: show a progress bar where there is a terminal.
    """

    trackers: tuple[Literal["tensorboard", "trackio", "wandb"], ...] = ()
    project: str = "hylora"
    every: int = 1
    progress: bool = True

    def __post_init__(self) -> None:
        check_range(self, "every", least=1)


@dataclass(frozen=True, kw_only=True)
class OutputRecipe:
    """What is written.

    Args:
        path: folder of the run; one folder, one run.
        overwrite: replace a run that the folder holds.
        checkpoint_every: updates between checkpoints; 0 for none in between (a stopped run still saves one).
        keep_checkpoints: how many of the latest are kept.
    """

    path: str
    overwrite: bool = False
    checkpoint_every: int = 100
    keep_checkpoints: int = 2

    def __post_init__(self) -> None:
        expand_home(self, "path")
        check_range(self, "checkpoint_every", least=0)
        check_range(self, "keep_checkpoints", least=1)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training run, without what it trains: a task adds its sections, and may widen these.

    Args:
        task: name of what is trained; see `hylora.training.tasks`.
        optimizer: how weights are updated.
        training: the loop.
        evaluation: evaluation on held-out data during training.
        tracking: where progress is shown.
        output: what is written.

    Raises:
        RecipeError: if sections contradict each other.
    """

    # Keys that change nothing beyond rounding and what dropout draws, so that a resumed run may change them.
    FREE_ON_RESUME: ClassVar[tuple[str, ...]] = (
        "output.",
        "tracking.",
        "evaluation.",
        "training.resume",
        "training.batch_size",
        "training.workers",
    )

    task: str
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    training: LoopRecipe = field(default_factory=LoopRecipe)
    evaluation: EvaluationRecipe = field(default_factory=EvaluationRecipe)
    tracking: TrackingRecipe = field(default_factory=TrackingRecipe)
    output: OutputRecipe

    def inputs(self) -> dict[str, str]:
        """Folders or hub ids that the run starts from and must not write over, by the key that names them."""
        return {}

    def depends_on_steps(self) -> bool:
        """Whether an update depends on how many there will be, so that a resumed run may not change that."""
        return True

    @classmethod
    def load(cls, path: str | PathLike, overrides: Sequence[str] = ()) -> Self:
        """Read a YAML recipe and set `section.key=value` overrides.

        Raises:
            RecipeError: naming the key, the value, what is expected and the nearest valid key.
        """
        return cls.from_tree(parse_overrides(read_yaml(path), overrides))

    @classmethod
    def from_tree(cls, tree: dict[str, Any]) -> Self:
        """A recipe from nested plain values, such as YAML gives.

        Raises:
            RecipeError: as for `load`.
        """
        return build(cls, tree)

    def to_tree(self) -> dict[str, Any]:
        """The whole recipe as nested plain values, defaults included."""
        return to_tree(self)

    def save(self, path: str | PathLike) -> None:
        """Write the whole recipe as YAML, defaults included."""
        write_yaml(self.to_tree(), path)
