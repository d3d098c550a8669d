# SPDX-License-Identifier: Apache-2.0
"""A network that is every level of its compression: a line or a point in weight space (section 3.2)."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from hylora.training.optimizer import trainable
from vision_extras.subspaces.compression import Compression
from vision_extras.subspaces.line import draw_lines
from vision_extras.subspaces.norms import norm_parameters, replace_batch_norms
from vision_extras.subspaces.position import Position
from vision_extras.subspaces.storage import StoredSubspace

__all__ = ["CompressibleSubspace", "Norm", "make_plain"]

Norm = Literal["group", "instance", "keep"]


class CompressibleSubspace(StoredSubspace):
    """A network whose compression is chosen after training, without training it or its norms again.

    `line` and `point` make one. It stands at one of its levels, which a forward pass uses and its state holds; at
    first that is the accurate end.

    Args:
        network: from images to logits; it becomes a part of the subspace and is changed in place.
        compression: what the levels are, and from which to which they go.
        keep: names of layers that are not compressed; None for the first and the last. Of widths they keep their
            outputs, and None is for the last.
        other: the network at the efficient end of a line, of the same shape; None for a point.
        lines: names of the parameters that differ between the ends, where batch norms are replaced; None for all that
            are trained, and of widths those of the norms.
        norm: what batch norms are replaced by (`replace_batch_norms`), since their statistics belong to one level;
            `keep` for no change.
        groups: of these norms.

    Raises:
        ValueError: if the network cannot be compressed in this way.
    """

    def __init__(
        self,
        network: nn.Module,
        compression: Compression,
        keep: Collection[str] | None = None,
        other: nn.Module | None = None,
        norm: Norm = "keep",
        groups: int = 32,
        lines: Collection[str] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.compression = compression
        self.keep = None if keep is None else tuple(keep)
        self.norm, self.groups = norm, groups
        self.image: tuple[int, ...] | None = None
        self.position = Position(compression.alpha(compression.weakest), compression.weakest)
        if norm != "keep":
            for end in {network, other} - {None}:
                replace_batch_norms(end, norm, groups)
        # Taken before layers are changed, as that may change names.
        ends = {} if other is None else self._ends(network, other, lines)
        self.lines = tuple(ends)
        if compression.shares_weights:
            # Slim layers are of other classes, and a line is added to the class of its layer.
            compression.compress(network, self.position, keep)
            draw_lines(network, self.position, ends)
        else:
            # What is compressed is the point of the line.
            draw_lines(network, self.position, ends)
            compression.compress(network, self.position, keep)

    def _ends(self, network: nn.Module, other: nn.Module, lines: Collection[str] | None) -> dict[str, Tensor]:
        """Where the efficient end of each parameter that becomes a line is."""
        names = lines
        if names is None:
            names = norm_parameters(network) if self.compression.shares_weights else trainable(network)
        if not names:
            raise ValueError("the network has no parameter that could differ between the ends of a line; make a point")
        values, every = dict(other.named_parameters()), dict(network.named_parameters(remove_duplicate=False))
        if missing := set(names) - values.keys():
            raise ValueError(f"other has no {', '.join(sorted(missing))}; both ends must be networks of one shape")
        holders = {id(every[name]): name for name in names}
        for name, parameter in every.items():
            if name not in names and id(parameter) in holders:
                raise ValueError(
                    f"{name} and {holders[id(parameter)]} are one parameter, which cannot become a line in both "
                    "places; give each its own, or make a point"
                )
        return {name: values[name] for name in names}

    @classmethod
    def line(
        cls,
        network: nn.Module,
        compression: Compression,
        keep: Collection[str] | None = None,
        other: nn.Module | None = None,
        **options: Any,
    ) -> Self:
        """A line from a network, where it is compressed least, to another, where it is compressed most (LCS+L).

        Where width is compressed, the ends share all weights but those of the norms.

        Args:
            network, compression, keep: of the subspace.
            other: the efficient end, of the network's shape; None begins with both ends at the network's weights.
            **options: `norm`, `groups` and `lines` of the subspace.
        """
        return cls(network, compression, keep, network if other is None else other, **options)

    @classmethod
    def point(
        cls, network: nn.Module, compression: Compression, keep: Collection[str] | None = None, **options: Any
    ) -> Self:
        """One network that bears all levels (LCS+P).

        Args:
            network, compression, keep: of the subspace.
            **options: `norm` and `groups` of the subspace.
        """
        return cls(network, compression, keep, **options)

    @property
    def is_line(self) -> bool:
        """Whether it has two ends."""
        return bool(self.lines)

    @property
    def stride(self) -> int:
        """The least height and width that the network takes."""
        return getattr(self.network, "stride", 1)

    @property
    def multiple(self) -> int:
        """Heights and widths must be multiples of it."""
        return getattr(self.network, "multiple", 1)

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """What the network gives at the present level."""
        return self.network(*inputs, **options)

    def at(self, alpha: float) -> Self:
        """Go to a point of the subspace, and to the level that belongs to it.

        Args:
            alpha: from that of the strongest level to that of the weakest.

        Raises:
            ValueError: if it is out of that range.
        """
        compression = self.compression
        low, high = compression.alpha(compression.strongest), compression.alpha(compression.weakest)
        if not low <= alpha <= high:
            raise ValueError(f"alpha={alpha!r} must be from {low:g} to {high:g}, the ends of the subspace")
        self.move(alpha, compression.level(alpha))
        return self

    def at_level(self, level: float) -> Self:
        """Go to a level of the compression, in its own unit.

        Raises:
            ValueError: if it is not one of those that were trained.
        """
        self.compression.check_level(level)
        self.move(self.compression.alpha(level), level)
        return self

    def move(self, alpha: float, level: float) -> None:
        """Go to a point of the line at a level of its own, as warm-ups and reversed lines have it."""
        self.position.alpha, self.position.level = alpha, level

    def check(self, images: Tensor) -> None:
        """Refuse a network that can be compressed, but would then be another, by trying it at the strongest level.

        Networks that take images of one size alone can be exported at a width after that.

        Args:
            images: [B, C, H, W], not constant.

        Raises:
            ValueError: naming what cannot be compressed.
        """
        stood = self.position.alpha, self.position.level
        try:
            self.at_level(self.compression.strongest)
            self.compression.check(self.network, images)
        finally:
            self.move(*stood)
        self.image = tuple(images.shape[1:])

    def export(self, level: float) -> nn.Module:
        """A plain module that is this network at a level, to be deployed; the subspace stays where it is.

        Where width is compressed, its layers have fewer channels; else weights are zero, or multiples of a step.

        Raises:
            ValueError: if the level is not one of those that were trained, or the network takes images of one size
                alone, which `check` was not given.
        """
        taken = copy.deepcopy(self).at_level(level)
        network = taken.network
        for module in list(network.modules()):
            if parametrize.is_parametrized(module):
                make_plain(module)
        taken.compression.settle(network, self.image)
        return network

    def get_extra_state(self) -> Tensor:
        """The position, as a part of the state."""
        place = self.position
        return torch.tensor([place.alpha, place.level, place.activations], dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        alpha, level, activations = state.tolist()
        self.move(alpha, level)
        self.position.activations = bool(activations)


def make_plain(module: nn.Module) -> None:
    """Give a module its parametrized tensors as parameters of its own."""
    values = {
        # Not by its name, as copies share what torch caches by names.
        name: nn.Parameter(point().detach().clone(), any(end.requires_grad for end in point.parameters()))
        for name, point in module.parametrizations.items()
    }
    # A copy has its class in common with what it was copied from, so that torch's own removal would break that.
    module.__class__ = parametrize.type_before_parametrizations(module)
    del module.parametrizations
    for name, value in values.items():
        module.register_parameter(name, value)
