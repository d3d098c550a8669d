# SPDX-License-Identifier: Apache-2.0
"""Mixers whose training runs in one fused kernel: what is trained reaches the kernel, or is refused.

The kernel of mamba-ssm takes the convolution's, the norm's and the output projection's weights and calls none of the
modules. Its stand-in computes the same.
"""

from __future__ import annotations

import sys

import pytest

from hylora.adapters import HyLoraConfig, add_adapter
from hylora.adapters.structure import find_groups
from tests.adapters.adapted import IDS, nudge
from tests.architectures.fused import fused
from tests.architectures.zoo import ZOO
from tests.tolerances import assert_close

FUSED = {name: ZOO[name] for name in ("bamba", "zamba2", "falcon_h1", "nemotron_h", "granitemoehybrid", "mamba2attn")}
KERNEL = "mamba2_split_conv1d_scan_combined"


@pytest.fixture
def with_kernel(monkeypatch):
    """Give the mixers of a model the fused kernel, and count its calls."""
    calls = []

    def counted(*args, **kwargs):
        calls.append(args)
        return fused(*args, **kwargs)

    def install(model):
        for module in model.modules():
            code = sys.modules[type(module).__module__]
            if hasattr(module, "conv1d") and hasattr(code, KERNEL):
                monkeypatch.setattr(code, KERNEL, counted)
        return calls

    return install


@pytest.mark.parametrize("architecture", FUSED.values(), ids=FUSED)
def test_the_fused_kernel_computes_with_what_was_trained(architecture, with_kernel):
    # transformers hands the kernel norm_before_gate=False, also where Falcon-H1's config says otherwise
    model = architecture.build(**({"mamba_norm_before_gate": False} if architecture.model_type == "falcon_h1" else {}))
    mixers = [name for name in find_groups(model)["convs"] if "self_attn" not in name]
    # in_proj is among them: mixers call it, and hand the kernel its outputs
    config = HyLoraConfig.for_model(model, r=4, target_modules="all-linear")
    # more, on so many layers, would make Zamba2 magnify float32's rounding
    model = nudge(add_adapter(model, config), seed=1, size=0.05)
    calls = with_kernel(model)
    expected = model.eval()(IDS, use_cache=False).logits
    assert not calls
    output = model.train()(IDS, labels=IDS, use_cache=False)
    assert len(calls) == len(mixers)
    assert_close(output.logits, expected)

    output.loss.backward()
    idle = [name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert idle == []


# What the mixers' own code reads the weights of, besides convolutions and norms.
@pytest.mark.parametrize(("name", "target"), [*((name, "out_proj") for name in FUSED), ("jamba", "dt_proj")], ids=str)
def test_lora_past_which_a_mixer_reads_is_refused(name, target):
    with pytest.raises(ValueError, match=rf"reads {target}\.weight itself"):
        HyLoraConfig.for_model(ZOO[name].build(), target_modules=[target])


@pytest.mark.parametrize("name", ["jamba", "qwen3_next", "lfm2"])
def test_lora_on_what_a_mixer_calls_trains(name):
    model = ZOO[name].build()
    mixers = {f"{parent}.out_proj" for parent in (conv.rpartition(".")[0] for conv in find_groups(model)["convs"])}
    model = add_adapter(model, HyLoraConfig.for_model(model, "lora", target_modules=["out_proj"]))
    model.train()(IDS, labels=IDS, use_cache=False).loss.backward()
    modules = dict(model.get_base_model().named_modules())
    assert all(modules[mixer].lora_B["default"].weight.grad.any() for mixer in mixers)


def test_code_that_a_mixer_inherits_is_read_too():
    model = FUSED["bamba"].build()
    mixer = model.model.layers[0].mamba
    mixer.__class__ = type("ShardedMixer", (type(mixer),), {})
    with pytest.raises(ValueError, match=r"reads out_proj\.weight itself"):
        HyLoraConfig.for_model(model, target_modules=["layers.0.mamba.out_proj"])
