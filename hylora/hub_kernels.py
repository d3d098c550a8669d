# SPDX-License-Identifier: Apache-2.0
"""Prebuilt kernels of the Hub in place of the torch code of a model's layers, by transformers' own mechanism.

transformers chooses them for the device where a model lies and for its mode, so a model must lie where it will run.
Functions are exchanged for all models of a process, layers for one model.
"""

from __future__ import annotations

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel
from transformers.utils.import_utils import KERNELS_MAX_VERSION, KERNELS_MIN_VERSION, is_kernels_available

from hylora.environment import version_of

__all__ = ["check_hub_kernels", "confirm_kernels", "replaced_by_kernels", "use_hub_kernels"]


def check_hub_kernels(device: torch.device | str) -> None:
    """Refuse kernels of the Hub where there can be none.

    Args:
        device: that the model will run on.

    Raises:
        ValueError: if transformers does not take the installed version of the package `kernels`, or the device is a
            CPU, for which there are no kernels.
    """
    if not is_kernels_available():
        raise ValueError(
            f"use_kernels=True must come with a version of the package kernels that transformers "
            f"{transformers.__version__} takes (here: {version_of('kernels')}); "
            f"pip install 'kernels>={KERNELS_MIN_VERSION},<{KERNELS_MAX_VERSION}', or leave it out"
        )
    if torch.device(device).type == "cpu":
        raise ValueError(
            "use_kernels=True must come with a model on a GPU, and this one is on the CPU, for which the Hub has no "
            "kernels; name a device (device_map='cuda', --device cuda), or leave it out"
        )


def use_hub_kernels(model: nn.Module) -> list[str]:
    """Let transformers put kernels of the Hub into a model, as `from_pretrained(use_kernels=True)` does.

    Args:
        model: a transformers model on its device and in its mode, or a PEFT model around one.

    Returns:
        The names of what runs in kernels now.

    Raises:
        ValueError: as `check_hub_kernels` and `confirm_kernels`, or if the package fails.
    """
    base: PreTrainedModel = model.get_base_model() if hasattr(model, "get_base_model") else model
    check_hub_kernels(base.device)
    try:
        base.set_use_kernels(True)
    except (OSError, ValueError) as error:
        raise ValueError(_none_loaded(base, str(error))) from error
    return confirm_kernels(base)


def confirm_kernels(model: nn.Module) -> list[str]:
    """Make sure that a model has kernels of the Hub: transformers goes on in silence where none could be had.

    Args:
        model: that was to have them.

    Returns:
        The names of what runs in kernels.

    Raises:
        ValueError: if nothing does.
    """
    replaced = replaced_by_kernels(model)
    if not replaced:
        raise ValueError(_none_loaded(model, "the download failed, or there is no build for this device and torch"))
    return replaced


def _none_loaded(model: nn.Module, cause: str) -> str:
    return (
        f"use_kernels=True must find kernels on the Hub for the layers of {type(model).__name__}, and could not load "
        f"them ({cause}); run once with a network, install mamba-ssm and causal-conv1d, or leave it out"
    )


def replaced_by_kernels(model: nn.Module) -> list[str]:
    """The names of layers and functions of a model in whose place a kernel of the Hub runs."""
    parts = [
        part
        for module in model.modules()
        # The package `kernels` keeps a layer's functions, made into modules, beside the layer's own.
        for part in (module, *vars(module).get("_kernel_funcs", {}).values())
    ]
    names = {
        getattr(part, "kernel_layer_name", None): None
        for part in parts
        # A kernel's forward is bound as a method; what accelerate puts there is not.
        if getattr(vars(part).get("forward"), "__func__", type(part).forward) is not type(part).forward
    }
    return sorted(name for name in names if name is not None)
