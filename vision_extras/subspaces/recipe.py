# SPDX-License-Identifier: Apache-2.0
"""Which subspace a run trains, and how."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from torch import nn

from hylora.training.fields import check_choice, check_range, refuse_unread
from vision_extras.subspaces.compression import Compression
from vision_extras.subspaces.kinds import COMPRESSIONS
from vision_extras.subspaces.subspace import CompressibleSubspace, Norm

__all__ = ["SubspaceRecipe"]


@dataclass(frozen=True, kw_only=True)
class SubspaceRecipe:
    """A network for every level of compression, from one run (chapter 3).

    What is null follows from the rest, as the thesis has it.

    Args:
        kind: a `line` between two networks, a `point` that is one of them, or `none`.
        compression: `sparsity` of single weights, `width` in channels, or `bits` of the weights.
        weakest: level at the accurate end: the share of weights that goes (null is 0), the share of channels that
            stays (null is 1), or bits (null is 8).
        strongest: level at the efficient end (null is 0.975, 0.25 or 3).
        targets: levels that are trained in each update, in place of those between the ends: the thesis's baselines.
        curriculum: in the warm-up compression comes on by degrees (`anneal`), waits at the weakest level (`hold`), or
            is there from the start (`none`). Null is anneal for lines and targets, hold for points, none for widths.
        warmup: share of training that it takes; bits are of weights alone in that time.
        bias: how often one of the two ends is drawn. Null is 0.5 for lines of sparsities, 0 for others.
        samples: networks in each update, of which two are the ends; 1 for any. Null is 4 for widths and 1 for others.
        norm: what batch norms are replaced by, since their statistics belong to one level: norms of `groups`, or of
            each channel alone (`instance`); `keep` for no change. Null is keep with targets, instance for widths, and
            group for others.
        groups: in each norm; the most that divide the channels, up to this number.
        measured: levels at which the trained network is measured; empty for some between the ends.
    """

    kind: Literal["none", "line", "point"] = "none"
    compression: Literal["sparsity", "width", "bits"] = "sparsity"
    weakest: float | None = None
    strongest: float | None = None
    targets: tuple[float, ...] = ()
    curriculum: Literal["anneal", "hold", "none"] | None = None
    warmup: float = 0.8
    bias: float | None = None
    samples: int | None = None
    norm: Norm | None = None
    groups: int = 32
    measured: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_choice(self, "kind", "compression")
        if self.kind == "none":
            refuse_unread(self, *(item.name for item in fields(self) if item.name != "kind"), choice="kind")
            return
        self._fill()
        check_choice(self, "curriculum", "norm")
        check_range(self, "warmup", least=0, below=1)
        check_range(self, "bias", least=0, most=1)
        check_range(self, "samples", "groups", least=1)
        if self.samples > 1 and self.bias:
            raise ValueError(f"bias={self.bias!r} must be left out where samples={self.samples!r} have both ends")
        if self.norm != "group":
            refuse_unread(self, "groups", choice="norm")
        if self.targets and self.kind == "line":
            raise ValueError(f"targets={self.targets!r} are for kind='point'; a line has all levels between its ends")
        # A recipe that was filled and written has both.
        if self.targets and (self.samples > 1 or self.bias):
            raise ValueError(
                f"samples={self.samples!r} and bias={self.bias!r} must be left out where targets={self.targets!r} are "
                "all in each update"
            )
        compression = self.build()
        for name in ("targets", "measured"):
            for level in getattr(self, name):
                try:
                    compression.check_level(level)
                except ValueError as error:
                    raise ValueError(f"{name}={getattr(self, name)!r}: {error}") from error

    def _fill(self) -> None:
        widths, plain = self.compression == "width", COMPRESSIONS[self.compression]()
        annealed = self.kind == "line" or self.targets
        samples = self.samples or (4 if widths and not self.targets else 1)
        derived = {
            "weakest": plain.weakest,
            "strongest": plain.strongest,
            "curriculum": "none" if widths else "anneal" if annealed else "hold",
            "bias": 0.5 if self.kind == "line" and self.compression == "sparsity" and samples == 1 else 0.0,
            "samples": samples,
            "norm": "keep" if self.targets else "instance" if widths else "group",
        }
        for name, value in derived.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

    def make(self, network: nn.Module, other: nn.Module | None = None) -> CompressibleSubspace:
        """A network as the accurate end of a line, or as the point.

        Args:
            network: it becomes a part of the subspace and is changed in place; it may be on the meta device.
            other: the efficient end of a line; None begins with both at the network's weights.

        Raises:
            ValueError: if the network cannot be compressed in this way.
        """
        norms = {"norm": self.norm, "groups": self.groups}
        if self.kind == "line":
            return CompressibleSubspace.line(network, self.build(), other=other, **norms)
        return CompressibleSubspace.point(network, self.build(), **norms)

    def build(self) -> Compression:
        """The compression, with its range of levels."""
        return COMPRESSIONS[self.compression](self.weakest, self.strongest)
