# SPDX-License-Identifier: Apache-2.0
"""Sliding windows of a model's own: plug-ins replace full attention, and a layer with a window keeps it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hylora.architecture import full_attention_layers, windowed_layers
from hylora.attention.masks import Prefill

__all__ = ["own_window", "refuse_windows_alone"]


def refuse_windows_alone(name: str, config: Any) -> None:
    """Refuse a model whose attention layers all have windows.

    Args:
        name: of the attention, for messages.
        config: of the model.

    Raises:
        ValueError: as said.
    """
    config = config.get_text_config()
    if windowed_layers(config) and not full_attention_layers(config):
        raise ValueError(
            f"model_type={config.model_type!r} has a sliding window of its own in every attention layer "
            f"(sliding_window={config.sliding_window}), so there is no full attention for {name!r} to replace; use "
            "'sdpa', or set sliding_window to null in the config if full attention is what the model should "
            "approximate"
        )


def own_window(name: str, module: nn.Module, prefill: Prefill, asked: int | None) -> int | None:
    """The window that an attention layer keeps, by its mask; None where it has none.

    Args:
        name: of the attention, for messages.
        module: the layer.
        prefill: its mask.
        asked: the window that the layer asks its attention function for, as most do beside the mask.

    Raises:
        ValueError: if the layer asks for another window than its mask shows, or the model has no full attention, or
            its config tells otherwise which layers have windows.
    """
    window = prefill.window
    if asked is not None and asked != window:
        raise ValueError(
            f"{type(module).__name__} asks for the model's own sliding window (sliding_window={asked}), and its mask "
            f"shows {window or 'none'}; use 'sdpa'"
        )
    windowed = windowed_layers(module.config)
    if window is not None:
        refuse_windows_alone(name, module.config)
    # Asked for its number, a layer that is compiled by itself would be compiled anew for each.
    if not windowed and window is None or windowed and torch.compiler.is_compiling():
        return window
    layer = getattr(module, "layer_idx", None)
    if (window is not None) != (layer in windowed):
        shown = "no sliding window" if window is None else f"a sliding window of {window}"
        raise ValueError(
            f"{type(module).__name__} has {shown} by its mask in layer {layer}, and by its config layers {windowed} "
            f"have one; correct layer_types there, or use 'sdpa' in place of {name!r}"
        )
    return window
