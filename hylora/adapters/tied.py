# SPDX-License-Identifier: Apache-2.0
"""Weights that a model uses in several places: a head tied to the embedding, blocks that several layers share."""

from __future__ import annotations

from collections import Counter

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import nn
from transformers import PreTrainedModel

from hylora.adapters.structure import base_model, base_modules, unwrapped

__all__ = ["share_trained", "tie_equal", "tie_head", "untie_adapted"]

_WRAPPERS = (BaseTunerLayer, ModulesToSaveWrapper)


def tie_head(model: PeftModel, adapter_name: str) -> None:
    """Tie the head of a further adapter: PEFT looks for tied weights by names that its own wrappers have changed."""
    base = base_model(model)
    embedding, head = base.get_input_embeddings(), base.get_output_embeddings()
    tie = model.peft_config[adapter_name].ensure_weight_tying
    if tie and isinstance(head, ModulesToSaveWrapper) and adapter_name not in head.modules_to_save:
        head.update(adapter_name, tied_module=embedding.modules_to_save[adapter_name])


def share_trained(model: PeftModel, adapter_name: str, only_equal: bool = False) -> None:
    """Let modules with the same frozen weights share what an adapter trains on them.

    PEFT gives every use of a weight parameters of its own, which no single merged weight could hold.

    Args:
        model: changed in place.
        adapter_name: the adapter.
        only_equal: share only between modules whose trained parameters have the same values.
    """
    first_uses = {}
    for _, module in base_modules(base_model(model)):
        if not isinstance(module, _WRAPPERS):
            continue
        trained = _trained(module, adapter_name)
        shapes = tuple((name, parameter.shape) for name, parameter in trained.items())
        first = first_uses.setdefault((shapes, *map(id, unwrapped(module).parameters())), trained)
        if only_equal and not all(torch.equal(first[name], trained[name]) for name in trained):
            continue
        for name in trained:
            parent, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(parent), leaf, first[name])


def untie_adapted(base: PreTrainedModel) -> None:
    """Give every module that carries LoRA frozen weights of its own, so that merging changes no other module."""
    uses = Counter(
        id(parameter)
        for _, module in base_modules(base)
        for parameter in (
            unwrapped(module).parameters() if isinstance(module, _WRAPPERS) else module.parameters(recurse=False)
        )
    )
    for _, module in base_modules(base):
        if isinstance(module, BaseTunerLayer):
            layer = module.get_base_layer()
            for name, parameter in list(layer.named_parameters(recurse=False)):
                if uses[id(parameter)] > 1:
                    setattr(layer, name, nn.Parameter(parameter.detach().clone(), parameter.requires_grad))


def tie_equal(base: PreTrainedModel) -> list[str]:
    """Tie again what a model declares as tied, where the values are the same.

    Args:
        base: a plain model, changed in place. Its config goes on saying that weights are tied if any are.

    Returns:
        Names of the weights that stay apart.
    """
    declared = base.get_expanded_tied_weights_keys(all_submodels=True)
    apart = []
    for name, source_name in declared.items():
        weight, source = base.get_parameter_or_buffer(name), base.get_parameter_or_buffer(source_name)
        if weight.shape == source.shape and torch.equal(weight, source):
            parent, _, leaf = name.rpartition(".")
            setattr(base.get_submodule(parent), leaf, source)
        else:
            apart.append(name)
    base.all_tied_weights_keys = {name: source for name, source in declared.items() if name not in apart}
    base.config.tie_word_embeddings = bool(base.all_tied_weights_keys)
    return apart


def _trained(wrapper: nn.Module, adapter_name: str) -> dict[str, nn.Parameter]:
    """Parameters of an adapter inside one of PEFT's wrappers, by name."""
    return {
        name: parameter
        for name, parameter in wrapper.named_parameters(remove_duplicate=False)
        if adapter_name in name.split(".")
    }
