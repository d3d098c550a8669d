# SPDX-License-Identifier: Apache-2.0
"""What the questions of an audit are called, and what a "yes" says; read without torch, to refuse what is misspelt."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hylora.attention.config import SpanConfig, expand_preset
from hylora.attention.names import check_options, resolve_name
from hylora.words import nearest

__all__ = ["BY_NAME", "STATEMENTS", "check_asked"]

STATEMENTS = {
    "packed": "Documents packed by position_ids equal separate ones",
    "indexed": "... packed by seq_idx and cu_seq_lens as well",
    "padded_left": "Rows padded on the left equal unpadded ones",
    "padded_right": "Rows padded on the right equal unpadded ones",
    "gradients": "Everything that is trained gets a gradient",
    "used": "Everything that is trained changes the output",
    "precise": "What is trained is kept in float32",
    "matched": "Every name among the adapter's targets is a module's",
    "merged": "Merging, saving and loading change no output",
    "merged_by_peft": "... where PEFT's merge_and_unload merges",
    "saved": "Saving and loading change no output",
    "cached": "generate with a cache equals generate without",
    "continued": "Several tokens may continue a filled cache",
    "positions": "Tokens that continue a cache find their positions",
    "span_cached": "generate with a SpanCache equals generate without a cache",
    "own_features": "The model's own window, soft-capping, sinks, dropout and scale survive the attention",
    "causal": "A later token changes no earlier output",
    "checkpointed": "Gradient checkpointing gives the same gradients",
    "context_parallel": "One sequence may be split among devices (context parallelism)",
}

# Questions that are asked only by name, and why: the answer says what a class of models can't do, not what goes wrong.
BY_NAME = {"context_parallel": "hylora train splits no sequence; to ask, name it (--ask context_parallel)"}


def check_asked(ask: Iterable[str], attention: str | None, options: dict[str, Any]) -> None:
    """Refuse what no audit can answer.

    Args:
        ask: names of questions.
        attention: the attention to ask about.
        options: fields of `SpanConfig` for it.

    Raises:
        ValueError: if the attention, an option or a name is unknown.
    """
    for name in ask:
        if name not in STATEMENTS:
            raise ValueError(f"ask={name!r} is not a question; did you mean {nearest(name, STATEMENTS)!r}?")
    if attention is None and options:
        raise ValueError(f"{', '.join(options)} must come with an attention; name it")
    if attention is not None:
        resolve_name(attention)
        check_options(attention, options)
        SpanConfig.from_dict(expand_preset(options, attention))
