# SPDX-License-Identifier: Apache-2.0
"""Decoders: from the visible patches' tokens to the masked patches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.swin.modeling_swin import SwinLayer
from transformers.models.vit.modeling_vit import ViTLayer

from vision_extras.mavil.config import MavilConfig
from vision_extras.mavil.patches import Grid, in_order, taken

__all__ = ["CrossLayers", "Decoder", "LocalLayers", "SelfLayers"]


class SelfLayers(nn.Module):
    """All patches attend to all.

    Args:
        config: of the learner.
    """

    def __init__(self, config: MavilConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ViTLayer(config.decoder()) for _ in range(config.decoder_layers))

    def forward(self, visible: Tensor, masked: Tensor, places: Tensor, grid: Grid) -> Tensor:
        """Tokens of masked patches after the layers.

        Args:
            visible: [B, v, D].
            masked: [B, m, D].
            places: [B, v + m], int64: which patches they are, first the visible ones.
            grid: that the patches lie in.

        Returns:
            [B, m, D].
        """
        tokens = in_order(visible, masked, places)
        for layer in self.layers:
            tokens = layer(tokens)
        return taken(tokens, places[:, visible.shape[1] :])


class LocalLayers(nn.Module):
    """Patches attend to those in the same window, and windows shift from layer to layer (Liu et al., 2021).

    Args:
        config: of the learner.
    """

    def __init__(self, config: MavilConfig) -> None:
        super().__init__()
        size, heads = config.decoder_size, config.decoder_heads
        # A layer uses the grid that it is made with for nothing but this check of its size.
        grid = 2 * config.window, 2 * config.window
        shifts = [number % 2 * (config.window // 2) for number in range(config.decoder_layers)]
        self.layers = nn.ModuleList(SwinLayer(config.local(), size, grid, heads, shift_size=shift) for shift in shifts)

    def forward(self, visible: Tensor, masked: Tensor, places: Tensor, grid: Grid) -> Tensor:
        """As `SelfLayers.forward`; the grid has two sides."""
        tokens = in_order(visible, masked, places)
        for layer in self.layers:
            # Windows of the layer's own size, whatever the grid was before.
            tokens = layer(tokens, grid, always_partition=True)[0]
        return taken(tokens, places[:, visible.shape[1] :])


class CrossLayers(nn.Module):
    """Masked patches attend to visible ones alone, and visible ones stay as they are (section 5.2.1).

    Args:
        config: of the learner.
    """

    def __init__(self, config: MavilConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_CrossLayer(config) for _ in range(config.decoder_layers))

    def forward(self, visible: Tensor, masked: Tensor, places: Tensor, grid: Grid) -> Tensor:
        """As `SelfLayers.forward`."""
        for layer in self.layers:
            masked = layer(masked, visible)
        return masked


class _CrossLayer(GradientCheckpointingLayer):
    """Attention from some tokens to others, and a feed-forward layer, with norms before them."""

    def __init__(self, config: MavilConfig) -> None:
        super().__init__()
        size = config.decoder_size
        self._heads = config.decoder_heads
        self.norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.norm_context = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.query, self.key, self.value = (nn.Linear(size, size) for _ in range(3))
        self.output = nn.Linear(size, size)
        widened = nn.Linear(size, 4 * size), nn.GELU(), nn.Linear(4 * size, size)
        self.mlp = nn.Sequential(nn.LayerNorm(size, eps=config.layer_norm_eps), *widened)

    def forward(self, tokens: Tensor, context: Tensor) -> Tensor:
        context = self.norm_context(context)
        projected = self.query(self.norm(tokens)), self.key(context), self.value(context)
        heads = (each.unflatten(2, (self._heads, -1)).transpose(1, 2) for each in projected)
        attended = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        tokens = tokens + self.output(attended)
        return tokens + self.mlp(tokens)


class Decoder(nn.Module):
    """The decoder of one modality.

    Args:
        config: of the learner.
        values: numbers in a patch.
        layers: how patches attend to each other.
    """

    def __init__(self, config: MavilConfig, values: int, layers: SelfLayers | LocalLayers | CrossLayers) -> None:
        super().__init__()
        size = config.decoder_size
        self.embed = nn.Linear(config.hidden_size, size)
        # Of a masked patch there is a noisy version, or nothing but one token for all.
        self.noisy = nn.Linear(values, size) if config.diffusion else None
        self.mask_token = None if config.diffusion else nn.Parameter(self.embed.weight.new_zeros(size))
        self.layers = layers
        self.norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.predict = nn.Linear(size, values)

    def forward(
        self, latents: Tensor, noisy: Tensor | None, positions: Tensor, visible: Tensor, masked: Tensor, grid: Grid
    ) -> Tensor:
        """Predict the masked patches.

        Args:
            latents: of the visible patches, [B, v, D].
            noisy: the masked patches with noise, [B, m, P]; None without diffusion.
            positions: [N, decoder D].
            visible: which patches those are, [B, v], int64.
            masked: likewise, [B, m].
            grid: that the patches lie in.

        Returns:
            [B, m, P].
        """
        positions = positions.to(latents.dtype).expand(len(latents), -1, -1)
        filled = self.mask_token if self.noisy is None else self.noisy(noisy.to(self.noisy.weight.dtype))
        tokens = self.embed(latents) + taken(positions, visible), filled + taken(positions, masked)
        places = torch.cat([visible, masked], dim=1)
        return self.predict(self.norm(self.layers(*tokens, places, grid)))
