# SPDX-License-Identifier: Apache-2.0
"""Signals: what they measure, that they change nothing, and that any task can have them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from hylora.language.task import CausalLoss
from hylora.training.moment import Moment
from tests.outcomes import assert_same, records_of
from tests.tiny import tiny_llama
from tests.training import toy
from vision_extras.pruning.fisher import exact_fisher_trace, fisher_trace
from vision_extras.pruning.signals import FisherTrace, KLUniform, kl_uniform
from vision_extras.sharpness import Sharpness


@pytest.mark.parametrize("shape", [(5,), (7, 3), (2, 4, 11)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_divergence_is_torchs(shape, dtype):
    logits = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    found = kl_uniform(logits)
    logs = logits.double().log_softmax(-1)
    expected = F.kl_div(logs, torch.full_like(logs, 1 / shape[-1]), reduction="none").sum(-1)
    assert found.dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_uniform_predictions_do_not_diverge():
    assert kl_uniform(torch.full((3, 7), 5.0)).abs().max() < 1e-6


class Classifier(torch.nn.Module):
    """Cross entropy of a small network with dropout and batch statistics."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.network = torch.nn.Sequential(
            torch.nn.Linear(3, 8),
            torch.nn.BatchNorm1d(8),
            torch.nn.ReLU(),
            torch.nn.Dropout(0.2),
            torch.nn.Linear(8, 5),
        )

    def forward(self, x, y, weight):
        labels = (y * 100).long() % 5
        return F.cross_entropy(self.network(x), labels, reduction="sum"), torch.tensor(len(x))


class ClassifierTask(toy.ToyTask):
    def __init__(self, *methods, batch_size=2):
        super().__init__(batch_size=batch_size)
        self.model = Classifier()
        self.probe = torch.randn(6, 3, generator=torch.Generator().manual_seed(2))
        self.methods = [method(self) for method in methods]

    def count(self, batch):
        return len(batch["x"])


def divergence(task):
    return KLUniform(task.model.network)


def trace(task):
    return FisherTrace(task.model.network, task.probe, lambda step: step % 2 == 0, draws=3)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_training_is_the_same_bit_for_bit(tmp_path, optimizer):
    _, plain = toy.run(tmp_path / "plain", ClassifierTask(), optimizer=optimizer)
    _, watched = toy.run(tmp_path / "watched", ClassifierTask(trace, divergence), optimizer=optimizer)
    assert_same(watched, plain)
    for record, other in zip(records_of(tmp_path / "watched"), records_of(tmp_path / "plain"), strict=True):
        measured = {"kl_uniform", *(("fisher", "fisher_error") if record["step"] % 2 == 0 else ())}
        assert record.keys() - other.keys() == measured
        assert {name: record[name] for name in other} == other


def test_the_divergence_is_the_mean_over_the_update(tmp_path):
    """Of all its passes, in training mode, at the weights themselves; evaluations in between count for nothing."""
    task, logits = ClassifierTask(divergence), []
    task.methods.append(Sharpness(task.model, 0.5))
    task.model.network.register_forward_hook(lambda module, inputs, output: logits.append(output.detach()))
    toy.run(tmp_path, task, steps=3, evaluate_every=1)
    # Two passes at the weights, two at the worst point nearby, and an evaluation of ten rows.
    updates = [logits[5 * step : 5 * step + 2] for step in range(3)]
    assert [part.shape[0] for part in logits[:5]] == [2, 2, 2, 2, 10]
    expected = [float(kl_uniform(torch.cat(parts)).mean()) for parts in updates]
    found = [record["kl_uniform"] for record in records_of(tmp_path) if "kl_uniform" in record]
    assert found == pytest.approx(expected, rel=1e-6)


def test_the_trace_is_that_of_the_weights_after_the_update(tmp_path):
    task = ClassifierTask(trace)
    toy.run(tmp_path, task, steps=2)
    record = records_of(tmp_path)[1]
    draw = Moment(1, 2, 0).generator("fisher")
    assert (record["fisher"], record["fisher_error"]) == fisher_trace(task.model.network, task.probe, 3, draw)
    exact = exact_fisher_trace(task.model.network, task.probe)
    assert 0 < record["fisher_error"] < exact and abs(record["fisher"] - exact) < 4 * record["fisher_error"]


def test_what_is_seldom_measured_is_always_on_record(tmp_path):
    toy.run(tmp_path, ClassifierTask(trace, divergence), record_every=5, steps=6)
    assert [(record["step"], "fisher" in record) for record in records_of(tmp_path)] == [
        (2, True),
        (4, True),
        (5, False),
        (6, True),
    ]


def test_a_module_that_makes_no_predictions_is_an_error(tmp_path):
    task = ClassifierTask()
    task.methods = [KLUniform(torch.nn.Identity())]
    with pytest.raises(RuntimeError, match="update 1 showed no predictions to the signal 'kl_uniform'"):
        toy.run(tmp_path, task)


# Language models


@pytest.mark.parametrize("slice_length", [1, 7, 64])
def test_a_language_models_predictions_are_seen_slice_by_slice(slice_length):
    """Those that count: not of padding, nor of the last position."""
    loss, seen = CausalLoss(tiny_llama(), slice_length), []
    input_ids = torch.randint(96, (2, 13), generator=torch.Generator().manual_seed(0))
    labels = input_ids.clone()
    labels[1, 9:] = -100
    plain = loss(input_ids, labels)[0]
    loss.predictions.register_forward_hook(lambda module, inputs, output: seen.append(output))
    assert torch.equal(loss(input_ids, labels)[0], plain)
    logits = loss.model(input_ids=input_ids).logits
    expected = logits[:, :-1][labels[:, 1:] != -100]
    torch.testing.assert_close(torch.cat(seen), expected.detach())
    assert not any(part.requires_grad for part in seen)
