# SPDX-License-Identifier: Apache-2.0
"""RoPE scaling: rotary positions for contexts longer than those a model was trained on.

What is set are transformers' own RoPE parameters, so that a scaled model is an ordinary one: its configuration says
all there is to know, and nothing of hylora is needed to run it.
"""

from __future__ import annotations

import copy
import logging
import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from transformers import PretrainedConfig

__all__ = ["RopeScaling", "admit_context"]

logger = logging.getLogger(__name__)

RopeType = Literal["linear", "dynamic", "yarn"]
_YARN_OPTIONS = ("beta_fast", "beta_slow", "attention_factor", "truncate")


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How rotary positions are stretched beyond the context a model was trained with.

    `linear` divides every position by the factor (position interpolation, arXiv:2306.15595; what LongLoRA does),
    `dynamic` raises the base with the length of the sequence (dynamic NTK), `yarn` divides only the slow rotations
    (arXiv:2309.00071). Formulas in docs/guides/rope.md.

    Args:
        type: linear, dynamic or yarn.
        factor: how many times longer the context becomes; `auto` is the sequence length over the model's own context,
            and scales nothing where the sequence fits or the model has no rotary positions.
        original_max_position_embeddings: tokens of context the model was trained with; null for the
            `max_position_embeddings` of its config, which some hybrids set far higher.
        beta_fast: of yarn; dimensions that turn more often within the original context keep their frequency.
        beta_slow: of yarn; dimensions that turn less often are divided by the whole factor.
        attention_factor: of yarn; scale on queries and keys, null for 0.1 ln(factor) + 1.
        truncate: of yarn; round the dimensions of both bounds outwards to whole ones.

    Raises:
        ValueError: if a value is out of its range, or an option belongs to another type.
    """

    type: RopeType = "linear"
    factor: float | Literal["auto"] = "auto"
    original_max_position_embeddings: int | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    truncate: bool = True

    def __post_init__(self) -> None:
        if self.type not in get_args(RopeType):
            raise ValueError(f"type={self.type!r} is not one of {', '.join(get_args(RopeType))}")
        if self.factor != "auto" and not (isinstance(self.factor, (int, float)) and 1 <= self.factor < math.inf):
            raise ValueError(f"factor={self.factor!r} must be at least 1, or auto")
        original = self.original_max_position_embeddings
        if original is not None and original < 1:
            raise ValueError(f"original_max_position_embeddings={original!r} must be at least 1")
        if not 0 < self.beta_slow < self.beta_fast:
            raise ValueError(f"beta_slow={self.beta_slow!r} must be above 0 and below beta_fast={self.beta_fast!r}")
        if self.attention_factor is not None and not self.attention_factor > 0:
            raise ValueError(f"attention_factor={self.attention_factor!r} must be above 0, or null")
        if self.type != "yarn" and self._yarn_options():
            name, value = self._yarn_options().popitem()
            raise ValueError(f"{name}={value!r} is an option of type='yarn', but type={self.type!r}")

    def __str__(self) -> str:
        return f"{self.type}:{self.factor:g}" if self.factor != "auto" else f"{self.type}:auto"

    @classmethod
    def parse(cls, text: str) -> RopeScaling:
        """A scaling from `TYPE:FACTOR`, such as `yarn:4`.

        Raises:
            ValueError: if the text is not of that form, or names no scaling.
        """
        kind, colon, factor = text.partition(":")
        try:
            number = float(factor)
        except ValueError:
            raise ValueError(f"{text!r} is not of the form TYPE:FACTOR, for example yarn:4") from None
        return cls(type=kind, factor=number)

    def apply(
        self, config: PretrainedConfig, length: int | None = None, *, trust_remote_code: bool = False
    ) -> dict[str, Any]:
        """Scale the RoPE of a model that is yet to be built, in its configuration.

        `max_position_embeddings` follows for linear and yarn. For dynamic it stays the original context, from which
        transformers computes the base.

        Args:
            config: of the model; changed in place.
            length: tokens of the sequences to come, from which `factor="auto"` follows.
            trust_remote_code: run code that comes with the model, to see whether it has rotary positions.

        Returns:
            The fields of the (text) configuration that were set; empty where `auto` found nothing to scale.

        Raises:
            ValueError: if the model has no rotary positions, or is scaled already, or the factor cannot be known, or
                its config would not keep the original context that dynamic scaling starts from.
        """
        text = config.get_text_config()
        if not _rotates(config, trust_remote_code):
            return self._nothing(f"model_type={text.model_type!r}, as configured, has no rotary positions")
        original = self.original_max_position_embeddings or getattr(text, "max_position_embeddings", None)
        if original is None and (self.factor == "auto" or self.type != "linear"):
            raise ValueError(
                f"RoPE scaling {self} needs the context that the model was trained with, and its config has no "
                "max_position_embeddings; set original_max_position_embeddings"
            )
        factor = self.factor
        if factor == "auto":
            if length is None:
                raise ValueError(f"RoPE scaling {self} has no sequence length to fit; give the factor as a number")
            if length <= original:
                return self._nothing(f"{length} tokens fit into the {original} positions of the model")
            factor = length / original
        current = text.rope_parameters
        if current.get("rope_type") != "default":
            raise ValueError(
                f"RoPE scaling {self} would replace the model's own RoPE parameters {current!r}, which are not the "
                "plain ones; leave the scaling out"
            )
        if self.type == "dynamic" and (read := _read_back(text, original)) != original:
            raise ValueError(
                f"RoPE scaling {self} starts from max_position_embeddings={original}, but a saved config of "
                f"model_type={text.model_type!r}, as configured, is read with {read}; leave "
                "original_max_position_embeddings out, or use yarn, which keeps it apart"
            )
        applied: dict[str, Any] = {"rope_parameters": {**current, "rope_type": self.type, "factor": float(factor)}}
        if self.type == "yarn":
            # Defaults are left out: other programs know them, but not all the names.
            applied["rope_parameters"] |= {"original_max_position_embeddings": original, **self._yarn_options()}
        if original is not None:
            applied["max_position_embeddings"] = original if self.type == "dynamic" else round(factor * original)
        for name, value in applied.items():
            setattr(text, name, value)
        return applied

    def _yarn_options(self) -> dict[str, Any]:
        """Options of YaRN that are not at their defaults."""
        options = {item.name: getattr(self, item.name) for item in fields(self) if item.name in _YARN_OPTIONS}
        return {name: value for name, value in options.items() if value != getattr(type(self), name)}

    def _nothing(self, reason: str) -> dict[str, Any]:
        if self.factor != "auto":
            raise ValueError(f"RoPE scaling {self} has nothing to scale: {reason}; leave the scaling out")
        logger.warning("RoPE scaling %s: nothing is scaled, for %s", self, reason)
        return {}


def admit_context(config: PretrainedConfig, trained: int | None) -> None:
    """Let a config say that its model is good for the context it was trained with; scaled RoPE has said so.

    Args:
        config: changed in place.
        trained: tokens in a training sequence, None where that is not known.
    """
    text = config.get_text_config()
    own = getattr(text, "max_position_embeddings", None)
    rope = getattr(text, "rope_parameters", None) or {}
    if own is not None and trained is not None and rope.get("rope_type", "default") == "default":
        text.max_position_embeddings = max(own, trained)


def _read_back(config: PretrainedConfig, max_position_embeddings: int) -> int:
    """What a saved `max_position_embeddings` is read as; Zamba2's `use_long_context` overrides it."""
    return (
        type(config)
        .from_dict({**config.to_dict(), "max_position_embeddings": max_position_embeddings})
        .max_position_embeddings
    )


def _rotates(config: PretrainedConfig, trust_remote_code: bool) -> bool:
    """Whether a model of this config has rotary positions; some configs have RoPE parameters that nothing reads."""
    if not getattr(config.get_text_config(), "rope_parameters", None):
        return False
    # Recipes are read and checked without the seconds that these take to import.
    import torch
    from transformers import AutoModelForCausalLM

    # Parameters without storage: the architecture shows itself at no cost.
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(copy.deepcopy(config), trust_remote_code=trust_remote_code)
    return any(hasattr(module, "rope_type") for module in skeleton.modules())
