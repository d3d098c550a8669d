# SPDX-License-Identifier: Apache-2.0
"""How the recurrent layers of an architecture are told where packed sequences begin, and whether they listen.

Their kernels do; the torch code that runs in place of a kernel ignores boundaries, and in newer transformers refuses
them. Which of the two runs is asked of the functions that the modelling file holds: a package may be installed and
broken, or too old, and a kernel of the Hub needs no package.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from hylora.architecture import is_recurrent

__all__ = ["boundary_arguments", "deaf_packages", "enclosed", "wrapped_function"]

# Functions of modelling files: their argument with the boundaries, and the package that brings the kernel.
_CONVOLUTION = {"causal_conv1d_fn": ("seq_idx", "causal_conv1d")}
_MAMBA2 = {
    **_CONVOLUTION,
    "mamba2_chunk_scan": ("seq_idx", "mamba_ssm"),
    "mamba2_split_conv1d_scan_combined": ("seq_idx", "mamba_ssm"),
}
_DELTA_NET = {**_CONVOLUTION, "torch_chunk_gated_delta_rule": ("cu_seqlens", "fla")}
# Layers of architectures that are not listed are never told.
_FUNCTIONS = {
    "bamba": _MAMBA2,
    "falcon_h1": _MAMBA2,
    "granitemoehybrid": _MAMBA2,
    "mamba2attn": _MAMBA2,
    "nemotron_h": _MAMBA2,
    "zamba2": _MAMBA2,
    "lfm2": _CONVOLUTION,
    "olmo_hybrid": _DELTA_NET,
    "qwen3_next": _DELTA_NET,
}
# Models that show positions to no mask, and hand on to their attention what a plug-in reads.
_OF_ATTENTION = {"gpt_oss": ("seq_idx",)}
# What the model calls an argument of its layers' functions.
_OF_MODEL = {"seq_idx": "seq_idx", "cu_seqlens": "cu_seq_lens_q"}
# Modelling files that take their mixers from another one.
_MIXERS_OF = {"mamba2attn": "bamba"}


def boundary_arguments(config: Any) -> tuple[str, ...]:
    """Arguments beside `position_ids` that tell a model of boundaries: of `seq_idx` and `cu_seq_lens_q`.

    Args:
        config: a transformers config; of a multimodal one, its text part is read.
    """
    model_type = config.get_text_config().model_type
    functions = _FUNCTIONS.get(model_type, {})
    told = (_OF_MODEL[argument] for argument, _ in functions.values())
    return tuple(dict.fromkeys((*told, *_OF_ATTENTION.get(model_type, ()))))


def deaf_packages(config: Any) -> list[str]:
    """Packages whose kernels would read boundaries, where code that does not runs in their place.

    Args:
        config: as above; of an architecture whose recurrent layers can be told.
    """
    config = config.get_text_config()
    if not is_recurrent(config):
        return []
    name = _MIXERS_OF.get(config.model_type, config.model_type)
    code = importlib.import_module(f"transformers.models.{name}.modeling_{name}")
    deaf = {
        package: None
        for function, (argument, package) in _FUNCTIONS[config.model_type].items()
        if not _reads(getattr(code, function), argument)
    }
    return list(deaf)


def _reads(function: Callable, argument: str) -> bool:
    """Whether a function of a modelling file hands the argument to a kernel that has it."""
    if isinstance(function, nn.Module) and function.forward.__func__ is not type(function).forward:
        # The package `kernels` has put a kernel of the Hub there.
        parameters = inspect.signature(function.forward).parameters
        return argument in parameters or any(item.kind is item.VAR_KEYWORD for item in parameters.values())
    # transformers' wrapper found an installed package when the file was imported, or did not.
    found = {name: cell.cell_contents for name, cell in enclosed(wrapped_function(function)).items()}
    return found.get("is_new_implementation", False) and argument in found["applicable_params"]


def wrapped_function(function: Callable) -> Callable:
    """transformers' wrapper around a function of a modelling file, of which the package `kernels` makes a module."""
    if isinstance(function, nn.Module):
        return enclosed(type(function).forward)["func"].cell_contents
    return function


def enclosed(function: Callable) -> dict[str, Any]:
    """The cells of the variables that a function holds from where it was made, by name."""
    return dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
