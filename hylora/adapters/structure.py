# SPDX-License-Identifier: Apache-2.0
"""Find a model's attention projections, embeddings, norms and short convolutions by what they are, not by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn
from transformers import PreTrainedModel

__all__ = [
    "GROUPS",
    "base_model",
    "base_modules",
    "find_groups",
    "is_attention",
    "is_depthwise",
    "shortest_suffixes",
    "unwrapped",
]

GROUPS = ("attention", "embeddings", "norms", "convs")


def base_model(model: nn.Module) -> PreTrainedModel:
    """The transformers model inside `model`, which may be wrapped by PEFT, DDP or FSDP.

    Raises:
        ValueError: there is no transformers model inside.
    """
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            return module
    raise ValueError(f"model={type(model).__name__} must be a transformers model, or PEFT, DDP or FSDP around one")


def find_groups(model: nn.Module) -> dict[str, dict[str, nn.Module]]:
    """Find the modules that HyLoRA trains.

    - attention: the direct `nn.Linear` children of softmax attention modules, which are known by the `is_causal` and
      `scaling` that transformers' attention functions read from them (linear attention has neither);
    - embeddings: the input embedding. A head tied to it is the same parameter; an untied head is in no group;
    - norms: modules whose class name says norm and whose parameters are all vectors, norms inside mixers included;
    - convs: depthwise `nn.Conv1d`.

    Args:
        model: a transformers model, bare or already wrapped by PEFT. Wrapped modules are seen as what they wrap.

    Returns:
        For each of `GROUPS`, in the model's order, module by name; names are those of the base model.

    Raises:
        ValueError: `model` holds no transformers model.
    """
    base = base_model(model)
    groups = {group: {} for group in GROUPS}
    for name, module in base_modules(base):
        original = unwrapped(module)
        if is_attention(original):
            for child_name, child in original.named_children():
                if isinstance(unwrapped(child), nn.Linear):
                    groups["attention"][f"{name}.{child_name}"] = child
        if module is base.get_input_embeddings():
            groups["embeddings"][name] = module
        elif _is_norm(original):
            groups["norms"][name] = module
        elif is_depthwise(original):
            groups["convs"][name] = module
    return groups


def base_modules(base: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The named modules of the base model as they were before PEFT: nothing from inside PEFT's wrappers."""
    wrapped: tuple[str, ...] = ()
    for name, module in base.named_modules():
        if name.startswith(wrapped):
            continue
        if isinstance(module, (AuxiliaryTrainingWrapper, BaseTunerLayer)):
            wrapped += (f"{name}.",)
        yield name, module


def unwrapped(module: nn.Module) -> nn.Module:
    """The base model's own module behind a PEFT wrapper."""
    if isinstance(module, AuxiliaryTrainingWrapper):
        return module.original_module
    if isinstance(module, BaseTunerLayer):
        return module.get_base_layer()
    return module


def shortest_suffixes(wanted: Iterable[str], names: Iterable[str]) -> list[str]:
    """The shortest dotted suffixes that pick `wanted` out of `names`, and nothing more.

    PEFT matches modules_to_save by `str.endswith`, without regard for the dots: "norm" would take "input_layernorm".
    """
    wanted = set(wanted)
    others = [name for name in names if name not in wanted]
    suffixes = set()
    for name in wanted:
        parts = name.split(".")
        candidates = [".".join(parts[start:]) for start in reversed(range(len(parts)))]
        exact = [suffix for suffix in candidates if not any(other.endswith(suffix) for other in others)]
        if not exact:
            raise ValueError(f"{name!r} must not end another module's name, for PEFT matches modules by suffix")
        suffixes.add(exact[0])
    return sorted(suffixes)


def is_attention(module: nn.Module) -> bool:
    """Whether a module is softmax attention, as transformers' attention functions know it; linear attention is not."""
    return getattr(module, "is_causal", False) and hasattr(module, "scaling")


def is_depthwise(module: nn.Module) -> bool:
    """Whether a module is a depthwise 1-D convolution, such as the short convolution of an SSM mixer."""
    return isinstance(module, nn.Conv1d) and module.groups == module.in_channels > 1


def _is_norm(module: nn.Module) -> bool:
    """Whether a module normalises: its class says so and it has a scale (and maybe a shift), nothing larger."""
    parameters = list(module.parameters())
    says_norm = "norm" in type(module).__name__.lower()
    return says_norm and bool(parameters) and all(parameter.ndim == 1 for parameter in parameters)
