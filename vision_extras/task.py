# SPDX-License-Identifier: Apache-2.0
"""Classifying images as a task of the loop."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from hylora.randomness import generator
from hylora.training.feed import Batch, Share
from hylora.training.method import Method
from hylora.training.moment import Moment
from hylora.training.processes import sum_over_processes
from vision_extras.averaging import WeightAverage
from vision_extras.copies import WeightCopies, learned, write_copies
from vision_extras.curricula import Growth
from vision_extras.images import IGNORED, Split
from vision_extras.masks import Masks, prunable
from vision_extras.metrics import ImageEvaluation, find_head
from vision_extras.metrics.flops import inference_flops, on_meta
from vision_extras.models import save_network
from vision_extras.planned import ResizedTask
from vision_extras.planning import epoch_flops, image_flops
from vision_extras.pruning import FisherTrace, KLUniform, Pruning, Signal, criteria
from vision_extras.recipe import ImageRecipe
from vision_extras.sharpness import Sharpness
from vision_extras.sparse.cram import CompressionAware
from vision_extras.sparse.one_shot import Calibration, one_shot
from vision_extras.sparse.operations import Forward, Operations
from vision_extras.sparse.phased import Phased
from vision_extras.sparse.phases import plan_phases
from vision_extras.subspaces import CompressibleSubspace, Curriculum, SubspaceTraining
from vision_extras.subspaces.costs import costs
from vision_extras.subspaces.curve import curve, measured_levels, standing
from vision_extras.subspaces.drift import batch_norm_drift
from vision_extras.transfer.frozen import FeatureSplit, stacked
from vision_extras.transfer.products import SparseProducts

__all__ = ["Classification", "ImageTask", "Loss"]

# Images on which the statistics of batch norms are taken anew.
_CALIBRATION = 1000

# From logits and labels to the loss of each image.
Loss = Callable[[Tensor, Tensor], Tensor]


class Classification(nn.Module):
    """A network whose forward pass gives its loss, with the masks and the copies of its weights.

    Args:
        network: from images to logits.
        loss: from logits [B, classes] and labels to the loss of each image, [B]; None for cross entropy.
        label_smoothing: which share of each label is spread over all classes in training, by cross entropy.
        frozen: how passes in training are made where the network's classifier alone is trained: it then is always in
            evaluation mode. None trains all of it.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Loss | None = None,
        label_smoothing: float = 0.0,
        frozen: SparseProducts | None = None,
    ) -> None:
        super().__init__()
        self._frozen = frozen
        self.network = network
        self.loss = loss or partial(F.cross_entropy, reduction="none", label_smoothing=label_smoothing)
        self.masks = Masks()
        self.averages = WeightCopies()
        self.dense = WeightCopies()
        self.level_masks = nn.ModuleDict()
        self.train()

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self._frozen is not None:
            self.network.eval()
        return self

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor] | Tensor:
        """Summed loss and count of a batch; in evaluation its logits, [B, classes].

        Args:
            images: [B, C, H, W]; or what the network's classifier is given for them, [B, D].
            labels: [B], of which -100 is ignored; or [B, classes] in float32, the share of each.
        """
        logits = self._logits(images)
        if not self.training:
            return logits
        soft = labels.ndim > 1
        counted = torch.ones_like(labels[:, 0]) if soft else labels != IGNORED
        losses = self.loss(logits.float(), labels if soft else labels.clamp(min=0))
        return (losses * counted).sum(), counted.sum()

    def _logits(self, images: Tensor) -> Tensor:
        if images.ndim == 2:
            return find_head(self.network)(images)
        with nullcontext() if self._frozen is None or not self.training else self._frozen.applied():
            return self.network(images)


