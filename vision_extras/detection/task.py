# SPDX-License-Identifier: Apache-2.0
"""Finding objects as a task of the loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from hylora.training.evaluation import deal
from hylora.training.feed import Batch, Share
from hylora.training.moment import Moment
from hylora.training.processes import share_of
from vision_extras.curricula.scales import Shape
from vision_extras.detection.average_precision import Found, average_precision
from vision_extras.detection.collate import Boxed
from vision_extras.detection.detector import Detection
from vision_extras.detection.objects import ObjectSplit
from vision_extras.detection.recipe import DetectionRecipe
from vision_extras.images import IGNORED
from vision_extras.planned import ResizedTask

__all__ = ["DetectionTask"]

# COCO looks at so many guesses of an image.
_MOST = 100


class DetectionTask(ResizedTask):
    """Detection under a sampler.

    Args:
        model: the detector with its loss.
        split: images to train on and to evaluate on.
        recipe: of the run.
        passes: operations of a forward pass on an image of each resolution.
        share: this process's share of each update.
    """

    unit = "objects"

    def __init__(
        self,
        model: Detection,
        split: ObjectSplit,
        recipe: DetectionRecipe,
        passes: Mapping[Shape, int],
        share: Share | None = None,
    ) -> None:
        mean, std = recipe.objects.statistics
        super().__init__(model, split.train, Boxed(mean, std, flip=recipe.objects.flip), recipe, share or Share())
        self._plain = Boxed(mean, std)
        self._split = split
        self._passes = passes

    def count(self, batch: Batch) -> int:
        """Objects."""
        return int((batch["labels"] != IGNORED).sum())

    def scheduled(self, moment: Moment) -> dict[str, float]:
        """The epoch, and how many images there are, of which height and width."""
        return {"images": self.plan.window(moment).rows, **super().scheduled(moment)}

    def evaluate(self, model: nn.Module, accelerator: Accelerator, check_stop: Callable[[], None]) -> dict[str, float]:
        """Average precision on the held-out images, at the reference size."""
        held_out = self._split.held_out
        if not len(held_out):
            return {}
        seen: list[tuple[int, Found, Found]] = []
        size, shape = self._recipe.evaluation.batch_size, self._recipe.sampler.shape
        # -1 is an image for a process that has none left: forward passes are collective.
        for numbers in deal(range(len(held_out)), size, share_of(accelerator), lambda number: -1):
            check_stop()
            rows = [held_out[max(number, 0)] for number in numbers]
            batch = self._plain(rows, [None] * len(rows), shape)
            with torch.no_grad():
                scores, boxes = (value.float().cpu() for value in model(batch["images"].to(accelerator.device)))
            for place, number in enumerate(numbers):
                if number >= 0:
                    image, shares, labels = rows[place]
                    truth = Found(shares * torch.tensor([*image.size, *image.size]), labels)
                    seen.append((number, truth, _best(scores[place], boxes[place], image.size)))
        # Gathered with what was found, so that no image is decoded a second time.
        seen = sorted(gather_object(seen), key=lambda entry: entry[0])
        return average_precision([truth for _, truth, _ in seen], {number: found for number, _, found in seen})

    def describe(self) -> Mapping[str, Any]:
        """How many images there are to train on and to evaluate on, and of which classes."""
        split = self._split
        return {"train": len(split.train), "held_out": len(split.held_out), "classes": list(split.classes)}

    def results(self) -> Mapping[str, Any]:
        """Also the operations of training: three times those of its forward passes, as backward is twice as long."""
        batches = [batch for step in range(self.plan.steps) for batch in self.plan.batches(step)]
        return {**super().results(), "flops": 3 * sum(rows * self._passes[shape] for rows, shape in batches)}

    def save(self, folder: Path, state: dict[str, Tensor] | None) -> None:
        """Write the detector, which `load_detector` and transformers read."""
        if state is not None:
            state = {name.removeprefix("network."): value for name, value in state.items()}
        self.model.network.save(folder, state)


def _best(scores: Tensor, boxes: Tensor, size: tuple[int, int]) -> Found:
    """The guesses of an image that are surest, over its boxes and classes, as COCO takes them.

    Args:
        scores: [Q, classes].
        boxes: [Q, 4], centre, width and height in shares of the image.
        size: width and height of the image in pixels.
    """
    best = scores.flatten().topk(min(_MOST, scores.numel()))
    queries, labels = best.indices // scores.shape[1], best.indices % scores.shape[1]
    centres, sides = boxes[queries].split(2, dim=1)
    corners = torch.cat([centres - sides / 2, centres + sides / 2], dim=1)
    return Found(corners * torch.tensor([*size, *size]), labels, best.values)
