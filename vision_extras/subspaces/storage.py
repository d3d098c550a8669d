# SPDX-License-Identifier: Apache-2.0
"""How a subspace, or one of its levels, is written to a folder and read back."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from vision_extras.models.build import LEVEL_TYPE, SUBSPACE_TYPE, network_of, shape_of
from vision_extras.models.packed import pack, packed_size
from vision_extras.models.weights import read_config, read_weights, write_network
from vision_extras.subspaces.compression import Compression
from vision_extras.subspaces.kinds import COMPRESSIONS
from vision_extras.subspaces.position import Position

__all__ = ["StoredSubspace"]

# Where torch has the position in a state.
_POSITION = "_extra_state"


class StoredSubspace(nn.Module):
    """The part of a compressible subspace that is about folders.

    `model.safetensors` has the state: the network's parameters twice for a line, once for a point (table 3.1).
    `config.json` has all else: the network's shape, the compression with its range, the layers that are kept, the
    parameters that are lines, what batch norms were replaced by, the shape of an image, and the position.
    """

    network: nn.Module
    compression: Compression
    keep: tuple[str, ...] | None
    norm: str
    groups: int
    lines: tuple[str, ...]
    image: tuple[int, ...] | None

    def save(self, folder: str | PathLike, state: Mapping[str, Tensor] | None = None) -> None:
        """Write the subspace, which `vision_extras.models.load_network` reads too.

        Args:
            folder: to write into.
            state: of the subspace, where this process holds only a share of it; None for its own.
        """
        weights = dict(self.state_dict() if state is None else state)
        alpha, level, activations = weights.pop(_POSITION, self.get_extra_state()).tolist()
        write_network(folder, self._config(SUBSPACE_TYPE, Position(alpha, level, bool(activations))), weights)

    def save_pretrained(self, folder: str | PathLike) -> None:
        """Write the subspace as `save` does, into a folder that is made where there is none."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.save(folder)

    @classmethod
    def from_pretrained(cls, folder: str | PathLike, network: nn.Module | None = None) -> Self:
        """Read back what `save` wrote; it stands where it stood.

        Args:
            folder: that was written into.
            network: a plain network of one's own of the same shape, where no factory makes it; it is changed in place.

        Raises:
            ValueError: if the network cannot be made.
        """
        subspace = cls._made(folder, network)
        subspace.load_state_dict({**read_weights(folder), _POSITION: subspace.get_extra_state()}, assign=True)
        return subspace

    def save_level(self, folder: str | PathLike, level: float) -> None:
        """Write the network at a level alone, as small as it can be stored; the subspace stays where it is.

        `vision_extras.models.load_network` then gives what `export` gives, bit for bit.

        Args:
            folder: to write into; made where there is none.
            level: in the unit of the compression.

        Raises:
            ValueError: if the level is not one of those that were trained.
        """
        weights, metadata = self._packed(level)
        position = dataclasses.replace(self.position, alpha=self.compression.alpha(level), level=level)
        Path(folder).mkdir(parents=True, exist_ok=True)
        write_network(folder, self._config(LEVEL_TYPE, position), weights, metadata)

    def level_size(self, level: float) -> int:
        """Bytes that the tensors at a level take when `save_level` writes them."""
        return packed_size(self._packed(level)[0])

    @classmethod
    def load_level(cls, folder: str | PathLike, network: nn.Module | None = None) -> nn.Module:
        """Read back what `save_level` wrote.

        Args:
            folder: that was written into.
            network: as in `from_pretrained`.

        Returns:
            A plain module.

        Raises:
            ValueError: if the network cannot be made.
        """
        subspace = cls._made(folder, network)
        plain = subspace.export(subspace.position.level)
        plain.load_state_dict(read_weights(folder), assign=True)
        return plain

    def _packed(self, level: float) -> tuple[dict[str, Tensor], dict[str, str]]:
        grids = self.compression.grids(copy.deepcopy(self).at_level(level).network)
        return pack(self.export(level).state_dict(), grids)

    def _config(self, model_type: str, position: Position) -> dict[str, Any]:
        return {
            "model_type": model_type,
            "network": shape_of(self.network),
            "compression": {"name": self.compression.name, **dataclasses.asdict(self.compression)},
            "keep": self.keep,
            "lines": self.lines,
            "norm": self.norm,
            "groups": self.groups,
            "image": self.image,
            "position": dataclasses.asdict(position),
        }

    @classmethod
    def _made(cls, folder: str | PathLike, network: nn.Module | None) -> Self:
        """A subspace as that of a folder, with other weights."""
        config = read_config(folder)
        network = network_of(config["network"], network)
        kind, levels = COMPRESSIONS[config["compression"].pop("name")], config["compression"]
        lines, norms = config["lines"], (config["norm"], config["groups"])
        subspace = cls(network, kind(**levels), config["keep"], network if lines else None, *norms, lines)
        subspace.image = config["image"] and tuple(config["image"])
        position = config["position"]
        subspace.set_extra_state(torch.tensor([*position.values()], dtype=torch.float64))
        return subspace
