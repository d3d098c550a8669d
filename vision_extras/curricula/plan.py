# SPDX-License-Identifier: Apache-2.0
"""Every update of a run before it starts: how many rows it sees, and in what shape (chapter 4, section 4.1)."""

from __future__ import annotations

import bisect
import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch

from hylora.randomness import generator
from hylora.training.feed import Share, WindowSize
from hylora.training.fields import check_choice, check_range, refuse_unread
from hylora.training.moment import Moment
from vision_extras.curricula.scales import Shape, batch_size_at, expansion, interpolated, scaled

__all__ = ["Plan", "RankWindow", "Sampler", "SamplerRecipe"]

_POOL = ("smallest", "largest", "scales", "multiple", "shape_per_rank")
_CURRICULUM = ("expansion", "start", "until", "power", "stages")
_READ = {"ssc_fbs": (), "msc_fbs": _POOL, "msc_vbs": _POOL, "msc_vbswc": (*_POOL, *_CURRICULUM)}


class Sampler(Protocol):
    """What the updates of a run get: for images, the shape is a resolution; for masked learners, a share of masks.

    Args:
        shape_per_rank: each process draws a shape of its own in each update, instead of one for all.
    """

    shape_per_rank: bool

    def pool(self, epoch: int, epochs: int) -> list[Any]:
        """The distinct shapes that an epoch's updates draw from, ascending; epochs count from 0, of so many."""

    def batch_size(self, shape: Any, rows: int) -> int:
        """How many rows of a shape an update has, where the reference batch has so many."""


@dataclass(frozen=True, kw_only=True)
class SamplerRecipe:
    """Resolutions and batch sizes over training (chapter 4, section 4.1 and table 4.8).

    A side is in pixels: one number for squares, or [height, width].

    Args:
        name: `ssc_fbs` has the reference batch in every update; `msc_fbs` draws a resolution for each; `msc_vbs` also
            takes as many images of it as have the pixels of the reference batch; `msc_vbswc` also begins with smaller
            resolutions, which expand.
        side: of the reference batch, and of evaluation; null for the images' own.
        smallest: of the resolutions that are drawn from.
        largest: of the resolutions that are drawn from.
        scales: how many resolutions, at equal distances; those that rounding makes equal count once.
        multiple: what heights and widths are divisible by; the thesis has 8 or 32.
        shape_per_rank: each process draws a resolution of its own in each update (section 4.6.2), instead of one for
            all.
        expansion: how resolutions expand, of `msc_vbswc`.
        start: the factor on all resolutions in the first epoch, rho_0 in (0, 1].
        until: the share of the epochs after which the factor is 1, tau in (0, 1].
        power: of polynomial expansion.
        stages: of multi_step expansion: rises, the last of them to 1.
    """

    name: Literal["ssc_fbs", "msc_fbs", "msc_vbs", "msc_vbswc"] = "ssc_fbs"
    side: int | tuple[int, int] | None = None
    smallest: int | tuple[int, int] | None = None
    largest: int | tuple[int, int] | None = None
    scales: int = 5
    multiple: int = 32
    shape_per_rank: bool = False
    expansion: Literal["linear", "cosine", "polynomial", "multi_step"] = "cosine"
    start: float = 0.75
    until: float = 0.5
    power: float = 2.0
    stages: int = 2

    def __post_init__(self) -> None:
        check_choice(self, "name", "expansion")
        check_range(self, "side", "smallest", "largest", "multiple", "stages", least=1)
        check_range(self, "scales", least=2, below=257)
        check_range(self, "start", "until", above=0, most=1)
        check_range(self, "power", above=0)
        refuse_unread(self, *{*_POOL, *_CURRICULUM}.difference(_READ[self.name]))
        for name, of in (("power", "polynomial"), ("stages", "multi_step")):
            if self.expansion != of and getattr(self, name) != getattr(SamplerRecipe, name):
                raise ValueError(f"{name}={getattr(self, name)!r} must be left out; expansion={of!r} alone reads it")
        if self.name != "ssc_fbs":
            self._check_pool()

    def _check_pool(self) -> None:
        for name in ("smallest", "largest"):
            value = getattr(self, name)
            if value is None:
                raise ValueError(f"{name}=None must be a number of pixels; name={self.name!r} draws resolutions")
            if any(side % self.multiple for side in _shape(value)):
                raise ValueError(f"{name}={value!r} must be a multiple of multiple={self.multiple}")
        if any(low > high for low, high in zip(_shape(self.smallest), _shape(self.largest), strict=True)):
            raise ValueError(f"smallest={self.smallest!r} must be at most largest={self.largest!r}")

    @property
    def shape(self) -> Shape:
        """Height and width of the reference batch.

        Raises:
            ValueError: if `side` is not known yet.
        """
        if self.side is None:
            raise ValueError("side=None must be a number of pixels by now")
        return _shape(self.side)

    def pool(self, epoch: int, epochs: int) -> list[Shape]:
        """The distinct resolutions that an epoch's updates draw from, ascending: s(e), or S, or the reference."""
        if self.name == "ssc_fbs":
            return [self.shape]
        pool = interpolated(_shape(self.smallest), _shape(self.largest), self.scales, self.multiple)
        return scaled(pool, self.factor(epoch, epochs), self.multiple)

    def shapes(self, epochs: int) -> list[Shape]:
        """The distinct resolutions that a run of so many epochs may draw, ascending."""
        return sorted({shape for epoch in range(epochs) for shape in self.pool(epoch, epochs)})

    def factor(self, epoch: int, epochs: int) -> float:
        """rho(e): on all resolutions in an epoch, from 0, of so many."""
        if self.name != "msc_vbswc":
            return 1.0
        rho = expansion(self.expansion, self.start, self.power, self.stages)
        return rho(min(1.0, epoch / (self.until * epochs)))

    def batch_size(self, shape: Shape, images: int) -> int:
        """How many images of a shape an update has, where the reference batch has so many."""
        return images if self.name in ("ssc_fbs", "msc_fbs") else batch_size_at(shape, self.shape, images)


