# SPDX-License-Identifier: Apache-2.0
"""Convolutions of a network that stays as it is, as products of sparse matrices: faster on a CPU where most is zero.

The thesis has an engine of its own for that (section 4.5). Here each position of a kernel is a matrix of outputs by
inputs, in compressed rows, and is multiplied with the padded images, shifted to that position. Nothing is unfolded,
and a position without weights costs nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["SparseConvolution", "SparseProducts"]

# From where on products of sparse matrices are taken, in kernels of 1x1 and in larger ones: see
# docs/benchmarks/sparse_backbone_cpu.json.
_LEAST_OF_ONE, _LEAST = 0.85, 0.93


class SparseConvolution:
    """A convolution's forward pass, without gradients.

    Args:
        convolution: of stride 1, or of 1x1, without groups and dilation, and padded with zeros. Its weights are
            copied.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        self._height, self._width = convolution.kernel_size
        self._padding, self._stride = convolution.padding, convolution.stride
        self._bias = convolution.bias
        weight = convolution.weight.detach()
        self._outputs = len(weight)
        self._positions = []
        with warnings.catch_warnings():
            # torch calls its compressed rows a beta.
            warnings.simplefilter("ignore", UserWarning)
            for row in range(self._height):
                for column in range(self._width):
                    part = weight[:, :, row, column]
                    if part.any():
                        self._positions.append((row, column, part.contiguous().to_sparse_csr()))

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] to what the convolution gives, but for the order of sums."""
        if self._stride != (1, 1):
            images = images[:, :, :: self._stride[0], :: self._stride[1]]
        batch, channels, height, width = images.shape
        down, right = self._padding
        rows, columns = height + 2 * down, width + 2 * right
        pixels = batch * rows * columns
        # All images one after another; what is shifted beyond the last one reads zeros, and is not looked at.
        padded = images.new_zeros(channels, pixels + (self._height - 1) * columns + self._width - 1)
        inner = padded[:, :pixels].view(channels, batch, rows, columns)
        inner[:, :, down : down + height, right : right + width] = images.transpose(0, 1)
        found = images.new_zeros(self._outputs, pixels)
        for row, column, part in self._positions:
            shift = row * columns + column
            torch.addmm(found, part, padded[:, shift : shift + pixels], out=found)
        found = found.view(self._outputs, batch, rows, columns)
        found = found[:, :, : rows - self._height + 1, : columns - self._width + 1].transpose(0, 1).contiguous()
        return found if self._bias is None else found.add_(self._bias[:, None, None])


class SparseProducts:
    """The convolutions of a network that are taken as products of sparse matrices.

    Args:
        network: any module, whose weights do not change afterwards.
        least: the share of a convolution's weights that must be zero; None where it is faster so, as was measured.
    """

    def __init__(self, network: nn.Module, least: float | None = None) -> None:
        self.convolutions = {
            module: SparseConvolution(module)
            for module in network.modules()
            if isinstance(module, nn.Conv2d) and _fits(module) and _pays(module, least)
        }

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside the block they are; passes give no gradient through them."""
        for module, product in self.convolutions.items():
            module.forward = product
        try:
            yield
        finally:
            for module in self.convolutions:
                del module.forward


def _fits(module: nn.Conv2d) -> bool:
    plain = module.groups == 1 and module.dilation == (1, 1) and module.padding_mode == "zeros"
    whole = module.stride == (1, 1) or (module.kernel_size == (1, 1) and module.padding == (0, 0))
    return plain and whole and not isinstance(module.padding, str)


def _pays(module: nn.Conv2d, least: float | None) -> bool:
    if least is None:
        least = _LEAST_OF_ONE if module.kernel_size == (1, 1) else _LEAST
    return float((module.weight == 0).double().mean()) >= least
