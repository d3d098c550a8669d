# SPDX-License-Identifier: Apache-2.0
"""How much is masked over training, how many clips an update then has, and which patches it is (section 5.2.2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hylora.randomness import generator
from hylora.training import schedules
from hylora.training.feed import Batch
from hylora.training.fields import check_range
from vision_extras.mavil.config import MavilConfig
from vision_extras.mavil.patches import audio_grid, video_grid, visible_count

__all__ = ["MaskRecipe", "Masked"]


@dataclass(frozen=True, kw_only=True)
class MaskRecipe:
    """The share of patches that is masked over training, on a line by epochs; it is the sampler of a `Plan`.

    Args:
        first: rho_1, in the first epoch, in (0, 1); of a single epoch it is the share.
        last: rho_2, in the last epoch and in evaluation, in (0, 1).
        adaptive: whether updates have the more clips, the fewer patches of each are visible; the reference batch is of
            the lower of the two shares.
    """

    first: float = 0.8
    last: float = 0.8
    adaptive: bool = False

    shape_per_rank: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_range(self, "first", "last", above=0, below=1)

    def ratio(self, epoch: int, epochs: int) -> float:
        """rho_e of an epoch, from 0, of so many."""
        return schedules.linear(self.first, self.last)(epoch / max(1, epochs - 1))

    def pool(self, epoch: int, epochs: int) -> list[float]:
        """The share of every update in an epoch."""
        return [self.ratio(epoch, epochs)]

    def batch_size(self, ratio: float, clips: int) -> int:
        """B_e = (1 - min(rho_1, rho_2)) / (1 - rho_e) B_0, rounded down: as many visible patches in every update."""
        if not self.adaptive:
            return clips
        # An error of rounding must not cost a clip.
        return math.floor(round((1 - min(self.first, self.last)) / (1 - ratio) * clips, 6))


@dataclass(frozen=True)
class Masked:
    """Makes batches of clips of which patches are masked. All that is drawn for a clip, its own generator gives.

    Called with clips, a generator for each and the share that is masked, it gives what `MavilForPreTraining` takes.
    A clip without a generator has one of its name, so that it is masked alike in every evaluation.

    Args:
        collate: makes batches of clips, with their `input_values` and, for a learner with video, `frames`.
        config: of the learner.
    """

    collate: Callable[[Sequence[Any], Sequence[torch.Generator | None], Any], Batch]
    config: MavilConfig

    def __call__(self, rows: Sequence[Any], generators: Sequence[torch.Generator | None], ratio: float) -> Batch:
        batch, config = self.collate(rows, generators, None), self.config
        given = {name: batch[name] for name in ("input_values", *(("frames",) if config.video else ()))}
        draws = [
            generator("masked clip", clip.name) if draw is None else draw
            for clip, draw in zip(rows, generators, strict=True)
        ]
        patches = {"audio": math.prod(audio_grid(*given["input_values"].shape[1:], config.audio_patch))}
        if config.video:
            shape = given["frames"].shape[2:]
            patches["video"] = math.prod(video_grid(*shape, config.tubelet, config.video_patch))
        for name, count in patches.items():
            given |= _masked(name, count, ratio, 2 if config.video else 1, draws)
        if config.diffusion:
            given["steps"] = _drawn(1, config.noise_steps + 1, draws)
            given["seeds"] = _drawn(0, 2**62, draws)
        return given


def _masked(name: str, patches: int, ratio: float, views: int, draws: Sequence[torch.Generator]) -> dict[str, Tensor]:
    """Which patches are visible in each view, and which are masked in the first."""
    orders = [[torch.randperm(patches, generator=draw) for _ in range(views)] for draw in draws]
    orders = torch.stack([torch.stack(each) for each in orders])
    visible = visible_count(patches, ratio)
    return {f"{name}_visible": orders[:, :, :visible], f"{name}_masked": orders[:, 0, visible:]}


def _drawn(low: int, high: int, draws: Sequence[torch.Generator]) -> Tensor:
    return torch.cat([torch.randint(low, high, (1,), generator=draw) for draw in draws])
