# SPDX-License-Identifier: Apache-2.0
"""Bases in four or eight bits: which of their weights can be, and how they become ordinary ones again."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from peft import LoraConfig
from peft.utils.integrations import dequantize_module_weight
from torch import nn
from transformers import BitsAndBytesConfig, PretrainedConfig, PreTrainedModel, TorchAoConfig

from hylora.adapters.structure import base_model, base_modules, shortest_suffixes, unwrapped
from hylora.adapters.targets import is_bypassed
from hylora.words import nearest

__all__ = ["METHODS", "Quantization", "count_elements", "dequantize", "is_quantized", "let_gradients_through"]

METHODS = {"nf4": "bitsandbytes", "int8": "bitsandbytes", "torchao_int8": "torchao"}
# Numbers that share a scale in NF4: a row that is no multiple of it has no fast kernel.
_BLOCK = 64


@dataclass(frozen=True)
class Quantization:
    """How the frozen base of an adapter is quantised while it is loaded.

    Args:
        method: "nf4" (QLoRA's four bits) or "int8" (LLM.int8, which rounds activations too), both of bitsandbytes, or
            "torchao_int8" (eight bits, weights only).
        kept: suffixes of the linear layers that stay as they are.

    Raises:
        ValueError: the method is unknown.
    """

    method: str
    kept: tuple[str, ...]

    # With the scales of blocks; those of whole rows are left out.
    BYTES: ClassVar[dict[str, float]] = {"nf4": 0.516, "int8": 1.0, "torchao_int8": 1.0}

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(
                f"quantization={self.method!r} is not known; the nearest is {nearest(self.method, METHODS)}"
            )
        object.__setattr__(self, "kept", tuple(self.kept))

    @classmethod
    def plan(cls, method: str, model: nn.Module, adapter: LoraConfig) -> Self:
        """Find out what of a model can be quantised.

        Left as they are: the output head, weights that are used in several places, layers that are trained in full,
        layers whose weight a mixer reads itself, and those with rows too short for the method.

        Args:
            method: one of `METHODS`.
            model: bare or with the adapter; its weights may have no storage.
            adapter: what will be trained.

        Raises:
            ValueError: nothing of the model can be quantised.
        """
        base = base_model(model)
        head, saved = base.get_output_embeddings(), tuple(adapter.modules_to_save or ())
        shared = {name.rpartition(".")[0] for pair in base.all_tied_weights_keys.items() for name in pair}
        modules = {name: module for name, module in base_modules(base) if name}
        linear = {name: module for name, module in modules.items() if isinstance(unwrapped(module), nn.Linear)}
        kept = {
            name
            for name, module in linear.items()
            if module is head
            or name in shared
            or name.endswith(saved)
            or is_bypassed(base, name)
            or unwrapped(module).in_features % _BLOCK
        }
        if len(kept) == len(linear):
            raise ValueError(f"quantization={method!r} has nothing to quantise in {type(base).__name__}; leave it out")
        return cls(method, tuple(shortest_suffixes(kept, modules)))

    @classmethod
    def of(cls, config: PretrainedConfig) -> Self | None:
        """What a loaded model's config says of its quantization, or None where it is not quantised.

        Raises:
            ValueError: it was quantised in another way.
        """
        found = getattr(config, "quantization_config", None)
        if found is None:
            return None
        match found:
            case BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=[*kept]):
                return cls("int8", tuple(kept))
            case BitsAndBytesConfig(bnb_4bit_quant_type="nf4", llm_int8_skip_modules=[*kept]):
                return cls("nf4", tuple(kept))
            case TorchAoConfig(quant_type=kind, modules_to_not_convert=[*weights]):
                if type(kind).__name__ == "Int8WeightOnlyConfig":
                    return cls("torchao_int8", tuple(name.removesuffix(".weight") for name in weights))
        raise ValueError(
            f"quantization_config={found!r} of the base is none that hylora can write down and apply again; load the "
            "base with the arguments of Quantization.plan(...).arguments(dtype)"
        )

    def stored_bytes(self, model: nn.Module) -> dict[nn.Parameter, int]:
        """Bytes that each weight to be quantised will take.

        Args:
            model: bare or with the adapter, before anything of it is quantised.
        """
        linear = [(n, unwrapped(m)) for n, m in base_modules(base_model(model)) if isinstance(unwrapped(m), nn.Linear)]
        weights = [module.weight for name, module in linear if not name.endswith(self.kept)]
        return {weight: math.ceil(weight.numel() * self.BYTES[self.method]) for weight in weights}

    def check_installed(self) -> None:
        """Raise ValueError where the method's library is missing."""
        if importlib.util.find_spec(library := METHODS[self.method]) is None:
            raise ValueError(f"quantization={self.method!r} needs {library}: pip install 'hylora[quantization]'")

    def arguments(self, dtype: torch.dtype) -> dict[str, Any]:
        """Arguments of `from_pretrained` that quantise.

        Args:
            dtype: of what is not quantised, and to compute in.

        Raises:
            ValueError: if the method's library is not installed.
        """
        self.check_installed()
        kept = list(self.kept)
        if self.method == "nf4":
            config = BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=dtype,
                llm_int8_skip_modules=kept,
            )
        elif self.method == "int8":
            config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=kept)
        else:
            from torchao.quantization import Int8WeightOnlyConfig

            # compared with the names of parameters, not of modules
            weights = [f"{suffix}.weight" for suffix in kept]
            config = TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert=weights)
        return {"quantization_config": config, "dtype": dtype}


def is_quantized(module: nn.Module) -> bool:
    """Whether a module's own weight is quantised."""
    weight = getattr(module, "weight", None)
    return type(weight).__name__ in ("Params4bit", "Int8Params") or type(weight).__module__.startswith("torchao.")


def count_elements(parameter: nn.Parameter) -> int:
    """Numbers in a parameter; in bytes of bitsandbytes, each holds two."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else math.prod(state.shape)


def let_gradients_through(model: nn.Module) -> None:
    """Keep bitsandbytes from repacking four-bit weights, in place.

    On CPUs with AVX-512 it does so at the first evaluation, and from then on passes no gradient back.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def dequantize(model: PreTrainedModel) -> PreTrainedModel:
    """Give a model ordinary weights again, with the values that the quantised ones stand for.

    Args:
        model: without an adapter; changed in place.

    Returns:
        The same model, no longer quantised, in the dtype of what was not.
    """
    for name, module in list(model.named_modules()):
        if is_quantized(module):
            plain = nn.Linear(module.in_features, module.out_features, bias=False, device="meta")
            weight = dequantize_module_weight(module).detach().to(model.dtype)
            plain.weight, plain.bias = nn.Parameter(weight, requires_grad=False), module.bias
            model.set_submodule(name, plain)
    model.hf_quantizer.remove_quantization_config(model)
    return model
