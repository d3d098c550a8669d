# SPDX-License-Identifier: Apache-2.0
"""The sliced loss equals the loss of the whole logits, forward and backward."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from hylora.language.head import LogitTransform
from hylora.language.loss import IGNORED, sliced_causal_loss


def whole_loss(hidden, weight, labels, bias=None, transform=None):
    """The definition: all logits at once, shifted by one."""
    logits = F.linear(hidden, weight, bias)
    logits = logits if transform is None else transform(logits)
    return F.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum", ignore_index=IGNORED
    )


def inputs(batch=2, length=13, width=6, vocabulary=11, dtype=torch.float64, ignored=0.3):
    generator = torch.Generator().manual_seed(batch * 1000 + length)
    hidden = torch.randn(batch, length, width, generator=generator, dtype=dtype, requires_grad=True)
    weight = torch.randn(vocabulary, width, generator=generator, dtype=dtype, requires_grad=True)
    bias = torch.randn(vocabulary, generator=generator, dtype=dtype, requires_grad=True)
    labels = torch.randint(vocabulary, (batch, length), generator=generator)
    labels[torch.rand(batch, length, generator=generator) < ignored] = IGNORED
    return hidden, weight, bias, labels


@pytest.mark.parametrize("slice_length", [1, 4, 13, 1000])
@pytest.mark.parametrize("length", [1, 2, 13])
@pytest.mark.parametrize("transform", [None, LogitTransform(scale=0.25, softcap=3.0)], ids=["plain", "capped"])
def test_equals_the_whole_loss(length, slice_length, transform):
    hidden, weight, bias, labels = inputs(length=length)
    loss, count = sliced_causal_loss(hidden, weight, labels, bias, slice_length=slice_length, transform=transform)
    expected = whole_loss(hidden, weight, labels, bias, transform)
    assert count == (labels[:, 1:] != IGNORED).sum()
    torch.testing.assert_close(loss, expected)
    # An upstream factor must reach every gradient.
    found = torch.autograd.grad(0.7 * loss, (hidden, weight, bias))
    for gradient, reference in zip(found, torch.autograd.grad(0.7 * expected, (hidden, weight, bias)), strict=True):
        torch.testing.assert_close(gradient, reference)


@pytest.mark.parametrize("frozen", ["hidden", "weight", "bias"])
def test_frozen_inputs_get_no_gradient(frozen):
    tensors = dict(zip(("hidden", "weight", "bias"), inputs()[:3], strict=True))
    labels = inputs()[3]
    tensors[frozen] = tensors[frozen].detach()
    loss, _ = sliced_causal_loss(tensors["hidden"], tensors["weight"], labels, tensors["bias"], slice_length=5)
    loss.backward()
    assert tensors[frozen].grad is None and not tensors[frozen].requires_grad
    assert all(tensor.grad is not None for name, tensor in tensors.items() if name != frozen)


def test_all_labels_ignored_is_zero_with_zero_gradients():
    hidden, weight, _, labels = inputs()
    loss, count = sliced_causal_loss(hidden, weight, torch.full_like(labels, IGNORED))
    loss.backward()
    assert loss == 0 and count == 0
    assert not hidden.grad.any() and not weight.grad.any()


def test_without_grad_mode_no_gradient_is_computed():
    hidden, weight, bias, labels = inputs()
    with torch.no_grad():
        loss, _ = sliced_causal_loss(hidden, weight, labels, bias, slice_length=3)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, whole_loss(hidden, weight, labels, bias).detach())


def test_bfloat16_accumulates_over_slices_in_float32():
    """A gradient that a bfloat16 sum over 64 slices would lose digits of."""
    hidden, weight, _, labels = inputs(batch=4, length=64, dtype=torch.bfloat16, ignored=0.0)
    fine, _ = sliced_causal_loss(hidden, weight, labels, slice_length=4)
    coarse, _ = sliced_causal_loss(hidden, weight, labels, slice_length=256)
    assert fine.dtype == torch.float32
    torch.testing.assert_close(fine, coarse)
    torch.testing.assert_close(
        *(torch.autograd.grad(loss, weight)[0] for loss in (fine, coarse)), rtol=2e-2, atol=0.05
    )


def test_autocast_computes_in_its_dtype_and_returns_float32_gradients():
    hidden, weight, bias, labels = (
        t.float().detach().requires_grad_() if t.is_floating_point() else t for t in inputs()
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = sliced_causal_loss(hidden, weight, labels, bias, slice_length=5)
    loss.backward()
    assert loss.dtype == torch.float32 and weight.grad.dtype == torch.float32
    exact = whole_loss(hidden, weight, labels, bias)
    assert loss != exact
    torch.testing.assert_close(loss, exact, rtol=2e-2, atol=1e-2)


def test_never_builds_the_whole_logits():
    """No tensor larger than a slice's logits is made, in the forward pass or in the backward pass."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                self.size = max(self.size, out.numel())
            return out

    hidden, weight, bias, labels = inputs(batch=1, length=40, width=3, vocabulary=50)
    with Largest() as largest:
        sliced_causal_loss(hidden, weight, labels, bias, slice_length=8)[0].backward()
    assert 0 < largest.size <= 8 * 50


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.zeros(2, 12, dtype=torch.long)}, r"labels \(2, 12\) must be"),
        ({"weight": torch.zeros(11, 7)}, r"weight \(11, 7\)"),
        ({"slice_length": 0}, "slice_length=0 must be at least 1"),
    ],
)
def test_bad_input_is_named(change, message):
    hidden, weight, _, labels = inputs()
    arguments = {"hidden": hidden, "weight": weight, "labels": labels, **change}
    with pytest.raises(ValueError, match=message):
        sliced_causal_loss(**arguments)
