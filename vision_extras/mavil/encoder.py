# SPDX-License-Identifier: Apache-2.0
"""Encoders: transformers over the visible patches."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.models.vit.modeling_vit import ViTLayer

from vision_extras.mavil.config import MavilConfig
from vision_extras.mavil.patches import taken

__all__ = ["Encoder", "Fusion"]


class Encoder(nn.Module):
    """The encoder of one modality, a vision transformer without a class token.

    Args:
        config: of the learner.
        values: numbers in a patch.
        layers: how many.
        drop_path: of the last layer; see `MavilConfig`.
    """

    def __init__(self, config: MavilConfig, values: int, layers: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.patches = nn.Linear(values, config.hidden_size)
        self.layers = nn.ModuleList(ViTLayer(config.encoder()) for _ in range(layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        # What is only looked at need not be projected (section 5.3.2): MAViL projects all, and then masks.
        self._project_visible = config.diffusion
        self._skipped = [drop_path * number / max(layers - 1, 1) for number in range(layers)]

    def forward(self, patches: Tensor, positions: Tensor, visible: Tensor | None = None) -> Tensor:
        """Encode patches.

        Args:
            patches: [B, N, P].
            positions: [N, D].
            visible: [B, V, v], int64, of V views: the numbers of the patches that are seen; None for one view of all.

        Returns:
            [B, V, v, D].
        """
        patches = patches.to(self.patches.weight.dtype)
        positions = positions.to(patches.dtype).expand(len(patches), -1, -1)
        if visible is None:
            tokens = (self.patches(patches) + positions)[:, None]
        elif self._project_visible:
            seen = visible.flatten(1)
            tokens = (self.patches(taken(patches, seen)) + taken(positions, seen)).unflatten(1, visible.shape[1:])
        else:
            tokens = taken(self.patches(patches) + positions, visible.flatten(1)).unflatten(1, visible.shape[1:])
        views, tokens = tokens.shape[:2], tokens.flatten(0, 1)
        for layer, rate in zip(self.layers, self._skipped, strict=True):
            tokens = _skipped(tokens, layer(tokens), rate) if self.training and rate else layer(tokens)
        return self.norm(tokens).unflatten(0, views)


def _skipped(tokens: Tensor, passed: Tensor, rate: float) -> Tensor:
    """Stochastic depth (Huang et al., 2016): what a layer adds, kept for some rows and scaled to the same mean."""
    kept = torch.empty(len(tokens), 1, 1, device=tokens.device, dtype=tokens.dtype).bernoulli_(1 - rate) / (1 - rate)
    return tokens + kept * (passed - tokens)


class Fusion(nn.Module):
    """The encoder over the tokens of both modalities.

    Args:
        config: of the learner.
    """

    def __init__(self, config: MavilConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ViTLayer(config.encoder()) for _ in range(config.fusion_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, audio: Tensor, video: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [B, a, D] and [B, v, D] of one clip each, in the light of the other's."""
        tokens = torch.cat([audio, video], dim=1)
        for layer in self.layers:
            tokens = layer(tokens)
        return self.norm(tokens).split([audio.shape[1], video.shape[1]], dim=1)
