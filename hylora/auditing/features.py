# SPDX-License-Identifier: Apache-2.0
"""Does what a model's attention does of its own survive another attention function?"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn

from hylora.adapters.structure import base_model
from hylora.auditing.comparison import Probe, logits
from hylora.auditing.preserve import preserved

__all__ = ["BEYOND_CAUSAL", "features", "survives"]

# What is computed by nothing that knows causal masks, dropout and a scale alone.
BEYOND_CAUSAL = ("sliding window", "logit soft-capping", "attention sinks")
_WORDS = {
    "sliding_window": "sliding window",
    "attn_logit_softcapping": "logit soft-capping",
    "attention_dropout": "attention dropout",
}


def features(model: nn.Module) -> dict[str, Callable[[], None]]:
    """What a model's attention does beside scores, softmax and sum: for each, a function that changes it in place."""
    base = base_model(model)
    owners = [base.config, base.config.get_text_config(), *base.modules()]
    found: dict[str, Callable[[], None]] = {}

    def numbers(name: str, value: float | int) -> None:
        # Some models have a module of that name.
        having = [owner for owner in owners if isinstance(own := getattr(owner, name, None), (int, float)) and own]
        if having:
            found[_WORDS[name]] = lambda: [setattr(owner, name, value) for owner in having]

    numbers("sliding_window", 4)
    numbers("attn_logit_softcapping", 1e-2)
    numbers("attention_dropout", 0.9)
    scaled = [module for module in base.modules() if _own_scale(module)]
    if scaled:
        found["its own scale"] = lambda: [setattr(m, "scaling", 3 * m.scaling) for m in scaled]
    sinks = [p for name, p in base.named_parameters() if name.rpartition(".")[2] == "sinks"]
    if sinks:
        found["attention sinks"] = lambda: [setattr(p, "data", p.data + 5) for p in sinks]
    return found


def _own_scale(module: nn.Module) -> bool:
    """Whether an attention layer scales its scores by something else than what its function would take by default."""
    scale, size = getattr(module, "scaling", None), getattr(module, "head_dim", None)
    return bool(getattr(module, "is_causal", False) and scale and size and abs(scale - size**-0.5) > 1e-6)


def survives(model: nn.Module, probe: Probe) -> Iterator[tuple[str, str]]:
    """For each feature of the model's own, whether a change to it changes the output under its present attention.

    What changes nothing under `eager` either is no feature of this model.

    Yields:
        The feature, and "survives", "dropped" or the message with which it is refused.
    """
    base = base_model(model)
    name = base.config._attn_implementation
    for feature in features(model):
        with preserved(model):
            base.set_attn_implementation("eager")
            matters = _matters(model, feature, probe)
            base.set_attn_implementation(name)
            if not matters:
                continue
            try:
                verdict = "survives" if _matters(model, feature, probe) else "dropped"
            except (ValueError, NotImplementedError) as error:
                verdict = str(error)
        yield feature, verdict


def _matters(model: nn.Module, feature: str, probe: Probe) -> bool:
    """Whether changing a feature changes the output; dropout is there in training alone."""
    outputs = []
    for change in (lambda: None, features(model)[feature]):
        with preserved(model):
            model.train(feature == "attention dropout")
            change()
            torch.manual_seed(11)
            outputs.append(logits(model, probe.tokens()))
    return not torch.equal(*outputs)
