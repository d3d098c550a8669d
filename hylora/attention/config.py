# SPDX-License-Identifier: Apache-2.0
"""The options of span-expanded attention and its rivals, as they are kept on a model's config."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

__all__ = ["SpanConfig"]

# The attribute of a transformers config that holds the options, so that `config.json` carries them.
CONFIG_ATTRIBUTE = "span_attention"

_CHOICES = {
    "selection": ("chunk", "causal"),
    "retrieval": ("relevance", "random", "none"),
    "summary": ("attention", "landmark", "mean_key"),
    "backend": ("auto", "reference", "torch", "flash", "triton"),
}


@dataclass(frozen=True)
class SpanConfig:
    """Options of the attention functions `se_attn`, `sw_attn` and `s2_attn` (chapter 6, sections 6.2 and 6.6.2).

    Args:
        block_size: S, tokens in a memory block.
        top_k: k, memory blocks that a selection retrieves; the expansion span is `block_size * top_k` tokens.
        chunk_size: M, tokens in a chunk. With several sizes, training draws one per attention layer and forward pass
            and evaluation uses the largest.
        selection: `"chunk"` chooses blocks once per chunk with all of its queries (the published rule: inside a chunk
            an early token's blocks depend on later queries). `"causal"` chooses once per group of queries with the
            group before it, so that no output depends on a later token.
        query_group: tokens in a group of queries under causal selection.
        retrieval: `"relevance"`, or the controls `"random"` (random past blocks) and `"none"` (no memory).
        summary: how a memory block is compressed: `"attention"` (equation 6.7), `"landmark"` (a fixed query attends
            over the block, section 6.6.2) or `"mean_key"` (the mean of its keys).
        backend: `"reference"`, `"torch"`, on GPUs `"flash"` and `"triton"`, or `"auto"` for the fastest on the device.
        window: tokens that a query of `sw_attn` sees, itself included.
        group: group of `s2_attn`, as a fraction of the sequence (a float up to 1) or in tokens (an int).
        seed: of the landmark query and of random retrieval. In training it is mixed with the forward pass's own draw,
            which also chooses the chunk sizes and comes from torch's generator.

    Raises:
        ValueError: if a value is out of its range, naming the field, the value and the remedy.
    """

    block_size: int = 32
    top_k: int = 8
    chunk_size: int | tuple[int, ...] = (2048, 4096)
    selection: str = "chunk"
    query_group: int = 64
    retrieval: str = "relevance"
    summary: str = "attention"
    backend: str = "auto"
    window: int = 4096
    group: float | int = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.chunk_size, list):
            object.__setattr__(self, "chunk_size", tuple(self.chunk_size))
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"{name}={value!r} is not one of {', '.join(map(repr, choices))}")
        for name, least in (("block_size", 1), ("top_k", 0), ("query_group", 1), ("window", 1), ("seed", 0)):
            _check_integer(name, getattr(self, name), least)
        if not self.chunk_sizes:
            raise ValueError("chunk_size=() holds no size; give one integer or several, for example (2048, 4096)")
        for size in self.chunk_sizes:
            _check_integer("chunk_size", size, 1)
            if size < self.block_size:
                raise ValueError(
                    f"block_size={self.block_size} is larger than chunk_size={size}; "
                    "a memory block must fit in a chunk"
                )
            if self.selection == "causal" and size % self.query_group:
                raise ValueError(
                    f"chunk_size={size} is not a multiple of query_group={self.query_group}, which causal selection "
                    "needs; change one of them"
                )
        _check_group(self.group)

    @property
    def chunk_sizes(self) -> tuple[int, ...]:
        """All chunk sizes, also where `chunk_size` is a single number."""
        return self.chunk_size if isinstance(self.chunk_size, tuple) else (self.chunk_size,)

    def to_dict(self) -> dict[str, Any]:
        """The options as plain JSON types."""
        values = asdict(self)
        if isinstance(self.chunk_size, tuple):
            values["chunk_size"] = list(self.chunk_size)
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SpanConfig:
        """Options from a dictionary; fields that are missing keep their defaults.

        Raises:
            ValueError: if a key is unknown, naming the nearest one.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"span_attention={values!r} must be a dictionary of options, as SpanConfig.to_dict gives")
        for key in values:
            if key not in cls.__annotations__:
                names = [field.name for field in fields(cls)]
                nearest = difflib.get_close_matches(key, names, n=1, cutoff=0.0)[0]
                raise ValueError(f"unknown attention option {key!r}; did you mean {nearest!r}?")
        return cls(**values)

    @classmethod
    def of(cls, config: Any) -> SpanConfig:
        """The options kept on a transformers config, or the defaults where it keeps none."""
        return cls.from_dict(getattr(config, CONFIG_ATTRIBUTE, None) or {})

    def keep_on(self, config: Any) -> None:
        """Keep the options on a transformers config, as a plain dictionary that `save_pretrained` writes."""
        setattr(config, CONFIG_ATTRIBUTE, self.to_dict())


def _check_integer(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}={value!r} must be an integer of at least {least}")


def _check_group(group: Any) -> None:
    tokens = isinstance(group, int) and not isinstance(group, bool) and group >= 1
    fraction = isinstance(group, float) and 0.0 < group <= 1.0
    if not (tokens or fraction):
        raise ValueError(
            f"group={group!r} must be a fraction of the sequence in (0, 1], for example 0.25, or a number of tokens"
        )
