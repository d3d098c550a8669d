# SPDX-License-Identifier: Apache-2.0
"""Count what trains, by group."""

from __future__ import annotations

from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from hylora.adapters.quantization import count_elements
from hylora.adapters.structure import GROUPS, base_model, base_modules, find_groups, unwrapped

__all__ = ["print_trainable_parameters", "trainable_groups"]


def trainable_groups(model: nn.Module) -> dict[str, int]:
    """Count the trainable parameters of each group.

    Args:
        model: a transformers model, bare or wrapped by PEFT, DDP or FSDP.

    Returns:
        Numbers of parameters that require gradients, shared ones once: "attention" (projections, with the LoRA on
        them), "embeddings", "norms", "convs", and "other" for everything else, such as an untied head. An absent
        group counts zero.

    Raises:
        ValueError: `model` holds no transformers model.
    """
    group_of = {
        id(parameter): group
        for group, modules in find_groups(model).items()
        for module in modules.values()
        for parameter in module.parameters()
    }
    counts = dict.fromkeys((*GROUPS, "other"), 0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            counts[group_of.get(id(parameter), "other")] += parameter.numel()
    return counts


def print_trainable_parameters(model: nn.Module) -> None:
    """Print the trainable parameters by group, each with its share of the base model's parameters.

    Args:
        model: as for `trainable_groups`.

    Raises:
        ValueError: `model` holds no transformers model.
    """
    counts = trainable_groups(model)
    size = _base_size(model)
    rows = [*counts.items(), ("trainable", sum(counts.values()))]
    for name, count in rows:
        print(f"{name:<10} {count:>15,} {100 * count / size:9.4f} %")
    print(f"{'model':<10} {size:>15,}")


def _base_size(model) -> int:
    """Number of parameters of the base model, without LoRA weights and without trained copies."""
    sizes = {}
    for _, module in base_modules(base_model(model)):
        is_wrapper = isinstance(module, (AuxiliaryTrainingWrapper, BaseTunerLayer))
        own = unwrapped(module).parameters() if is_wrapper else module.parameters(recurse=False)
        sizes.update((id(parameter), count_elements(parameter)) for parameter in own)
    return sum(sizes.values())
