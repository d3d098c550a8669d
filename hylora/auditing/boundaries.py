# SPDX-License-Identifier: Apache-2.0
"""Do recurrent layers hand the boundaries of packed rows to the functions that kernels replace?"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

from torch import nn

from hylora.adapters.structure import base_model
from hylora.auditing.comparison import Probe, logits
from hylora.auditing.preserve import preserved
from hylora.auditing.properties import packed_row

__all__ = ["untold"]

# How modelling files call the functions that kernels take the place of, and the arguments that carry boundaries.
_KERNELS = re.compile(r"causal_conv1d_fn|chunk_scan|scan_combined|selective_scan|delta_rule|inner_fn")
_ARGUMENTS = ("seq_idx", "cu_seqlens")


def untold(model: nn.Module, probe: Probe) -> set[str] | None:
    """The functions that recurrent layers call without boundaries, though the model was given some.

    Args:
        model: in any state.
        probe: tokens.

    Returns:
        Their names, as the modelling file has them; None if no such function is called.
    """
    base, told, silent = base_model(model), set(), set()

    def listening(name: str, function: Callable) -> Callable:
        def call(*tensors: Any, **named: Any) -> Any:
            given = [named.pop(argument, None) for argument in _ARGUMENTS]
            (silent if all(value is None for value in given) else told).add(name)
            return function(*tensors, **named)

        return call

    with preserved(model), ExitStack() as stack:
        # Where other attentions would refuse the row before a recurrent layer sees it.
        base.set_attn_implementation("eager")
        for code in {sys.modules[type(module).__module__] for module in base.modules()}:
            for name, function in list(vars(code).items()):
                if _KERNELS.search(name) and callable(function):
                    stack.enter_context(patch.object(code, name, listening(name, function)))
        logits(model.train(), **packed_row(probe))
    return silent if silent | told else None
