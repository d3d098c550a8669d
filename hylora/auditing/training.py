# SPDX-License-Identifier: Apache-2.0
"""What must hold of what a model trains: that it gets gradients, is used, can move, and can be merged.

As in `properties`, each function returns the largest difference, and raises `Differs` where the property fails.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn
from transformers import PreTrainedModel

from hylora.adapters.structure import base_model, base_modules
from hylora.auditing.comparison import Differs, Probe, assert_same, logits, outcome
from hylora.auditing.properties import saved

__all__ = ["gradients", "matched", "merged", "perturb", "precise", "used"]

# What one step of Adam moves each value by, at the learning rate of LongLoRA.
_STEP = 2e-4


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that require gradients."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def perturb(parameters: list[nn.Parameter], seed: int = 2) -> None:
    """Change parameters by noise, as training would; by new tensors, so that the old ones stay as they are."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        noise = torch.randn(parameter.shape, generator=generator).to(parameter.device)
        parameter.data = parameter.data + (0.05 * noise).to(parameter.dtype)


def gradients(model: nn.Module, probe: Probe) -> float:
    """Every trainable parameter gets a gradient from a training step."""
    expected = trained(model)
    model.train()
    model.zero_grad()
    found = outcome(model, probe)
    if missing := [name for name in expected if name not in found or not found[name].any()]:
        raise Differs(f"{len(missing)} of {len(expected)} get no gradient, such as {missing[0]}")
    if broken := [name for name in expected if not found[name].isfinite().all()]:
        raise Differs(f"{len(broken)} of {len(expected)} get a gradient that is not finite, such as {broken[0]}")
    return 0.0


def used(model: nn.Module, probe: Probe) -> float:
    """A change to anything that is trained changes the output, of training steps as well as of evaluation."""
    for training in (True, False):
        model.train(training)
        before = _seeded(model, probe)
        # Some kernels add in an order of their own.
        noise = float((_seeded(model, probe) - before).abs().max())
        for owner, parameters in _owners(model).items():
            old = [parameter.data for parameter in parameters]
            perturb(parameters)
            change = float((_seeded(model, probe) - before).abs().max())
            for parameter, data in zip(parameters, old, strict=True):
                parameter.data = data
            if change <= noise:
                when = "a training step" if training else "evaluation"
                raise Differs(f"{owner} can be changed without changing any output of {when}")
    return 0.0


def _seeded(model: nn.Module, probe: Probe) -> torch.Tensor:
    torch.manual_seed(11)
    return logits(model, probe.tokens())


def _owners(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Trainable parameters by the module they change together: a LoRA's two factors multiply, and one may be zero."""
    owners: dict[str, list[nn.Parameter]] = {}
    seen: set[nn.Parameter] = set()
    for name, module in base_modules(base_model(model)):
        whole = isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper))
        for parameter in module.parameters(recurse=whole):
            if parameter.requires_grad and parameter not in seen:
                seen.add(parameter)
                owners.setdefault(name, []).append(parameter)
    return owners


def precise(model: nn.Module) -> float:
    """What is trained is kept in a type in which a step of the usual size moves it."""
    low = {name: p for name, p in trained(model).items() if p.dtype in (torch.bfloat16, torch.float16)}
    if low:
        stuck = {name: float((p.data - _STEP == p.data).float().mean()) for name, p in low.items()}
        name = max(stuck, key=stuck.get)
        kind = str(low[name].dtype).removeprefix("torch.")
        raise Differs(
            f"{len(low)} trainable parameters are {kind}; {100 * stuck[name]:.0f} % of the values of {name} are not "
            f"moved by a step of {_STEP:g}"
        )
    return 0.0


def matched(model: PeftModel) -> float:
    """Every name among the adapter's target modules is that of a module with an adapter."""
    targets = model.active_peft_config.target_modules
    adapted = [name for name, module in base_modules(base_model(model)) if isinstance(module, BaseTunerLayer)]
    if not isinstance(targets, str):
        for target in sorted(targets or ()):
            if not any(name == target or name.endswith(f".{target}") for name in adapted):
                raise Differs(f"target_modules={target!r} matches no module, and PEFT passes over it in silence")
    return 0.0


def merged(model: PeftModel, probe: Probe, merge: Callable[[PeftModel], PreTrainedModel]) -> float:
    """Merging a copy of the model changes no output, and neither do saving and loading the result."""
    model.eval()
    expected = logits(model, probe.tokens())
    result = merge(copy.deepcopy(model)).eval()
    error = assert_same(logits(result, probe.tokens()), expected, "the merged model's output", probe.tolerance)
    try:
        return max(error, saved(result, probe))
    except Differs as differs:
        raise Differs(f"once merged, saved and loaded, {differs}", differs.difference) from differs
