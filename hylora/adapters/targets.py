# SPDX-License-Identifier: Apache-2.0
"""Refuse adapters that PEFT accepts but that would not train, or would train something else than was asked."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import math
import re
from dataclasses import MISSING, fields

from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from torch import nn

from hylora.adapters.structure import base_model, base_modules, is_attention, is_depthwise, unwrapped
from hylora.words import nearest

__all__ = ["check_options", "check_targets", "is_bypassed", "linear_targets"]

# Fields of `LoraConfig` that keep what HyLoRA promises: tested, or set by PEFT itself.
_KEPT = {
    *("r", "lora_alpha", "lora_dropout", "use_dora", "use_rslora", "rank_pattern", "alpha_pattern"),
    *("target_modules", "exclude_modules", "target_parameters", "layers_to_transform", "layers_pattern"),
    *("modules_to_save", "ensure_weight_tying", "init_lora_weights", "fan_in_fan_out"),
    *("peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
    *("inference_mode", "runtime_config", "megatron_core", "qalora_group_size"),
}
_INITS = (True, False, "gaussian", "orthogonal")
# Why others are refused, where more can be said than that nobody has tried them.
_REASONS = {
    "bias": "it trains the base's own biases in place, so that switching the adapter off does not give the base back",
    "trainable_token_indices": "train the embeddings in full instead: variant='longlora'",
    "layer_replication": "the model would have other layers than its config says, and could not be merged",
    "alora_invocation_tokens": "what acts on some tokens only cannot be merged",
    "monteclora_config": "it adds a loss of its own, which is not computed here",
    "kasa_config": "it changes the base's own weights, which the saved adapter does not hold",
}


def check_options(config: LoraConfig) -> None:
    """Refuse fields of a `LoraConfig` that break what HyLoRA promises, or that nobody has tried with it.

    Raises:
        ValueError: naming the field, its value and the reason.
    """
    for item in fields(config):
        value = getattr(config, item.name)
        default = item.default if item.default_factory is MISSING else item.default_factory()
        if item.name not in _KEPT and value != default:
            reason = _REASONS.get(item.name, "it has not been tested with modules trained in full, and with merging")
            raise ValueError(f"{item.name}={value!r} must be left out: {reason}")
    if config.init_lora_weights not in _INITS:
        raise ValueError(
            f"init_lora_weights={config.init_lora_weights!r} must be one of {', '.join(map(str, _INITS))}: others "
            "need data, or change the base's own weights (shared ones once for each use), and the saved adapter would "
            "belong to a base that is saved nowhere"
        )


def check_targets(model: nn.Module, config: LoraConfig) -> None:
    """Refuse LoRA targets that PEFT accepts but that would not train, or not as asked.

    Args:
        model: the model that the config is for.
        config: any `LoraConfig`.

    Raises:
        ValueError: no module is a target; a target is a depthwise convolution, or a projection of a recurrent mixer
            whose weight the mixer reads past the projection's forward; a parameter, an exclusion, a layer or a pattern
            matches nothing, which PEFT would pass over; PEFT would put the LoRA somewhere else.
    """
    base = base_model(model)
    _check_excluded(base, config)
    targets = _target_modules(base, config)
    parameters = _target_parameters(base, config.target_parameters or ())
    _check_layers(base, config)
    if not targets and not parameters:
        as_text = "; as text it is a regular expression for whole names: for names that end so, give a list"
        raise ValueError(
            f"target_modules={config.target_modules!r} must match a module of {type(base).__name__} that is not among "
            f"those trained in full (modules_to_save={config.modules_to_save!r})"
            f"{as_text if isinstance(config.target_modules, str) else ''}"
        )
    for name in [*targets, *(parameter.rpartition(".")[0] for parameter in parameters)]:
        if is_depthwise(unwrapped(base.get_submodule(name))):
            raise ValueError(
                f"target_modules must not name {name}, a depthwise convolution: the rank would have to be a multiple "
                "of the channels, and the mixer never calls the module; train it in full: variant='hylora'"
            )
        if is_bypassed(base, name):
            parent, _, child = name.rpartition(".")
            raise ValueError(
                f"target_modules must not name {name}: {type(base.get_submodule(parent)).__name__} reads "
                f"{child}.weight itself (for its fused kernel, where one is installed), and training would silently "
                f"skip a LoRA that evaluation applies; leave {child!r} out"
            )
    _check_experts(base, config, targets)
    _check_patterns(config, [*targets, *parameters])


def linear_targets(base: nn.Module) -> list[str]:
    """Names of the linear layers that can train a LoRA, without the output head, which "all-linear" leaves out too.

    Args:
        base: a transformers model, whose modules PEFT may have wrapped.
    """
    head = base.get_output_embeddings()
    linear = [n for n, m in base_modules(base) if isinstance(unwrapped(m), nn.Linear) and m is not head]
    able = LoraConfig(target_modules=[name for name in linear if not is_bypassed(base, name)])
    return _target_modules(base, _as_peft_reads(base, able))


def _target_modules(base, config) -> list[str]:
    """Names of the modules that a config's `target_modules` match."""
    return [name for name, _ in base_modules(base) if name and check_target_module_exists(config, name)]