class ImageTask(ResizedTask):
    """Classification, with the methods that a recipe asks for.

    Args:
        model: the network with its loss.
        split: images to train on and to evaluate on.
        recipe: of the run.
        share: this process's share of each update.
        features: of the images, which are then looked at once; None looks at the images in every pass.
    """

    unit = "images"

    def __init__(
        self,
        model: Classification,
        split: Split,
        recipe: ImageRecipe,
        share: Share | None = None,
        features: FeatureSplit | None = None,
    ) -> None:
        self._collate = split.augmented(recipe.augment)
        seen = (split.train, self._collate) if features is None else (features.train, stacked)
        super().__init__(model, *seen, recipe, share or Share())
        self._split = split
        self._features = features
        self._bytes: int | None = None
        self._cost = image_flops(recipe, model.network, split.channels)
        # Before whatever keeps something for each parameter.
        if recipe.growth.grows:
            self.methods.append(Growth(model.network, recipe.model, recipe.growth, self.plan, recipe.training.epochs))
        self.methods += self._pruning()
        self._phased: Phased | None = None
        self._operations: Operations | None = None
        if recipe.sparse.schedule != "none":
            self._phased = self._in_phases()
            self.methods.append(self._phased)
            if (forward := self._forward_flops()) is not None:
                self._operations = Operations(model.network, self._phased, self.plan, forward)
                self.methods.append(self._operations)
        self._subspace: CompressibleSubspace | None = None
        if recipe.subspace.kind != "none":
            self._subspace = model.network
            curriculum = Curriculum(self._subspace.compression, recipe.subspace)
            self.methods.append(SubspaceTraining(self._subspace, curriculum))
        if recipe.sharpness.radius:
            self.methods.append(Sharpness(model, recipe.sharpness.radius))
        if recipe.cram.update != "none":
            weights = partial(prunable, model.network, recipe.cram.keep)
            self.methods.append(CompressionAware(model.network, weights, recipe.cram, model.level_masks))
        self._average: WeightAverage | None = None
        if recipe.average.decay:
            # After whatever changes weights or how many there are.
            self._average = WeightAverage(model.network, model.averages, recipe.average.decay)
            self.methods.append(self._average)

    def _pruning(self) -> list[Method]:
        """What is measured, and the pruning that may follow from it."""
        network, pruning, signals = self.model.network, self._recipe.pruning, self._recipe.signals
        found: dict[str, Signal] = {}
        if signals.kl_uniform:
            found["kl_uniform"] = KLUniform(network)
        probe = self._probe(signals.fisher) if signals.fisher else None
        if probe is not None:
            due = partial(self.evaluation_due, every=signals.every)
            found["fisher"] = FisherTrace(network, probe, due, signals.draws, signals.chunk)
        if not pruning.sparsity:
            return list(found.values())

        def scores(moment: Moment) -> dict[str, Tensor]:
            if pruning.criterion == "magnitude":
                return criteria.magnitude(network)
            images = probe.to(next(network.parameters()).device)
            return criteria.fisher(network, images, signals.draws, moment.generator("pruning"), signals.chunk)

        watched = found.get(pruning.detector.signal)
        optimizer, masks = self._recipe.optimizer, self.model.masks
        return [*found.values(), Pruning(network, masks, pruning, optimizer, self.plan, scores, watched)]

    def _in_phases(self) -> Phased:
        network, masks, recipe = self.model.network, self.model.masks, self._recipe.sparse
        phases, weights = plan_phases(recipe, self._recipe.training.epochs), partial(prunable, network, recipe.keep)
        options = {"scope": recipe.scope, "fresh_momentum": recipe.fresh_momentum, "dense": self.model.dense}
        return Phased(network, masks, weights, phases, self.plan, **options)

    def _forward_flops(self) -> Forward | None:
        """Counts passes forward on a network without values; None if that cannot be done."""
        network, channels = on_meta(self.model.network).eval(), self._split.channels
        reference = self._recipe.sampler.shape

        def forward(epoch: int | None, shares: Mapping[str, float]) -> int:
            images = {reference: 1} if epoch is None else self.plan.rows_by_shape(epoch)
            return sum(number * inference_flops(network, (channels, *at), shares) for at, number in images.items())

        try:
            forward(None, {})
        except ValueError:
            return None
        return forward

    def _probe(self, count: int) -> Tensor:
        """Some images of the training set at the reference resolution, the same in every process."""
        rows, shape = self._split.train, self._recipe.sampler.shape
        chosen = torch.randperm(len(rows), generator=generator("probe", self._recipe.training.seed))[:count]
        return self._split.plain([rows[index] for index in chosen.tolist()], [None] * len(chosen), shape)["images"]

    def count(self, batch: Batch) -> int:
        """Images."""
        return len(batch["labels"])

    def evaluate(self, model: nn.Module, accelerator: Accelerator, check_stop: Callable[[], None]) -> dict[str, float]:
        """Loss, accuracy, calibration error and entropy skewness on the held-out images, at the reference size.

        The averaged weights' loss and accuracy are beside them, and the accuracy at a subspace's strongest level; all
        else is at its weakest, where it is left. So are the accuracies on images with random labels, by these and by
        the true ones.
        """
        if not len(self._split.held_out):
            return {}
        evaluation, shape = self._evaluation(model, accelerator, check_stop), self._recipe.sampler.shape
        if self._features is not None:
            evaluation = dataclasses.replace(evaluation, images=self._features.held_out, plain=stacked)
        strongest = {}
        if self._subspace is not None:
            with standing(self._subspace, self._subspace.compression.strongest):
                strongest["strongest_accuracy"] = evaluation.predictions(shape)["accuracy"]
        with self._at_weakest():
            found = evaluation.predictions(shape) | strongest | self._memorised(evaluation)
        if self._average is not None:
            with self._average.applied(), self._at_weakest():
                averaged = evaluation.predictions(shape)
            found |= {f"average_{name}": averaged[name] for name in ("loss", "accuracy")}
        return found

    def _memorised(self, evaluation: ImageEvaluation) -> dict[str, float]:
        """The accuracies on images to learn from that got random labels, seen as held-out ones are."""
        found = self._split.relabelled
        if found is None:
            return {}
        labellings = {"random_label_accuracy": found.drawn, "true_label_accuracy": found.true}
        images = dataclasses.replace(evaluation, images=found.rows)
        return images.accuracy_by(labellings, self._recipe.sampler.shape)

    def _at_weakest(self) -> AbstractContextManager[None]:
        """Where a subspace is evaluated, if there is one."""
        subspace = self._subspace
        return nullcontext() if subspace is None else standing(subspace, subspace.compression.weakest)

    def measure(self, model: nn.Module, accelerator: Accelerator, check_stop: Callable[[], None]) -> dict[str, Any]:
        """Accuracy along a subspace, by resolution, and compressed at once, and how far embeddings move, held out.

        A subspace is left at its weakest level, where all but the first is measured.
        """
        recipe, shape, found = self._recipe.evaluation, self._recipe.sampler.shape, {}
        if self._subspace is not None:
            # Training left it anywhere, and here it is saved.
            self._subspace.at_level(self._subspace.compression.weakest)
        if not (recipe.at_end and len(self._split.held_out)):
            return found
        evaluation = self._evaluation(model, accelerator, check_stop)
        if self._subspace is not None:
            found["curve"] = self._curve(evaluation)
        if self._phased is not None and self._phased.dense_outcome is not None:
            found["dense"] = self._dense_outcome(evaluation)
        with self._at_weakest():
            if recipe.sides:
                found["accuracy_by_side"] = evaluation.accuracies(recipe.sides)
            # A network of the user's own may end in anything.
            if find_head(self.model.network) is not None:
                found |= evaluation.embeddings(self.model.network, shape)
        if self._recipe.one_shot.levels:
            found["one_shot"] = self._one_shot(evaluation)
        return found

    def _one_shot(self, evaluation: ImageEvaluation) -> dict[str, dict[str, float]]:
        """What is measured of the network compressed to each level."""
        recipe, shape = self._recipe, self._recipe.sampler.shape
        rows, seed, workers = self._split.train, recipe.training.seed, recipe.training.workers
        images = Calibration(rows, self._collate, shape, recipe.one_shot, seed, workers)
        return one_shot(self.model.network, recipe.one_shot, partial(evaluation.predictions, shape), images)

    def _dense_outcome(self, evaluation: ImageEvaluation) -> dict[str, float]:
        """What is measured of the weights that the last dense phase ended with, and how much the sparse ones agree."""
        shape, weights = self._recipe.sampler.shape, learned(self.model.network)

        def dense(images: Tensor, labels: Tensor) -> Tensor:
            with self.model.dense.applied(weights):
                return evaluation.classify(images, labels)

        with self.model.dense.applied(weights):
            found = evaluation.predictions(shape)
        return {name: found[name] for name in ("accuracy", "loss")} | evaluation.agreement(dense, shape)

    def _curve(self, evaluation: ImageEvaluation) -> dict[str, dict[str, float]]:
        """What is measured at each level."""
        subspace, accelerator = self._subspace, evaluation.accelerator

        def evaluate() -> dict[str, float]:
            with batch_norm_drift(subspace) as drift:
                found = evaluation.predictions(self._recipe.sampler.shape)
            if by_layer := drift.by_layer():
                (total,) = sum_over_processes(accelerator, statistics.fmean(by_layer.values()))
                found["drift"] = total / accelerator.num_processes
            return found

        # Other norms have no statistics.
        keeps = self._recipe.subspace.norm == "keep"
        images = self._probe(_CALIBRATION).split(self._recipe.evaluation.batch_size) if keeps else ()
        return curve(subspace, self._levels(), evaluate, images)

    def _levels(self) -> tuple[float, ...]:
        """Those at which a subspace is measured."""
        return measured_levels(self._subspace.compression, self._recipe.subspace.measured)

    def _evaluation(
        self, model: nn.Module, accelerator: Accelerator, check_stop: Callable[[], None]
    ) -> ImageEvaluation:
        size, workers = self._recipe.evaluation.batch_size, self._recipe.training.workers
        images, plain = self._split.held_out, self._split.plain
        return ImageEvaluation(model, images, plain, size, accelerator, check_stop, workers)

    def describe(self) -> Mapping[str, Any]:
        """How many images there are to train on and to evaluate on, of which classes, and which were left out."""
        return {
            "train": len(self._split.train),
            "held_out": len(self._split.held_out),
            "classes": list(self._split.classes),
            "unreadable": list(self._split.unreadable),
        }

    def results(self) -> Mapping[str, Any]:
        """What training took besides time and memory, how large the network and its file are, and costs of levels."""
        found = {**super().results(), "flops": self._flops(), "sparsity": self._sparsity(), "bytes": self._bytes}
        if self._phased is not None:
            flops = None if self._operations is None else self._operations.results()
            found["sparse"] = {"phases": self._phased.history, "flops": flops}
        if self._subspace is not None:
            shape = self._split.channels, *self._recipe.sampler.shape
            found["costs"] = costs(self._subspace, self._levels(), shape)
        return found

    def _sparsity(self) -> float:
        """The share of the weights that is gone in the end."""
        return self.model.masks.sparsity() if self._phased is None else self._phased.sparsity

    def _flops(self) -> int | None:
        """Operations of the run; None for a network of which they cannot be counted."""
        if self._features is not None:
            return self._cached_flops()
        try:
            return sum(epoch_flops(self.plan, epoch, self._cost) for epoch in range(self._recipe.training.epochs))
        except ValueError:
            return None

    def _cached_flops(self) -> int | None:
        """Operations of one pass over the images, and of the classifier in all of them."""
        network = on_meta(self.model.network).eval()
        shape = self._split.channels, *self._recipe.sampler.shape
        # Forward, and the gradient of the weights: nothing needs that of the features.
        head = 4 * find_head(network).weight.numel()
        try:
            return len(self._split.train) * (inference_flops(network, shape) + self._recipe.training.epochs * head)
        except ValueError:
            return None

    def save(self, folder: Path, state: dict[str, Tensor] | None) -> None:
        """Write the network, which `vision_extras.models.load_network` reads.

        Its averaged weights are beside it, and those of a dense outcome.
        """
        whole = self.model.state_dict() if state is None else state
        if self._average is not None:
            write_copies(folder / "average.safetensors", whole, "averages")
        if self._phased is not None and self._phased.dense_outcome is not None:
            write_copies(folder / "dense.safetensors", whole, "dense")
        if state is not None:
            prefix = "network."
            state = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        save_network(self.model.network, folder, state)
        self._bytes = sum(file.stat().st_size for file in folder.glob("model*.safetensors"))