@dataclass(frozen=True)
class RankWindow:
    """An update in which each process has a shape of its own; it takes the place of a `WindowSize`.

    Args:
        batches: each process's number of rows, and their shape.
        count: forward passes of each process.
    """

    batches: tuple[tuple[int, Any], ...]
    count: int

    @property
    def rows(self) -> int:
        """Over all processes."""
        return sum(rows for rows, _ in self.batches)

    def passes(self, world_size: int) -> int:
        """Forward passes of each process."""
        return self.count

    def parts(self, share: Share) -> list[tuple[range, Any]]:
        """The rows of the window, from 0, in each forward pass of one process, and the shape they get."""
        first = sum(rows for rows, _ in self.batches[: share.rank])
        rows, shape = self.batches[share.rank]
        bounds = [first + number * rows // self.count for number in range(self.count + 1)]
        return [(range(bounds[number], bounds[number + 1]), shape) for number in range(self.count)]


class Plan:
    """The updates of a run: a pure function of its arguments.

    Each epoch sees every row once. An update's shape is drawn uniformly from the epoch's distinct shapes by a
    generator of the epoch's own. So images come at small resolutions more often than at large ones, since a batch of a
    small resolution has more of them. The epoch's last update has what is left; where that is fewer than two rows for
    each process, they join the update before, since batch norms have no statistics of one image, and contrastive
    losses nothing to tell a single clip from.

    Where each process draws a shape of its own, each has a batch of its share of the reference batch, and the epoch's
    last update has one shape for all.

    Args:
        sampler: says which shapes there are, and how many rows a batch of one has.
        rows: in an epoch.
        epochs: of the run.
        batch_size: rows of a reference batch, over all processes.
        rows_per_pass: at most so many reference rows in a process's forward pass. In another shape, passes are as
            many, of as much work; a pass has at least one row.
        seed: of the draws.
        processes: that share each update. Beyond what is said above, the plan depends on them only where an update
            would have fewer rows than there are processes: it gets as many. Batches that are that small may also be
            the last with one row for each.

    Raises:
        ValueError: if the numbers cannot work together.
    """

    def __init__(
        self,
        sampler: Sampler,
        rows: int,
        epochs: int,
        batch_size: int,
        rows_per_pass: int,
        seed: int,
        processes: int = 1,
    ) -> None:
        numbers = {"epochs": epochs, "batch_size": batch_size, "rows_per_pass": rows_per_pass, "processes": processes}
        for name, value in numbers.items():
            if value < 1:
                raise ValueError(f"{name}={value!r} must be at least 1")
        if rows < processes:
            raise ValueError(f"rows={rows} must be at least {processes}, one for each process")
        self._total = rows
        self._processes = processes
        self._passes = -(-batch_size // (rows_per_pass * processes))
        self._ranks = processes if sampler.shape_per_rank else 1
        self._fewest = min(2 * processes, max(processes, batch_size))
        # Most epochs share their pools, and a byte holds an update's draw: 600 epochs of ImageNet take a megabyte.
        known: dict[tuple[Any, ...], list[tuple[int, Any]]] = {}
        self._pools, self._draws, self._last, self._starts = [], [], [], [0]
        for epoch in range(epochs):
            shapes = tuple(sampler.pool(epoch, epochs))
            if shapes not in known:
                known[shapes] = [(self._rows(sampler, shape, batch_size), shape) for shape in shapes]
            draws, last = self._drawn(known[shapes], generator("sampler", seed, epoch))
            self._pools.append(known[shapes])
            self._draws.append(draws)
            self._last.append(last)
            self._starts.append(self._starts[-1] + len(draws) // self._ranks)

    def _rows(self, sampler: Sampler, shape: Any, reference: int) -> int:
        """Rows of a batch of this shape: of an update, or of one process where each has a shape of its own."""
        rows = sampler.batch_size(shape, reference)
        if self._ranks == 1:
            return max(self._processes, rows)
        rows = max(1, rows // self._ranks)
        if rows < self._passes:
            raise ValueError(
                f"{self._passes} forward passes need as many rows in each process, and a reference batch of "
                f"{reference} leaves it {rows} of {shape}; raise the batch size of a pass, or have one shape for all"
            )
        return rows

    def _drawn(self, pool: list[tuple[int, Any]], draw: torch.Generator) -> tuple[bytes, int]:
        """Which of the pool each update of an epoch gets, one after another, and how many rows the last one has."""
        rows = torch.tensor([rows for rows, _ in pool])
        most = -(-self._total // (self._ranks * int(rows.min())))
        drawn = torch.randint(len(pool), (most, self._ranks), generator=draw)
        before = (ends := rows[drawn].sum(1).cumsum(0)) - rows[drawn].sum(1)
        steps = int((ends < self._total).sum()) + 1
        if steps > 1 and self._total - int(before[steps - 1]) < self._fewest:
            steps -= 1
        return bytes(drawn[:steps].flatten().tolist()), self._total - int(before[steps - 1])

    @property
    def steps(self) -> int:
        """Updates of the whole run."""
        return self._starts[-1]

    @property
    def shapes(self) -> list[Any]:
        """The shapes of the run, ascending; the network must be able to work with the first."""
        return sorted({shape for pool in self._pools for _, shape in pool})

    def window(self, moment: Moment) -> WindowSize | RankWindow:
        """What an update sees."""
        epoch = self.epoch(moment.step)
        first = (moment.step - self._starts[epoch]) * self._ranks
        drawn = [self._pools[epoch][number] for number in self._draws[epoch][first : first + self._ranks]]
        whole, shape = drawn[0]
        rows = whole = whole * self._ranks
        if moment.step + 1 == self._starts[epoch + 1]:
            rows = self._last[epoch]
        elif self._ranks > 1:
            return RankWindow(tuple(drawn), self._passes)
        # As many passes as the reference batch has, also where a few rows joined. Passes of one row would leave a
        # process without any where rows do not divide, so some have two.
        most = max(whole, min(rows, whole + self._fewest - 1))
        per_pass = -(-most // (self._passes * self._processes))
        return WindowSize(rows, max(per_pass, 2 if rows % self._processes else 1), shape)

    def batches(self, step: int) -> list[tuple[int, Any]]:
        """The rows of an update and their shape: one entry, or one for each process."""
        window = self.window(Moment(step, self.steps, 0))
        return list(window.batches) if isinstance(window, RankWindow) else [(window.rows, window.shape)]

    def rows_by_shape(self, epoch: int) -> dict[Any, int]:
        """How many rows an epoch sees in each shape; what `batches` of its updates sum to."""
        pool, draws = self._pools[epoch], self._draws[epoch]
        counts = Counter(draws[: -self._ranks])
        seen = {shape: rows * counts[number] for number, (rows, shape) in enumerate(pool) if counts[number]}
        last = pool[draws[-self._ranks]][1]
        return {**seen, last: seen.get(last, 0) + self._last[epoch]}

    def epoch(self, step: int) -> int:
        """The epoch of an update, from 0."""
        return bisect.bisect_right(self._starts, step) - 1

    def fingerprint(self) -> str:
        """A hash of how many rows each update sees, and in what shape."""
        return hashlib.sha256(repr((self._pools, self._draws, self._last)).encode()).hexdigest()

    def first_step(self, epoch: int) -> int:
        """The first update of an epoch; of the number of epochs, the number of all updates."""
        return self._starts[epoch]


def _shape(sides: int | tuple[int, int]) -> Shape:
    return (sides, sides) if isinstance(sides, int) else tuple(sides)
