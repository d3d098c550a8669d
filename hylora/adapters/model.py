# SPDX-License-Identifier: Apache-2.0
"""Put an adapter on a model so that it trains: float32 where it learns, the base's dtype where activations flow."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, load_peft_weights, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import SAFETENSORS_WEIGHTS_NAME, ModulesToSaveWrapper
from torch import nn
from torch.utils._pytree import tree_map_only

from hylora.adapters.structure import base_model, base_modules
from hylora.adapters.targets import check_options, check_targets
from hylora.adapters.tied import share_trained, tie_head

__all__ = ["add_adapter", "load_adapter", "match_base_dtype"]


def add_adapter(model: nn.Module, config: LoraConfig, adapter_name: str = "default") -> PeftModel:
    """Put a new adapter on a model and make it the active, trainable one.

    All its parameters are float32, modules trained in full included: PEFT does that for LoRA weights alone, and at
    ordinary learning rates a norm in bfloat16 never moves. Frozen parameters keep their dtype, and modules trained in
    full return the dtype of the frozen ones, so activations are as in the base model. Train under autocast when the
    base is not float32. A weight that the model uses in several places, as Zamba2's shared attention, gets one LoRA.

    Args:
        model: a transformers model, changed in place, or a `PeftModel` that gets a further adapter.
        config: from `HyLoraConfig.for_model`, or any other `LoraConfig`. It is copied.
        adapter_name: name of the new adapter.

    Returns:
        The `PeftModel`.

    Raises:
        ValueError: a target that would not train or an option that breaks what HyLoRA promises (see
            `HyLoraConfig.for_model`), an adapter name that PEFT would confuse with a module's, or a bare `model` that
            already carries an adapter.
    """
    check_options(config)
    check_targets(model, config)
    _check_adapter_name(model, adapter_name)
    config = copy.deepcopy(config)
    # PEFT copies modules together with their hooks; the hook comes back below where it is needed
    base_model(model).disable_input_require_grads()
    if isinstance(model, PeftModel):
        model.add_adapter(adapter_name, config)
        tie_head(model, adapter_name)
        model.set_adapter(adapter_name)
    else:
        model = get_peft_model(model, config, adapter_name=adapter_name)
    share_trained(model, adapter_name)
    _make_trainable(model)
    return model


def load_adapter(
    model: nn.Module, folder: str | Path, adapter_name: str = "default", trainable: bool = False
) -> PeftModel:
    """Put a saved adapter on a model and make it the active one.

    For inference this is `PeftModel.from_pretrained`. To go on training, parameters come back in float32 at the
    precision they were saved with; PEFT alone rounds modules trained in full to the base's dtype.

    Args:
        model: the transformers model that the adapter was trained on, or a `PeftModel` that gets a further adapter.
        folder: folder written by `save_pretrained`.
        adapter_name: name of the adapter in `model`.
        trainable: whether to go on training it.

    Returns:
        The `PeftModel`.

    Raises:
        FileNotFoundError: the folder holds no adapter in safetensors form; pickled weights are not read.
        ValueError: as for `add_adapter`.
    """
    if not (Path(folder) / SAFETENSORS_WEIGHTS_NAME).is_file():
        raise FileNotFoundError(
            f"folder={str(folder)!r} must hold {SAFETENSORS_WEIGHTS_NAME}; give a folder that save_pretrained wrote"
        )
    if trainable:
        saved = LoraConfig.from_pretrained(str(folder))
        check_options(saved)
        check_targets(model, saved)
    _check_adapter_name(model, adapter_name)
    if isinstance(model, PeftModel):
        model.load_adapter(str(folder), adapter_name=adapter_name, is_trainable=trainable)
        tie_head(model, adapter_name)
        model.set_adapter(adapter_name, inference_mode=not trainable)
    else:
        model = PeftModel.from_pretrained(model, str(folder), adapter_name=adapter_name, is_trainable=trainable)
    if trainable:
        _make_trainable(model)
        set_peft_model_state_dict(model, load_peft_weights(str(folder), device="cpu"), adapter_name=adapter_name)
    share_trained(model, adapter_name, only_equal=True)
    return model


def match_base_dtype(model: PeftModel) -> PeftModel:
    """Round modules trained in full to the dtype of the frozen ones, for inference without autocast.

    Args:
        model: changed in place. LoRA weights stay float32 (PEFT converts around them).

    Returns:
        The same model.
    """
    for wrapper in _saved_modules(model):
        originals = dict(wrapper.original_module.named_parameters())
        for trained in wrapper.modules_to_save.values():
            for name, parameter in trained.named_parameters():
                parameter.data = parameter.data.to(originals[name].dtype)
    return model


def _make_trainable(model: PeftModel) -> None:
    """Make trainable parameters float32, keep activations in the base's dtype, and let gradients in."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            # in place, so that tied parameters stay one
            parameter.data = parameter.data.float()
    for wrapper in _saved_modules(model):
        if _return_base_dtype not in wrapper._forward_hooks.values():
            wrapper.register_forward_hook(_return_base_dtype)

    base = base_model(model)
    base.disable_input_require_grads()
    checkpointed = any(getattr(module, "gradient_checkpointing", False) for module in base.modules())
    frozen = not any(parameter.requires_grad for parameter in base.get_input_embeddings().parameters())
    if checkpointed and frozen:
        # reentrant checkpointing passes no gradient to a LoRA inside when nothing that goes in requires one
        base.enable_input_require_grads()


def _return_base_dtype(wrapper, args, output):
    """Forward hook: hand on the dtype that the frozen module has.

    Otherwise one float32 embedding turns the residual stream float32, and with it RoPE, queries and keys.
    """
    dtype = next(wrapper.original_module.parameters()).dtype
    # routers of experts return several tensors, some of them indices
    return tree_map_only(torch.Tensor, lambda part: part.to(dtype) if part.is_floating_point() else part, output)


def _saved_modules(model):
    """The wrappers of modules trained in full."""
    return [module for module in model.modules() if isinstance(module, ModulesToSaveWrapper)]


def _check_adapter_name(model, adapter_name):
    """Refuse what PEFT takes and then loses weights over."""
    if not isinstance(model, PeftModel) and any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise ValueError("model already carries an adapter; pass the PeftModel to give it another one")
    parts = {part for name, _ in base_modules(base_model(model)) for part in name.split(".")}
    if adapter_name in parts:
        raise ValueError(
            f"adapter_name={adapter_name!r} must not be the name of a module, whose weights PEFT would leave out when "
            "it saves another adapter; choose another name"
        )
