# SPDX-License-Identifier: Apache-2.0
"""What attentions are called, here and in transformers."""

from __future__ import annotations

from typing import Any

from hylora.attention.config import PRESET_NAMES
from hylora.words import nearest

__all__ = ["ATTENTION_NAMES", "PLUG_INS", "check_options", "resolve_name"]

# The attentions of this package.
PLUG_INS = ("se_attn", *PRESET_NAMES, "sw_attn", "s2_attn")
ATTENTION_NAMES = (*PLUG_INS, "full", "sdpa", "eager", "flex_attention", "flash_attention_2", "flash_attention_3")

# "full" is what people call it; transformers' name for its default full attention is "sdpa". What stands for a preset
# is that name for as long as nobody has kept the preset's options on the model.
_ALIASES = {"full": "sdpa", **dict.fromkeys(PRESET_NAMES, "se_attn")}


def resolve_name(name: str, config: Any = None) -> str:
    """transformers' name of an attention: "full" means its default full attention, "se_attn_recall" is `se_attn` with
    the options that `expand_preset` gives.

    Args:
        name: of the attention.
        config: of the model, if it is known: full attention is "eager" where transformers has no "sdpa" for it.

    Raises:
        ValueError: if the name is unknown, naming the nearest one.
    """
    if name not in ATTENTION_NAMES:
        raise ValueError(
            f"unknown attention {name!r}; did you mean {nearest(name, ATTENTION_NAMES)!r}? "
            f"Known: {', '.join(ATTENTION_NAMES)}"
        )
    resolved = _ALIASES.get(name, name)
    return "eager" if resolved == "sdpa" and not _has_sdpa(config) else resolved


def _has_sdpa(config: Any) -> bool:
    """Whether the default full attention serves a model; scores with a bound and sinks it does not know."""
    if config is None:
        return True
    if getattr(config.get_text_config(), "attn_logit_softcapping", None):
        return False  # transformers 5.17 would take it for Gemma-2, and drop the bound
    # Names are read without the seconds that this takes to import.
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    return getattr(MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None), "_supports_sdpa", True)


def check_options(name: str, options: dict[str, Any]) -> None:
    """Refuse options of this package for an attention that reads none of them.

    Raises:
        ValueError: if there are options and the name is not a plug-in's.
    """
    if options and resolve_name(name) not in PLUG_INS:
        raise ValueError(
            f"attention {name!r} takes no options, but {', '.join(options)} was given; leave it out, or name one of "
            f"{', '.join(map(repr, PLUG_INS))}"
        )
