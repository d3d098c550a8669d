# SPDX-License-Identifier: Apache-2.0
"""How a trained network stands being compressed at once, before and after tuning its batch norms (section 5.3.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hylora.randomness import generator
from hylora.training.feed import Batch, Collate, made_ahead
from vision_extras.batch_norms import batch_norms, recalibrate
from vision_extras.copies import restored
from vision_extras.images import Rows
from vision_extras.masks import prunable
from vision_extras.sparse.compression import check_levels, compress
from vision_extras.sparse.recipe import OneShotRecipe

__all__ = ["Calibration", "one_shot"]

# Images in each pass (appendix C.2.1).
_BATCH = 128


@dataclass(frozen=True)
class Calibration:
    """Passes over some images of a training set, changed at random as in training: the same each time, everywhere.

    Iterating gives images [128, C, H, W], as often as there are passes. All images come once before any comes again,
    each time with draws of its own.

    Args:
        rows: the training set.
        collate: makes its batches in training.
        shape: height and width.
        recipe: how many images of the training set, and how many passes.
        seed: says which images, in which order, and how they are changed.
        workers: processes that make batches ahead, as in `RowFeed`.
    """

    rows: Rows
    collate: Collate
    shape: tuple[int, int]
    recipe: OneShotRecipe
    seed: int
    workers: int | None = None

    def __iter__(self) -> Iterator[Tensor]:
        chosen = self._permutation(len(self.rows), "images")[: self.recipe.calibration]
        needed = self.recipe.passes * _BATCH
        rounds = -(-needed // len(chosen))
        order = torch.cat([chosen[self._permutation(len(chosen), number)] for number in range(rounds)])[:needed]
        requests = enumerate(order.view(-1, _BATCH).tolist())
        return (batch["images"] for batch in made_ahead(self, list(requests), self.workers))

    def __getitem__(self, request: tuple[int, Sequence[int]]) -> Batch:
        number, images = request
        generators = [generator("calibration", self.seed, number, place) for place in range(len(images))]
        return self.collate([self.rows[image] for image in images], generators, self.shape)

    def _permutation(self, count: int, part: int | str) -> Tensor:
        return torch.randperm(count, generator=generator("calibration", self.seed, part))


def one_shot(
    network: nn.Module,
    recipe: OneShotRecipe,
    evaluate: Callable[[], Mapping[str, float]],
    images: Iterable[Tensor],
) -> dict[str, dict[str, float]]:
    """The loss and the accuracy of a network that is compressed to each of some levels, each time from what it was.

    Weights and statistics are as before afterwards, bit for bit.

    Args:
        network: in evaluation mode.
        recipe: of the measurement.
        evaluate: gives `loss` and `accuracy` of the network as it stands. If there are several processes, each calls
            this with the same network and recipe.
        images: batches [B, C, H, W] to take the statistics of batch norms on, on any device, which can be gone
            through again and are the same in every process; of a recipe without calibration they are left alone.

    Returns:
        By the level as the recipe has it: `accuracy` and `loss`; and of a network with batch norms that have
        statistics `tuned_accuracy` and `tuned_loss`, those with statistics taken anew.

    Raises:
        ValueError: as `check_levels`.
    """
    check_levels(network, recipe.levels, recipe.keep)
    weights, found = prunable(network, recipe.keep), {}
    device = next(iter(weights.values())).device
    # Not only what is compressed: batch norms have statistics and counters.
    everything = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    tuned = recipe.calibration and batch_norms(network)
    for level in recipe.levels:
        with restored(everything):
            compress(weights, level, recipe.scope)
            measured = [("", evaluate())]
            if tuned:
                recalibrate(network, (batch.to(device) for batch in images))
                measured.append(("tuned_", evaluate()))
        found[str(level)] = {f"{when}{name}": of[name] for when, of in measured for name in ("accuracy", "loss")}
    return found
