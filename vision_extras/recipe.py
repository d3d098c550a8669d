# SPDX-License-Identifier: Apache-2.0
"""The recipe of an image classifier's run. Each section stands beside what it is for."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from hylora.training.fields import check_range
from hylora.training.recipe import EvaluationRecipe, LoopRecipe, OptimizerRecipe, Recipe, RecipeError, ScheduleRecipe
from vision_extras.averaging import AverageRecipe
from vision_extras.curricula import GrowthRecipe, SamplerRecipe
from vision_extras.images import SOURCES, AugmentRecipe, ImagesRecipe
from vision_extras.models import ModelRecipe, learned_images
from vision_extras.models.resnet_config import RESNETS
from vision_extras.pruning import PruningRecipe, SignalsRecipe
from vision_extras.sharpness import SharpnessRecipe
from vision_extras.sparse import CramRecipe, OneShotRecipe, SparseRecipe
from vision_extras.sparse.phases import plan_phases
from vision_extras.subspaces import SubspaceRecipe
from vision_extras.transfer.upstream import shown_to_run

__all__ = ["EpochRecipe", "EpochScheduleRecipe", "ImageEvaluationRecipe", "ImageOptimizerRecipe", "ImageRecipe"]


@dataclass(frozen=True, kw_only=True)
class EpochRecipe(LoopRecipe):
    """The loop, in epochs.

    Args:
        epochs: how often each image is seen.
        steps: follows from the epochs and the sampler; leave it out.
        global_batch_size: images of the reference batch, over all processes.
        batch_size: images of the reference batch in a process's forward pass.
    """

    epochs: int = 10
    steps: None = None
    global_batch_size: int = 128
    batch_size: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "epochs", least=1)


@dataclass(frozen=True, kw_only=True)
class EpochScheduleRecipe(ScheduleRecipe):
    """The learning rate over training, with a warm-up in epochs.

    Args:
        warmup_steps: follows from the epochs; leave it out.
        warmup_epochs: epochs over which the rate rises linearly, as a factor on the schedule.
    """

    name: Literal["constant", "linear", "cosine", "exponential", "polynomial", "multi_step", "piecewise"] = "cosine"
    warmup_steps: Literal[0] = 0
    warmup_epochs: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "warmup_epochs", least=0)


@dataclass(frozen=True, kw_only=True)
class ImageOptimizerRecipe(OptimizerRecipe):
    """How weights are updated; the defaults are the thesis's (section 2.5.1), with the cosine of chapter 4.

    Args:
        name: the optimizer.
        lr: learning rate; null is 0.1 for sgd and 1e-3 for AdamW.
        weight_decay: decoupled for AdamW; norms and biases are spared.
        momentum: of sgd.
        max_grad_norm: gradients are clipped to this norm; null for no clipping.
        schedule: the rate over training.
    """

    name: Literal["adamw", "sgd", "adamw_8bit"] = "sgd"
    weight_decay: float = 5e-4
    momentum: float = 0.9
    max_grad_norm: float | None = None
    schedule: ScheduleRecipe = field(default_factory=lambda: ScheduleRecipe(name="cosine", warmup_steps=0))


@dataclass(frozen=True, kw_only=True)
class ImageEvaluationRecipe(EvaluationRecipe):
    """Evaluation on the held-out images during training.

    Args:
        every: epochs between evaluations; 0 for none in between.
        at_end: evaluate when training ends.
        batch_size: images per process and forward pass.
        sides: heights and widths, in pixels, at which accuracy is measured when training ends.
    """

    batch_size: int = 250
    sides: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "sides", least=1)


@dataclass(frozen=True, kw_only=True)
class ImageRecipe(Recipe):
    """An image classifier's run.

    Args:
        task: `images`.
        images: what is learned from.
        augment: how images are changed at random.
        model: the network.
        sampler: resolutions and batch sizes over training.
        growth: the network's width and depth over training.
        pruning: which weights are taken away, and when.
        signals: what is measured for that.
        sharpness: where gradients are taken.
        average: the moving average of the weights.
        subspace: which levels of compression the network is trained for.
        sparse: phases in which weights are gone.
        cram: updates that are aware of a compression to come.
        one_shot: compressions that the trained network is measured at.

    Raises:
        RecipeError: if sections contradict each other.
    """

    task: Literal["images"]
    images: ImagesRecipe
    augment: AugmentRecipe = field(default_factory=AugmentRecipe)
    model: ModelRecipe = field(default_factory=ModelRecipe)
    sampler: SamplerRecipe = field(default_factory=SamplerRecipe)
    growth: GrowthRecipe = field(default_factory=GrowthRecipe)
    pruning: PruningRecipe = field(default_factory=PruningRecipe)
    signals: SignalsRecipe = field(default_factory=SignalsRecipe)
    sharpness: SharpnessRecipe = field(default_factory=SharpnessRecipe)
    average: AverageRecipe = field(default_factory=AverageRecipe)
    subspace: SubspaceRecipe = field(default_factory=SubspaceRecipe)
    sparse: SparseRecipe = field(default_factory=SparseRecipe)
    cram: CramRecipe = field(default_factory=CramRecipe)
    one_shot: OneShotRecipe = field(default_factory=OneShotRecipe)
    optimizer: ImageOptimizerRecipe = field(default_factory=ImageOptimizerRecipe)
    training: EpochRecipe = field(default_factory=EpochRecipe)
    evaluation: ImageEvaluationRecipe = field(default_factory=ImageEvaluationRecipe)

    def __post_init__(self) -> None:
        if self.optimizer.lr is None:
            lr = 0.1 if self.optimizer.name == "sgd" else 1e-3
            object.__setattr__(self, "optimizer", dataclasses.replace(self.optimizer, lr=lr))
        if self.model.path is not None:
            self._show_what_was_learned_from()
        if self.sampler.side is None:
            side = SOURCES[self.images.name].side
            if side is None:
                raise RecipeError(
                    f"sampler.side=None must be given: images of images.name={self.images.name!r} have no size of "
                    "their own"
                )
            object.__setattr__(self, "sampler", dataclasses.replace(self.sampler, side=side))
        if self.evaluation.every and not self.images.holds_out:
            raise RecipeError(
                f"evaluation.every={self.evaluation.every} has nothing to evaluate on; set images.held_out to a share "
                "such as 0.2"
            )
        if self.growth.grows and self.model.name not in RESNETS:
            raise RecipeError(
                f"growth.width={self.growth.width} and growth.depth={self.growth.depth} need a network that can grow, "
                f"which model.name={self.model.name!r} cannot; use one of {', '.join(RESNETS)}"
            )
        self._check_pruning()
        self._check_subspace()
        self._check_frozen()
        if self.one_shot.levels and not (self.evaluation.at_end and self.images.holds_out):
            raise RecipeError(
                f"one_shot.levels={[*self.one_shot.levels]} is measured on held-out images when training ends; set "
                "evaluation.at_end to true and images.held_out to a share such as 0.2"
            )
        self._check_sparse()
        self._check_cram()

    def inputs(self) -> dict[str, str]:
        return {} if self.model.path is None else {"model.path": self.model.path}

    def _show_what_was_learned_from(self) -> None:
        """Give a pretrained network images as it learned from, where the recipe leaves it open."""
        if all(getattr(self.images, name) is not None for name in ("channels", "mean", "std")):
            return
        try:
            learned = (shown_to_run if self.model.name == "run" else learned_images)(self.model.path)
        except ValueError as error:
            raise RecipeError(f"model.{error}") from error
        channels = learned.get("channels")
        if channels is not None and self.images.channels not in (None, channels):
            raise RecipeError(
                f"images.channels={self.images.channels} is not what the network of model.path={self.model.path!r} "
                f"has learned from, which is {channels}; leave it out, and images are converted"
            )
        left_open = {name: value for name, value in learned.items() if getattr(self.images, name) is None}
        object.__setattr__(self, "images", dataclasses.replace(self.images, **left_open))

    def _check_pruning(self) -> None:
        pruning, signals, epochs = self.pruning, self.signals, self.training.epochs
        if not pruning.sparsity:
            return
        if pruning.at == "detect":
            if not getattr(signals, pruning.detector.signal):
                how = "true" if pruning.detector.signal == "kl_uniform" else "a number of images such as 256"
                raise RecipeError(
                    f"pruning.at='detect' watches {pruning.detector.signal}, which is not measured; set "
                    f"signals.{pruning.detector.signal} to {how}"
                )
        elif pruning.at > epochs:
            raise RecipeError(
                f"pruning.at={pruning.at} is after the last of training.epochs={epochs}; choose an epoch up to that"
            )
        else:
            self._check_pruned_whole()
        if pruning.criterion == "fisher" and not signals.fisher:
            raise RecipeError(
                "pruning.criterion='fisher' needs images to measure on; set signals.fisher to a number of them such "
                "as 256"
            )

    def _check_subspace(self) -> None:
        """A subspace has its own ways to leave weights away."""
        if self.subspace.kind != "none":
            others = "growth.width", "growth.depth", "pruning.sparsity", "signals.fisher", "one_shot.levels"
            self._refuse_beside("subspace.kind", *others)

    def _check_frozen(self) -> None:
        """Nothing takes weights from a network that stays as it is."""
        if self.model.train == "head":
            others = "pruning.sparsity", "signals.fisher", "signals.kl_uniform", "subspace.kind"
            self._refuse_beside("model.train", *others, "sparse.schedule", "cram.update")

    def _check_sparse(self) -> None:
        """Phases fit into the run, and nothing else leaves weights away or changes how many there are."""
        if self.sparse.schedule == "none":
            return
        self._refuse_beside("sparse.schedule", "growth.width", "growth.depth", "pruning.sparsity", "subspace.kind")
        try:
            plan_phases(self.sparse, self.training.epochs)
        except ValueError as error:
            raise RecipeError(f"sparse.{error}") from error

    def _check_cram(self) -> None:
        """Nothing else takes gradients elsewhere, or compresses in passes."""
        if self.cram.update != "none":
            self._refuse_beside("cram.update", "sharpness.radius", "subspace.kind")

    def _refuse_beside(self, key: str, *others: str) -> None:
        """Refuse what is not at its default beside a setting, all by their full keys."""
        for other in others:
            value, section = self._value(other), getattr(self, other.partition(".")[0])
            if value != getattr(type(section)(), other.partition(".")[2]):
                raise RecipeError(
                    f"{key}={self._value(key)!r} and {other}={value!r} cannot be had together; leave one out"
                )

    def _value(self, key: str) -> Any:
        section, _, name = key.partition(".")
        return getattr(getattr(self, section), name)

    def _check_pruned_whole(self) -> None:
        """Weights go when an epoch ends, and come when one begins."""
        at, epochs = self.pruning.at, self.training.epochs
        possible = [n for n in range(epochs + 1) if self.growth.network_at(self.model, n - 1, epochs) == self.model]
        if at not in possible:
            remedy = f"choose {possible[0]} or later, or lower growth.until" if possible else "lower growth.until"
            raise RecipeError(
                f"pruning.at={at} is before the end of an epoch with the whole network, and what grows later would "
                f"stay; {remedy}"
            )
