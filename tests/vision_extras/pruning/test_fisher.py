# SPDX-License-Identifier: Apache-2.0
"""The Fisher information, against every label of a small network by plain autograd."""

from __future__ import annotations

import math
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from vision_extras.masks import prunable
from vision_extras.pruning import criteria
from vision_extras.pruning.fisher import exact_fisher_trace, fisher_diagonal, fisher_trace


def network():
    """Convolution, batch statistics, dropout and a linear map, 3 classes; some of it is not trained."""
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(16, 3)
    )
    made(torch.randn(32, 1, 4, 4))
    made[5].weight.data *= 4  # of its mind
    made[1].bias.requires_grad_(False)
    made[3].eval()
    return made.double()


IMAGES = torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def by_hand(network, images, weights):
    """Mean over images of the sum over labels of weight times squared gradient, for each parameter."""
    network.eval()
    parameters = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    found = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for image in images:
        logs = network(image[None])[0].log_softmax(-1)
        for label, weight in enumerate(weights(logs.detach().exp())):
            gradients = torch.autograd.grad(logs[label], list(parameters.values()), retain_graph=True)
            for name, gradient in zip(parameters, gradients, strict=True):
                found[name] += weight * gradient.square() / len(images)
    return found


def trace(found):
    return float(sum(value.sum() for value in found.values()))


@pytest.mark.parametrize("chunk", [1, 2, 32])
def test_the_exact_trace_is_the_sum_over_all_labels(chunk):
    expected = trace(by_hand(network(), IMAGES, lambda chances: chances))
    assert exact_fisher_trace(network(), IMAGES, chunk) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("chunk", [1, 3, 32])
def test_drawn_labels_come_to_the_same(chunk):
    expected = trace(by_hand(network(), IMAGES, lambda chances: chances))
    found = fisher_trace(network(), IMAGES, 200, torch.Generator().manual_seed(0), chunk)
    assert abs(found.value - expected) < 4 * found.error < 0.4 * expected
    # Neither the likeliest label nor all labels alike would pass.
    likeliest = trace(by_hand(network(), IMAGES, lambda chances: (chances == chances.max()).double()))
    alike = trace(by_hand(network(), IMAGES, lambda chances: torch.full_like(chances, 1 / 3)))
    assert min(abs(likeliest - expected), abs(alike - expected)) > 4 * found.error


def test_the_error_is_the_spread_over_repetitions():
    repeated = [fisher_trace(network(), IMAGES, 4, torch.Generator().manual_seed(seed)) for seed in range(100)]
    spread = torch.tensor([found.value for found in repeated]).std().item()
    typical = math.sqrt(sum(found.error**2 for found in repeated) / len(repeated))
    assert typical == pytest.approx(spread, rel=0.25)


def test_chunks_change_nothing():
    one, *others = (fisher_trace(network(), IMAGES, 3, torch.Generator().manual_seed(0), chunk) for chunk in (1, 2, 9))
    for other in others:
        assert other == pytest.approx(one, rel=1e-10)


@pytest.mark.parametrize("chunk", [1, 32])
def test_the_diagonal_is_the_fisher_information_of_each_weight(chunk):
    expected = by_hand(network(), IMAGES, lambda chances: chances)
    found = fisher_diagonal(network(), IMAGES, 1000 if chunk > 1 else 200, torch.Generator().manual_seed(0), chunk)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0.3, atol=0.05 * float(expected[name].max()))


def test_the_diagonal_adds_up_to_the_trace_of_the_same_draws():
    diagonal = fisher_diagonal(network(), IMAGES, 3, torch.Generator().manual_seed(0), 2)
    found = fisher_trace(network(), IMAGES, 3, torch.Generator().manual_seed(0), 2)
    assert trace(diagonal) == pytest.approx(found.value, rel=1e-10)
    scores = criteria.fisher(network(), IMAGES, 3, torch.Generator().manual_seed(0), 2)
    assert list(scores) == list(prunable(network())) == ["0.weight", "5.weight"]
    assert torch.equal(scores["5.weight"], diagonal["5.weight"])


def test_several_predictions_of_one_input_are_drawn_independently():
    """Each position of a sequence is an input of its own; the trace is the mean over them."""
    torch.manual_seed(0)
    head = nn.Linear(4, 3)
    rows = torch.randn(6, 5, 4)
    expected = exact_fisher_trace(head, rows.flatten(0, 1))
    found = fisher_trace(head, rows, 400, torch.Generator().manual_seed(0))
    assert abs(found.value - expected) < 4 * found.error < 0.4 * expected


def test_modes_and_gradients_are_left_as_they_were():
    made = network().train()
    made[3].eval()
    made(IMAGES).sum().backward()
    before = [parameter.grad.clone() for parameter in made.parameters() if parameter.grad is not None]
    state = {name: value.clone() for name, value in made.state_dict().items()}
    randomness = torch.get_rng_state()
    for chunk in (1, 32):
        fisher_trace(made, IMAGES, 2, torch.Generator(), chunk)
    assert torch.equal(torch.get_rng_state(), randomness)
    assert [module.training for module in made] == [True, True, True, False, True, True]
    for one, other in zip(before, [p.grad for p in made.parameters() if p.grad is not None], strict=True):
        assert torch.equal(one, other)
    assert all(torch.equal(value, state[name]) for name, value in made.state_dict().items())


def test_one_draw_has_no_error_and_is_refused():
    with pytest.raises(ValueError, match="draws=1 must be at least 2"):
        fisher_trace(network(), IMAGES, 1, torch.Generator())


def test_a_process_without_an_input_adds_nothing(monkeypatch):
    """Three processes have one input: those that get none count zero, and the sum is the estimate of one process."""
    made, image, traces = network(), IMAGES[:1], []
    alone, exact = fisher_trace(made, image, 8, torch.Generator()).value, exact_fisher_trace(made, image)
    module = import_module("vision_extras.pruning.fisher")  # the package has a function of this name
    monkeypatch.setattr(module, "reduce", lambda value, how: value)
    for rank in range(3):
        state = SimpleNamespace(process_index=rank, num_processes=3)
        monkeypatch.setattr(module, "process_state", lambda state=state: state)
        for chunk in (1, 4):
            diagonal = fisher_diagonal(made, image, 8, torch.Generator(), chunk)
            traces.append(fisher_trace(made, image, 8, torch.Generator(), chunk).value)
            assert exact_fisher_trace(made, image, chunk) == pytest.approx(0 if rank else exact)
            assert sum(float(value.sum()) for value in diagonal.values()) == pytest.approx(traces[-1])
    assert traces == pytest.approx([alone] * 2 + [0] * 4)
