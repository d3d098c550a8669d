# SPDX-License-Identifier: Apache-2.0
"""The weights of a model, read whole and sound or not at all."""

from __future__ import annotations

import json
import os
from typing import Any

from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from hylora.adapters.quantization import let_gradients_through
from hylora.tensors import is_finite, stored_tensors

__all__ = ["check_finite", "load_weights"]


def load_weights(source: str | os.PathLike, **arguments: Any) -> PreTrainedModel:
    """Load a causal language model from safetensors files, every weight of it.

    Args:
        source: folder or hub id.
        **arguments: of `AutoModelForCausalLM.from_pretrained`.

    Raises:
        ValueError: if files are damaged, missing or of another format, or do not hold all weights in the shapes of
            the config, or a weight is not finite.
    """
    source = os.fspath(source)
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            source, use_safetensors=True, ignore_mismatched_sizes=True, output_loading_info=True, **arguments
        )
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(
            f"the weights of {source!r} must be whole safetensors files ({error}); download or copy them again, and "
            "save pickled ones (.bin, .pt) anew with from_pretrained(..., use_safetensors=False).save_pretrained(...)"
        ) from error
    if mismatched := sorted(report["mismatched_keys"]):
        name, found, expected = mismatched[0]
        raise ValueError(
            f"the weights of {source!r} must have the shapes that the config gives, but {name} has {list(found)} in "
            f"place of {list(expected)}; take config and weights from the same checkpoint"
        )
    if missing := sorted(report["missing_keys"]):
        raise ValueError(
            f"the weights of {source!r} lack {missing[:5]} ({len(missing)} in all), which would be random; name a "
            "complete checkpoint of a causal language model"
        )
    check_finite(model, source)
    let_gradients_through(model)
    return model


def check_finite(model: nn.Module, source: str) -> None:
    """Refuse a model with a weight that is NaN or infinite.

    Args:
        model: whose parameters are looked at, as far as this process holds them.
        source: folder or hub id that they came from, for the message.

    Raises:
        ValueError: naming the first such parameter.
    """
    for name, parameter in model.named_parameters():
        if not all(is_finite(part.detach()) for part in stored_tensors(parameter)):
            raise ValueError(
                f"the weights of {source!r} must be finite, but {name} is not; the file is damaged, or training had "
                "diverged when it was written: download it again or take an earlier one"
            )
