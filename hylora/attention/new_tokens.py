# SPDX-License-Identifier: Apache-2.0
"""What a `SpanCache` hands to attention where other caches hand over all keys and values."""

from __future__ import annotations

from typing import Any, NoReturn

from torch import Tensor

__all__ = ["NewTokens"]


class NewTokens:
    """Keys and values of new tokens, with the cache's layer that holds those before them.

    An attention function is handed no cache, so the cache comes to it in the place of its keys. This is no tensor on
    purpose: an attention that does not know it stops at once, and cannot take the new tokens for all there are.

    Args:
        layer: the layer of the cache, which attends in `layer.attend(...)`.
        key: `[B, Hkv, n, D]`, after rotary embedding.
        value: `[B, Hkv, n, D]`.
    """

    def __init__(self, layer: Any, key: Tensor, value: Tensor) -> None:
        self.layer, self.key, self.value = layer, key, value

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        _refuse()

    def __getitem__(self, index: Any) -> NoReturn:
        _refuse()

    @classmethod
    def __torch_function__(cls, *arguments: Any) -> NoReturn:
        _refuse()


def _refuse() -> NoReturn:
    raise ValueError(
        "a SpanCache holds what span-expanded attention reads, and the model's attention is another one; call "
        "hylora.set_attention(model, 'se_attn'), or pass an ordinary cache such as transformers' DynamicCache"
    )
