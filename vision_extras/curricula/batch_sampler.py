# SPDX-License-Identifier: Apache-2.0
"""The same updates as `Plan` has, for other training loops: a batch sampler of torch that Accelerate deals rightly."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple, Self

import torch.nn.functional as F
from torch.utils.data import Dataset, Sampler

from hylora.training.feed import RowOrder, Share
from hylora.training.moment import Moment
from vision_extras.curricula.plan import Plan, SamplerRecipe
from vision_extras.curricula.scales import Shape

__all__ = ["Item", "MultiscaleBatchSampler", "MultiscaleDataset"]


class Item(NamedTuple):
    """What a dataset is asked for. The resolution travels with the index, so that any number of workers is safe.

    Args:
        height: in pixels.
        width: in pixels.
        index: of the image.
        weight: 1, or 0 for an image that only fills a batch up and must not count.
    """

    height: int
    width: int
    index: int
    weight: float


class MultiscaleBatchSampler(Sampler[list[Item]]):
    """Batches of the four samplers for `torch.utils.data.DataLoader(dataset, batch_sampler=...)`.

    It has no `batch_size`. Where a batch sampler has one, Accelerate takes batches of other sizes for the end of the
    data and drops them. It gives `processes` batches of one size and resolution in a row, one for each process; that
    is how Accelerate deals them. Where images do not divide, batches are filled up by images of weight 0. Weighted by
    that, each image is seen exactly once in an epoch.

    Args:
        recipe: of the sampler, with its sides known.
        images: in the data set.
        epochs: of the run.
        batch_size: images of a reference batch, over all processes.
        seed: of the order and of the resolutions; each epoch has its own of both.
        processes: that take turns with the batches. With `recipe.shape_per_rank` each has its own resolution and size.

    Raises:
        ValueError: if the numbers cannot work together.
    """

    def __init__(
        self, recipe: SamplerRecipe, images: int, epochs: int, batch_size: int, seed: int = 0, processes: int = 1
    ) -> None:
        self._plan = Plan(recipe, images, epochs, batch_size, batch_size, seed, processes)
        self._images = images
        self._epochs = epochs
        self._order = RowOrder(images, seed)
        self._processes = processes
        self._epoch = 0
        self._first = 0
        self._given = 0

    @property
    def sampler(self) -> Self:
        """Where Accelerate looks for `set_epoch` when there are several processes."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0. Accelerate calls it; with a plain DataLoader, do so before each epoch.

        Raises:
            ValueError: if the run has no such epoch.
        """
        if not 0 <= epoch < self._epochs:
            raise ValueError(f"epoch={epoch!r} must be at least 0 and below epochs={self._epochs}")
        if epoch != self._epoch:
            self._epoch, self._first, self._given = epoch, 0, 0

    def __len__(self) -> int:
        """Batches of this whole epoch, over all processes; also where an iteration begins in its middle."""
        return self._processes * sum(1 for _ in self._rounds())

    def __iter__(self) -> Iterator[list[Item]]:
        first, self._first = self._first, 0
        for number, parts in enumerate(islice(self._rounds(), first, None), first + 1):
            self._given = number
            for positions, shape in parts:
                size = max(len(others) for others, other_shape in parts if other_shape == shape)
                items = [Item(*shape, self._order[position], 1.0) for position in positions]
                yield items + [items[0]._replace(weight=0.0)] * (size - len(items))

    def _rounds(self) -> Iterator[list[tuple[range, Shape]]]:
        """What the processes see at the same time: positions of the order, and their shape."""
        plan, position = self._plan, self._epoch * self._images
        for step in range(plan.first_step(self._epoch), plan.first_step(self._epoch + 1)):
            window = plan.window(Moment(step, plan.steps, 0))
            ranks = [window.parts(Share(rank, self._processes)) for rank in range(self._processes)]
            for parts in zip(*ranks, strict=True):
                yield [(range(position + part.start, position + part.stop), shape) for part, shape in parts]
            position += window.rows

    def state_dict(self) -> dict[str, int]:
        """The epoch, and how many batches of each process were given in it.

        Loaders ask for batches ahead of training. Where the two differ, put the batches trained on in `batches`.
        """
        return {"epoch": self._epoch, "batches": self._given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next iteration go on where `state` was taken.

        With Accelerate, also call the loader's `set_epoch(state["epoch"])`, since it counts epochs by itself.
        """
        self.set_epoch(state["epoch"])
        self._first = self._given = state["batches"]


class MultiscaleDataset(Dataset):
    """Images in the resolution that they are asked for.

    Args:
        rows: map-style, of an image [C, H, W] in floating point and its label.
    """

    def __init__(self, rows: Any) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, item: Item) -> dict[str, Any]:
        """`images` [C, height, width], `labels` and `weights`, which default collation stacks."""
        image, label = self._rows[item.index]
        image = F.interpolate(image[None], (item.height, item.width), mode="bilinear", antialias=True)[0]
        return {"images": image, "labels": label, "weights": item.weight}