def _as_peft_reads(base, config) -> LoraConfig:
    """The config that PEFT makes of one.

    For some mixtures of experts it takes the names that the experts' projections had before transformers 5, wherever
    they stand, for the parameters that hold all experts now; and of a regular expression it keeps the last names.
    """
    config = copy.deepcopy(config)
    convert_peft_config_for_transformers(config, model=base, conversions=None)
    return config


def _check_experts(base, config, targets) -> None:
    """Raise where PEFT would put the LoRA on experts, or on more modules, than the names say."""
    read = _as_peft_reads(base, config)
    if moved := set(targets) ^ set(_target_modules(base, read)):
        raise ValueError(
            f"target_modules={config.target_modules!r} must not match {min(moved)}: for {type(base).__name__}, PEFT "
            f"would make of it target_modules={sorted(read.target_modules)} and target_parameters="
            f"{sorted(read.target_parameters or ())}; name others, as a list, and experts in target_parameters"
        )


def is_bypassed(base: nn.Module, name: str) -> bool:
    """Whether the module `name` is a child of a recurrent mixer whose code reads the weight past the child's forward.

    Softmax attention calls its projections, whatever else its code says of their weights.
    """
    parent, _, child = name.rpartition(".")
    mixer = base.get_submodule(parent)
    return not is_attention(unwrapped(mixer)) and child in _weights_read_directly(mixer)


def _target_parameters(base, suffixes) -> list[str]:
    """Names of the parameters that PEFT matches to `suffixes`, each of which must match one."""
    names = [
        f"{name}.{leaf}"
        for name, module in base_modules(base)
        for leaf, _ in unwrapped(module).named_parameters(recurse=False)
    ]
    for suffix in suffixes:
        if not any(name.endswith(f".{suffix}") for name in names):
            raise ValueError(
                f"target_parameters={suffix!r} must match a parameter of {type(base).__name__}; the nearest is "
                f"{nearest(suffix, names)!r}"
            )
    return [name for name in names if any(name.endswith(f".{suffix}") for suffix in suffixes)]


def _check_excluded(base, config) -> None:
    """Raise for an exclusion that excludes nothing."""
    excluded = config.exclude_modules or ()
    names = [name for name, _ in base_modules(base)]
    if isinstance(excluded, str):
        if not any(re.fullmatch(excluded, name) for name in names):
            raise ValueError(
                f"exclude_modules={excluded!r} must match the whole name of a module of {type(base).__name__}, for as "
                f"text it is a regular expression; for names that end so, give a list: [{excluded}]"
            )
        return
    for suffix in excluded:
        if not any(name == suffix or name.endswith(f".{suffix}") for name in names):
            raise ValueError(
                f"exclude_modules={suffix!r} must match a module of {type(base).__name__}; the nearest is "
                f"{nearest(suffix, names)!r}"
            )


def _check_layers(base, config) -> None:
    """Raise for a layer without a target."""
    layers = config.layers_to_transform
    for layer in [layers] if isinstance(layers, int) else layers or ():
        alone = copy.copy(config)
        alone.layers_to_transform = [layer]
        if not _target_modules(base, alone):
            raise ValueError(
                f"layers_to_transform={layer!r} must be a layer with a target (target_modules="
                f"{config.target_modules!r}); in a hybrid, many layers have no attention"
            )


def _check_patterns(config, targets) -> None:
    """Raise for a pattern of ranks or scales that no target follows."""
    for field_name in ("rank_pattern", "alpha_pattern"):
        for pattern, value in (getattr(config, field_name) or {}).items():
            kinds, kind = ((int,), "an integer") if field_name == "rank_pattern" else ((int, float), "a number")
            if isinstance(value, bool) or not isinstance(value, kinds) or not 1 <= value < math.inf:
                raise ValueError(f"{field_name}.{pattern}={value!r} must be {kind} of at least 1")
            try:
                found = any(get_pattern_key([pattern], name) != name or pattern == name for name in targets)
            except re.error as error:
                raise ValueError(f"{field_name}={pattern!r} is not a regular expression: {error}") from error
            if not found:
                raise ValueError(
                    f"{field_name}={pattern!r} must match a target; the nearest is {nearest(pattern, targets)!r}"
                )


def _weights_read_directly(mixer) -> set[str]:
    """Children of a recurrent mixer whose `.weight` its own code reads, past their forward and any LoRA on it."""
    has_conv = any(is_depthwise(unwrapped(child)) for child in mixer.children())
    return _weights_in_code(type(mixer)) if has_conv else set()


@functools.cache
def _weights_in_code(module_class) -> set[str]:
    """Names in `self.<name>.weight` in the code of a class and of those it inherits from."""
    names = set()
    for base in module_class.__mro__:
        # sharding makes classes that have no source of their own
        with contextlib.suppress(OSError, TypeError):
            names |= set(re.findall(r"self\.(\w+)\.weight\b", inspect.getsource(base)))
    return names
