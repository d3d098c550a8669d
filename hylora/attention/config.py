# SPDX-License-Identifier: Apache-2.0
"""The options of span-expanded attention and its rivals, as they are kept on a model's config."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from hylora.words import nearest
from hylora_kernels.options import (
    BACKENDS,
    CONFIG_ATTRIBUTE,
    SpanOptions,
    check_choice,
    check_group,
    check_integer,
)

__all__ = ["CONFIG_ATTRIBUTE", "PRESETS", "PRESET_NAMES", "SpanConfig", "expand_preset"]

# What each preset says of the rule by which blocks are chosen. Chunks and backends are not its business.
PRESETS: dict[str, dict[str, Any]] = {
    "published": {"block_size": 32, "top_k": 8, "selection": "chunk", "summary": "attention"},
    "recall": {"block_size": 16, "top_k": 16, "selection": "token", "summary": "mean_std"},
}
for _preset in PRESETS.values():
    _preset.update(retrieval="relevance", pooling="sum")
# Names of attentions that stand for `se_attn` with a preset.
PRESET_NAMES = {"se_attn_recall": "recall"}

# Read here, for graphs cannot: a model may be compiled with its options.
_SHARED = tuple(field.name for field in fields(SpanOptions) if field.name != "chunk_size")

# By the content of what a config keeps: every layer of every forward pass asks for its options.
_parsed: dict[tuple[type, str], SpanConfig] = {}


def expand_preset(options: Mapping[str, Any], name: str | None = None) -> dict[str, Any]:
    """Options with those of their key `"preset"` in its place; what is given beside it wins.

    Args:
        options: fields of `SpanConfig`, and perhaps a preset.
        name: of the attention, which may stand for one.

    Raises:
        ValueError: if the options are no dictionary, the preset is unknown, or others choose than it says.
    """
    if not isinstance(options, Mapping):
        raise ValueError(f"span_attention={options!r} must be a dictionary of options, as SpanConfig.to_dict gives")
    given = dict(options)
    preset = given.pop("preset", None) or PRESET_NAMES.get(name)
    if preset is None:
        return given
    check_choice("preset", preset, tuple(PRESETS))
    whole = {**PRESETS[preset], **given}
    meant = PRESETS[PRESET_NAMES.get(name, preset)]["selection"]
    if whole["selection"] != meant:
        raise ValueError(
            f"selection={whole['selection']!r} contradicts {name if name in PRESET_NAMES else preset!r}, which means "
            f"selection={meant!r}; leave it out (hylora.set_attention replaces what a model's config keeps), or use "
            "'se_attn' without a preset"
        )
    return whole


@dataclass(frozen=True)
class SpanConfig(SpanOptions):
    """Options of the attention functions `se_attn`, `sw_attn` and `s2_attn` (chapter 6, sections 6.2 and 6.6.2).

    The kernels' options, of which `chunk_size` and `seed` mean more here, and what chooses among kernels and belongs
    to the rivals.

    Args:
        chunk_size: M, tokens in a chunk. With several sizes, training draws one per attention layer and forward pass
            and evaluation uses the largest.
        seed: of the landmark query and of random retrieval. In training it is mixed with the forward pass's own draw,
            which also chooses the chunk sizes and comes from torch's generator.
        backend: `"reference"`, `"torch"`, on GPUs `"flash"` and `"triton"`, or `"auto"` for the fastest on the device.
        window: tokens that a query of `sw_attn` sees, itself included.
        group: group of `s2_attn`, as a fraction of the sequence (a float up to 1) or in tokens (an int).

    Raises:
        ValueError: if a value is out of its range, naming the field, the value and the remedy.
    """

    chunk_size: int | tuple[int, ...] = (2048, 4096)
    backend: str = "auto"
    window: int = 4096
    group: float | int = 0.25

    def __post_init__(self) -> None:
        if isinstance(self.chunk_size, list):
            object.__setattr__(self, "chunk_size", tuple(self.chunk_size))
        if not self.chunk_sizes:
            raise ValueError("chunk_size=() must hold a size; give one integer or several, for example (2048, 4096)")
        shared = {name: getattr(self, name) for name in _SHARED}
        kernels = [SpanOptions(**shared, chunk_size=size) for size in self.chunk_sizes]
        object.__setattr__(self, "_kernels", {options.chunk_size: options for options in kernels})
        check_integer("seed", self.seed, minimum=0)
        check_choice("backend", self.backend, BACKENDS)
        check_integer("window", self.window, minimum=1)
        check_group(self.group)
        finds_nothing = self.chooses_for_next and self.retrieves and self.retrieval == "relevance"
        if finds_nothing and not _compiling():
            warnings.warn(
                f"selection='causal' with query_group={self.query_group} chooses by the queries before those that "
                "read, and finds no needle even with exact scores; use selection='token'",
                stacklevel=1,  # one place, which is shown once: a recipe makes several of these
            )

    @property
    def chunk_sizes(self) -> tuple[int, ...]:
        """All chunk sizes, also where `chunk_size` is a single number."""
        return self.chunk_size if isinstance(self.chunk_size, tuple) else (self.chunk_size,)

    def with_chunks_of(self, size: int) -> SpanOptions:
        """The kernels' options for one of the chunk sizes."""
        return self._kernels[size]

    def to_dict(self) -> dict[str, Any]:
        """The options as plain JSON types."""
        values = asdict(self)
        if isinstance(self.chunk_size, tuple):
            values["chunk_size"] = list(self.chunk_size)
        return values

    @classmethod
    def preset(cls, name: str, **changes: Any) -> SpanConfig:
        """Options that belong together.

        Args:
            name: `"published"`, the thesis's rule, whose blocks are no better than random ones; or `"recall"`: each
                token chooses, by mean and deviation of each block's keys, twice as many blocks of half the size.
            **changes: fields that differ.

        Raises:
            ValueError: if the name or a field is unknown, or a value is out of its range.
        """
        return cls.from_dict({"preset": name, **changes})

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SpanConfig:
        """Options from a dictionary; fields that are missing keep their defaults, or those of a key `"preset"`.

        Raises:
            ValueError: if a key or preset is unknown, naming the nearest one.
        """
        values = expand_preset(values)
        for key in values:
            if key not in cls.__dataclass_fields__:
                meant = nearest(key, cls.__dataclass_fields__)
                raise ValueError(f"unknown attention option {key!r}; did you mean {meant!r}?")
        return cls(**values)

    @classmethod
    def of(cls, config: Any) -> SpanConfig:
        """The options kept on a transformers config, or the defaults of its attention where it keeps none.

        Raises:
            ValueError: if the attention stands for a preset, and the options that are kept are of another rule.
        """
        kept = getattr(config, CONFIG_ATTRIBUTE, None) or {}
        kept = expand_preset(kept, getattr(config, "_attn_implementation", None))
        if _compiling():
            return cls.from_dict(kept)
        content = (cls, repr(kept))
        if content not in _parsed:
            _parsed[content] = cls.from_dict(kept)
        return _parsed[content]

    def keep_on(self, config: Any) -> None:
        """Keep the options on a transformers config, as a plain dictionary that `save_pretrained` writes."""
        setattr(config, CONFIG_ATTRIBUTE, self.to_dict())


def _compiling() -> bool:
    # Recipes hold these options too, and are read without the seconds that torch takes to import.
    import torch

    return torch.compiler.is_compiling()
