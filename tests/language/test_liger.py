# SPDX-License-Identifier: Apache-2.0
"""Liger's loss against the sliced one, in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

from hylora.language import train
from hylora.language.head import LogitTransform
from hylora.language.liger import check_liger, liger_causal_loss
from hylora.language.loss import sliced_causal_loss
from hylora.language.task import CausalLoss
from hylora.training import RecipeError
from tests.tiny import tiny_llama

TRANSFORMS = {
    "plain": LogitTransform(),
    "scaled": LogitTransform(scale=0.3),
}


def outcome(loss, hidden, weight, bias):
    leaves = [tensor for tensor in (hidden, weight, bias) if tensor is not None and tensor.requires_grad]
    total, count = loss()
    return total.detach(), count, torch.autograd.grad(3 * total, leaves)


@pytest.mark.parametrize("trained", [True, False], ids=["trained head", "frozen head"])
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_it_is_the_sliced_loss(transform, trained):
    pytest.importorskip("liger_kernel")
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 9, 16, generator=generator, requires_grad=True)
    weight = torch.randn(40, 16, generator=generator, requires_grad=trained)
    bias = torch.randn(40, generator=generator, requires_grad=True) if trained else None
    labels = torch.randint(0, 40, (2, 9), generator=generator)
    labels[0, 3:6] = -100
    expected = outcome(
        lambda: sliced_causal_loss(hidden, weight, labels, bias, slice_length=4, transform=transform),
        hidden,
        weight,
        bias,
    )
    actual = outcome(lambda: liger_causal_loss(hidden, weight, labels, bias, transform), hidden, weight, bias)
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=2e-5)


def test_nothing_to_predict():
    pytest.importorskip("liger_kernel")
    hidden = torch.randn(1, 4, 8, requires_grad=True)
    total, count = liger_causal_loss(hidden, torch.randn(6, 8), torch.full((1, 4), -100), None, LogitTransform())
    total.backward()
    assert (total.item(), count.item()) == (0.0, 0) and not hidden.grad.any()


def test_a_model_trains_with_it():
    pytest.importorskip("liger_kernel")
    model, ids = tiny_llama(), torch.arange(3, 30)[None]
    totals = [CausalLoss(model, 8, kernel)(ids, ids)[0] for kernel in ("sliced", "liger")]
    torch.testing.assert_close(*totals)


def test_it_shows_no_logits():
    loss = CausalLoss(tiny_llama(), 8, "liger")
    loss.predictions.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match=r"loss='liger' shows no logits to hooks on `predictions`"):
        loss(torch.ones(1, 4, dtype=torch.long), torch.ones(1, 4, dtype=torch.long))


def test_where_it_cannot_run(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    with pytest.raises(ValueError, match=r"loss='liger' must run on a GPU, and this is 'cpu'; use sliced"):
        check_liger(torch.device("cpu"), LogitTransform())
    with pytest.raises(ValueError, match=r"loss='liger' must not be used for logits that are capped \(at 5\.0\)"):
        check_liger(torch.device("cuda"), LogitTransform(softcap=5.0))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'hylora\[liger\]'"):
        check_liger(torch.device("cuda"), LogitTransform())


def test_a_run_without_it_is_refused_before_data_is_read(recipe):
    with pytest.raises(RecipeError, match=r"training\.loss='liger' (needs liger-kernel|must run on a GPU)"):
        train(recipe({"training.loss": "liger", "data.sources": [{"path": "/nonexistent.jsonl"}]}))


def test_the_recipe_refuses_slices_beside_it(recipe):
    assert recipe({"training.loss": "liger"}).training.loss == "liger"
    with pytest.raises(RecipeError, match=r"training\.loss_slice=8 must be left out; loss='liger' does not read it"):
        recipe({"training.loss": "liger", "training.loss_slice": 8})
