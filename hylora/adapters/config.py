# SPDX-License-Identifier: Apache-2.0
"""HyLoRA as a preset: look at a model, return the plain `LoraConfig` that trains the right modules."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import fields

from peft import LoraConfig
from peft.utils.constants import EMBEDDING_LAYER_NAMES
from torch import nn

from hylora.adapters.structure import base_model, base_modules, find_groups, shortest_suffixes, unwrapped
from hylora.adapters.targets import check_options, check_targets, linear_targets
from hylora.words import nearest

__all__ = ["VARIANTS", "HyLoraConfig"]

# What each variant trains in full; all of them put LoRA on the attention projections (chapter 6, section 6.2.4).
VARIANTS = {"lora": (), "longlora": ("embeddings", "norms"), "hylora": ("embeddings", "norms", "convs")}


class HyLoraConfig:
    """The HyLoRA presets. Not a PEFT config itself: `for_model` returns an ordinary `peft.LoraConfig`."""

    @staticmethod
    def for_model(
        model: nn.Module,
        variant: str = "hylora",
        r: int = 32,
        lora_alpha: int = 64,
        lora_dropout: float = 0.0,
        target_modules: str | list[str] | None = None,
        modules_to_save: str | Iterable[str] = (),
        **options,
    ) -> LoraConfig:
        """Resolve a HyLoRA variant for a model (chapter 6, sections 6.2.4 and 6.3.5).

        Every name in the result is the shortest suffix that PEFT matches to exactly the modules found, so the config
        stays small, and a saved adapter loads in plain PEFT without this package.

        Args:
            model: a transformers causal language model, bare or already carrying adapters.
            variant: "lora" (attention projections only), "longlora" (embeddings and norms as well: the thesis calls
                it LoRA+, a name that PEFT uses for something else) or "hylora" (the short convolutions as well).
            r: rank. The thesis uses 32 for hybrids and 8 for Llama.
            lora_alpha: the LoRA is scaled by lora_alpha / r. The thesis keeps lora_alpha = 2 r.
            lora_dropout: dropout on the LoRA's input.
            target_modules: other LoRA targets than the attention projections, as PEFT takes them: suffixes, one
                regular expression, or "all-linear", which here leaves out the output head and the projections that
                cannot train a LoRA (see `check_targets`).
            modules_to_save: further modules to train in full, such as an untied "lm_head", which no variant trains.
            **options: further fields of `LoraConfig`, such as `use_dora`, `use_rslora`, `rank_pattern`,
                `layers_to_transform` or `target_parameters`, which reaches the experts of a mixture.

        Returns:
            A plain `LoraConfig`; pass it to `add_adapter`, which makes every trainable parameter float32.

        Raises:
            ValueError: unknown variant; a group that the variant trains is not in the model; a target that matches
                nothing, is a depthwise convolution, or would silently be skipped; names that PEFT can't tell apart; an
                option that is unknown, or breaks what HyLoRA promises (`check_options`).
        """
        if variant not in VARIANTS:
            raise ValueError(f"variant={variant!r} must be one of {', '.join(VARIANTS)}")
        if isinstance(r, bool) or not isinstance(r, int) or r < 1:
            raise ValueError(f"r={r!r} must be an integer of at least 1; the thesis uses 32 for hybrids")
        if not 0 < lora_alpha < math.inf or not 0 <= lora_dropout < 1:
            raise ValueError(f"lora_alpha={lora_alpha!r} must be above 0, and lora_dropout={lora_dropout!r} in [0, 1)")
        # This one follows from the model.
        known = {item.name for item in fields(LoraConfig)} - {"ensure_weight_tying"}
        for name in options.keys() - known:
            raise ValueError(
                f"{name}={options[name]!r} is no field of LoraConfig; the nearest is {nearest(name, known)}"
            )
        base = base_model(model)
        groups = find_groups(model)
        names = [name for name, _ in base_modules(base) if name]
        _require_groups(type(base).__name__, groups, variant, target_modules)

        if target_modules is None:
            target_modules = shortest_suffixes(groups["attention"], names)
        elif target_modules == "all-linear":
            target_modules = shortest_suffixes(linear_targets(base), names)
        elif not isinstance(target_modules, str):
            _require_matches(type(base).__name__, target_modules, names)
        saved = {name for group in VARIANTS[variant] for name in groups[group]}
        for suffix in [modules_to_save] if isinstance(modules_to_save, str) else modules_to_save:
            matches = {name for name in names if name.endswith(suffix)}
            if not matches:
                raise ValueError(f"modules_to_save={suffix!r} must match a module of {type(base).__name__}")
            saved |= matches

        config = LoraConfig(
            r=r,
            lora_alpha=lora_alpha,
            lora_dropout=lora_dropout,
            target_modules=target_modules,
            modules_to_save=shortest_suffixes(saved, names) or None,
            ensure_weight_tying=_trains_tied_embedding(base, saved),
            **{"task_type": "CAUSAL_LM" if base.can_generate() else None, **options},
        )
        check_options(config)
        check_targets(model, config)
        return config


def _require_groups(model_name, groups, variant, target_modules):
    """Raise for a group that the variant needs and the model lacks."""
    if target_modules is None and not groups["attention"]:
        raise ValueError(
            f"{model_name} must have softmax attention with linear projections, which is where HyLoRA puts its LoRA, "
            "and has none; for a hybrid, check that its config places attention layers (as attn_layer_indices does); "
            "otherwise name the layers to adapt in target_modules"
        )
    if "convs" in VARIANTS[variant] and not groups["convs"]:
        raise ValueError(
            f"variant='hylora' must have depthwise 1-D convolutions to train, and {model_name} has none; for a model "
            "without SSM layers use variant='longlora' (adapter.variant=longlora in a recipe, --variant longlora)"
        )
    if "norms" in VARIANTS[variant] and not groups["norms"]:
        raise ValueError(
            f"variant={variant!r} must have normalisation layers to train, and {model_name} has none with parameters; "
            "use variant='lora', and modules_to_save for what else should train"
        )


def _require_matches(model_name: str, targets: Iterable[str], names: list[str]) -> None:
    """Raise for a target that PEFT would pass over, as it only asks that one of several matches."""
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            raise ValueError(f"target_modules={target!r} must match a module of {model_name}")


def _trains_tied_embedding(base, saved) -> bool:
    """Whether the input embedding and the head share a weight that is among the `saved` modules."""
    embedding, head = base.get_input_embeddings(), base.get_output_embeddings()
    if head is None or unwrapped(head).weight is not unwrapped(embedding).weight:
        return False
    names = [name for name, module in base_modules(base) if module is embedding or module is head]
    if saved.isdisjoint(names):
        return False
    if names[0].rpartition(".")[2] not in EMBEDDING_LAYER_NAMES:
        raise ValueError(
            f"{names[0]} must be called one of {EMBEDDING_LAYER_NAMES}, for it is tied to the output head, and PEFT "
            "keeps only those tied; use variant='lora', or untie the head first"
        )
    return True
