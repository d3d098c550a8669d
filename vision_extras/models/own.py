# SPDX-License-Identifier: Apache-2.0
"""Networks that are somebody's own modules."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from vision_extras.models.weights import StoredNetwork, drawn_from, read_config, read_weights, write_network

__all__ = ["MODEL_TYPE", "OwnNetwork", "find_factory", "given"]

MODEL_TYPE = "hylora_own"


class OwnNetwork(StoredNetwork):
    """A module from images to logits, which remembers how it was made.

    Args:
        module: from images [B, C, H, W] to logits [B, classes]. Its attributes `stride`, the least height and width
            that it takes, and `multiple`, of which they must be multiples, are looked at where it has them.
        factory: `package.module:function` that gives such a module, or None where nobody knows.
        arguments: of the factory.
    """

    def __init__(self, module: nn.Module, factory: str | None = None, arguments: Mapping[str, Any] | None = None):
        super().__init__()
        self.module = module
        self.factory = factory
        self.arguments = dict(arguments or {})

    @classmethod
    def make(cls, factory: str, draw: torch.Generator | None, /, **arguments: Any) -> OwnNetwork:
        """Call a factory.

        Args:
            factory: `package.module:function`.
            draw: gives the weights; None makes them on the meta device, with shapes alone.
            **arguments: for the factory, plain JSON values.

        Raises:
            ValueError: if there is no such function, it does not take these arguments, or it gives no module.
        """
        make = find_factory(factory)
        try:
            with drawn_from(draw):
                module = make(**arguments)
        except TypeError as error:
            raise ValueError(f"name={factory!r} fails when called with {', '.join(arguments)}: {error}") from error
        if not isinstance(module, nn.Module):
            raise ValueError(f"name={factory!r} must give a torch.nn.Module, not {type(module).__name__}")
        return cls(module, factory, arguments)

    @property
    def stride(self) -> int:
        """The least height and width that the module takes."""
        return getattr(self.module, "stride", 1)

    @property
    def multiple(self) -> int:
        """Heights and widths must be multiples of it."""
        return getattr(self.module, "multiple", 1)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] to logits [B, classes]."""
        return self.module(images)

    @property
    def shape(self) -> dict[str, Any]:
        return {"model_type": MODEL_TYPE, "factory": self.factory, "arguments": self.arguments}

    @classmethod
    def from_shape(
        cls, shape: Mapping[str, Any], draw: torch.Generator | None, module: nn.Module | None = None
    ) -> OwnNetwork:
        """A network of a shape.

        Args:
            shape: of another.
            draw: gives the weights; None makes them on the meta device, with shapes alone.
            module: that it is to be; None calls the factory that the shape names, which is code of the package that it
                is in: load only folders that you trust.

        Raises:
            ValueError: if there is neither a module nor a factory.
        """
        if module is None and shape["factory"] is not None:
            return cls.make(shape["factory"], draw, **shape["arguments"])
        return cls(given(module), shape["factory"], shape["arguments"])

    def save(self, folder: str | PathLike, state: Mapping[str, Tensor] | None = None) -> None:
        """Write the module's weights by its own names, and its factory; see `write_network`."""
        if state is not None:
            state = {name.removeprefix("module."): value for name, value in state.items()}
        write_network(folder, self.shape, self.module.state_dict() if state is None else state)

    @classmethod
    def load(cls, folder: str | PathLike, module: nn.Module | None = None) -> OwnNetwork:
        """Read back what `save` wrote.

        Args:
            folder: that was written into.
            module: to read the weights into; as in `from_shape`.

        Raises:
            ValueError: if there is neither a module nor a factory.
        """
        network = cls.from_shape(read_config(folder), torch.Generator(), module)
        network.module.load_state_dict(read_weights(folder))
        return network


def given(module: nn.Module | None) -> nn.Module:
    """A module that had to be passed, as nothing says how to make it.

    Raises:
        ValueError: if it is None.
    """
    if module is None:
        raise ValueError("the folder does not say how its network is made; pass it as network=")
    return module


def find_factory(name: str) -> Callable[..., Any]:
    """The function that `package.module:function` names.

    Raises:
        ValueError: naming what cannot be imported or is not there.
    """
    path, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(path)
    except (ImportError, ValueError) as error:
        raise ValueError(f"name={name!r}: {path} cannot be imported ({error}); is it installed, or here?") from error
    if not callable(getattr(module, attribute, None)):
        raise ValueError(f"name={name!r}: {path} has no function {attribute!r}")
    return getattr(module, attribute)
