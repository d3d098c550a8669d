# SPDX-License-Identifier: Apache-2.0
"""The loop on a task that is not language: its arithmetic, resuming, stopping, and stopping in time."""

from __future__ import annotations

import json
import os
import signal
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType

from hylora.training.accumulation import Interrupted, PassBuffers
from hylora.training.checkpoint import CheckpointError, checkpoint_steps
from hylora.training.feed import RowFeed, RowOrder, WindowSize
from hylora.training.loop import TrainingError
from hylora.training.recipe import RecipeError
from hylora.training.run_folder import RunFolder
from tests.outcomes import assert_same, records_of
from tests.training import toy


def in_forward(task, number, action):
    """Make something happen in the n-th forward pass of training."""
    forward, seen = task.model.forward, []

    def counted(*args, **kwargs):
        seen.append(task.model.training)
        if task.model.training and sum(seen) == number:
            action()
        return forward(*args, **kwargs)

    task.model.forward = counted
    return task


def stop_at(task, number, signum=signal.SIGTERM):
    """Make the process get a signal in the n-th forward pass."""
    return in_forward(task, number, lambda: os.kill(os.getpid(), signum))


def crash_at(task, number):
    """Make the n-th forward pass fail."""

    def crash():
        raise RuntimeError("crash")

    return in_forward(task, number, crash)


def test_an_update_weighs_every_term_the_same(tmp_path):
    """One update over micro-batches of unequal weight is plain gradient descent on the mean over all terms."""
    task = toy.ToyTask(dropout=0.0)
    reference = toy.ToyTask(dropout=0.0)
    toy.run(tmp_path, task, steps=1, batch_size=1, optimizer="sgd", max_grad_norm=None)

    order = RowOrder(len(reference.rows), 0)
    loss_sum, count = reference.model(**reference.collate([reference.rows[order[i]] for i in range(4)]))
    (loss_sum / count).backward()
    rate = 0.05 * 0.5  # the first of two warm-up updates
    for name, parameter in reference.model.named_parameters():
        if parameter.requires_grad:
            expected = parameter.detach() - rate * parameter.grad
            torch.testing.assert_close(task.model.get_parameter(name).detach(), expected)
    record = records_of(tmp_path)[0]
    assert record["loss"] == pytest.approx((loss_sum / count).item()) and record["rows"] == count
    assert record["lr"] == pytest.approx(rate)


def test_windows_of_any_length_weigh_every_term_the_same(tmp_path):
    """Updates of 1 to 5 rows in passes of two are plain gradient descent on the mean over the terms of each."""
    sizes = [3, 5, 1, 4]

    def size(moment):
        return WindowSize(sizes[moment.step], 2)

    task = toy.ToyTask(rows=11, dropout=0.0)
    task.feed = RowFeed(task.rows, task.collate, size)
    reference = toy.ToyTask(rows=11, dropout=0.0)
    toy.run(tmp_path, task, steps=4, optimizer="sgd", max_grad_norm=None)
    order, first, velocity = RowOrder(11, 0), 0, {}
    for rows, record in zip(sizes, records_of(tmp_path), strict=True):
        batch = reference.collate([reference.rows[order[i]] for i in range(first, first + rows)])
        loss_sum, count = reference.model(**batch)
        reference.model.zero_grad()
        (loss_sum / max(count, 1)).backward()
        first += rows
        for name, parameter in reference.model.named_parameters():
            if parameter.requires_grad:
                velocity[name] = 0.9 * velocity.get(name, 0) + parameter.grad
                parameter.data -= record["lr"] * velocity[name]
    for name, parameter in reference.model.named_parameters():
        torch.testing.assert_close(task.model.get_parameter(name), parameter)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_accumulation_does_not_change_the_update(tmp_path, batch_size):
    _, whole = toy.run(tmp_path / "whole", toy.ToyTask(dropout=0.0), batch_size=4)
    _, parts = toy.run(tmp_path / "parts", toy.ToyTask(dropout=0.0), batch_size=batch_size)
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name])


def test_clipping_bounds_the_step(tmp_path):
    start = {name: value.clone() for name, value in toy.Regression().state_dict().items()}
    _, weights = toy.run(tmp_path, steps=1, optimizer="sgd", max_grad_norm=1e-3)
    moved = torch.stack([(weights[name] - start[name]).norm() for name in start if name != "seen"]).norm()
    assert float(moved) == pytest.approx(0.05 * 0.5 * 1e-3, rel=1e-3)
    assert records_of(tmp_path)[0]["grad_norm"] > 1e-3


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("crashed_after", [2, 4])
def test_resumed_is_bit_for_bit_the_uninterrupted_run(tmp_path, optimizer, crashed_after):
    """10 rows and 4 per update: update 3 runs over the end of an epoch. Dropout draws in every micro-batch."""
    _, whole = toy.run(tmp_path / "whole", optimizer=optimizer, evaluate_every=2)
    # The update after the checkpoint is lost, and its metrics must not stay.
    task = crash_at(toy.ToyTask(), 2 * (crashed_after + 1) + 1)
    with pytest.raises(RuntimeError, match="crash"):
        toy.run(tmp_path / "halves", task, optimizer=optimizer, evaluate_every=2)
    assert records_of(tmp_path / "halves")[-1]["step"] == crashed_after + 1
    outcome, resumed = toy.run(tmp_path / "halves", resume=True, optimizer=optimizer, evaluate_every=2)
    assert outcome.step == 6
    assert_same(whole, resumed)
    assert records_of(tmp_path / "whole") == records_of(tmp_path / "halves")


def test_every_interruption_gives_the_same_run(tmp_path):
    """Stopped at every single micro-batch in turn, and resumed each time."""
    _, whole = toy.run(tmp_path / "whole")
    for micro_batch in range(1, 12):
        folder = tmp_path / str(micro_batch)
        outcome, _ = toy.run(folder, stop_at(toy.ToyTask(), micro_batch), checkpoint_every=0)
        assert outcome.stopped_by == "SIGTERM" and outcome.step == micro_batch // 2
        _, resumed = toy.run(folder, resume=True, checkpoint_every=0)
        assert_same(whole, resumed)


class Growing(toy.ToyTask):
    """Gets a layer half-way, which leaves the function as it was."""

    def __init__(self):
        super().__init__()
        self.begun = []

    def begin(self, moment):
        self.begun.append(moment.step)
        if moment.progress < 0.5 or len(self.model.layers) > 4:
            return False
        grown = torch.nn.Linear(1, 1)
        torch.nn.init.ones_(grown.weight)
        torch.nn.init.normal_(grown.bias, std=1e-3, generator=moment.generator("growth"))
        self.model.layers.append(grown)
        return True


@pytest.mark.slow
def test_a_growing_model_resumes_as_if_nothing_had_happened(tmp_path):
    _, whole = toy.run(tmp_path / "whole", Growing())
    assert "layers.4.weight" in whole and whole["layers.4.weight"] != 1.0
    for micro_batch in range(1, 12):
        folder = tmp_path / str(micro_batch)
        toy.run(folder, stop_at(Growing(), micro_batch), checkpoint_every=0)
        _, resumed = toy.run(folder, Growing(), resume=True, checkpoint_every=0)
        assert_same(whole, resumed)


def test_growth_keeps_what_the_optimizer_knows(tmp_path):
    """Against a model that has the layer from the start and first uses it half-way."""
    task = Growing()
    trainer = toy.make_trainer(tmp_path, task, steps=2, optimizer="adamw")
    seen = {}
    end = task.end

    def look(moment):
        state = trainer._optimizer.state_dict()["state"]
        seen[moment.step] = {position: int(entry["step"]) for position, entry in state.items()}
        end(moment)

    task.end = look
    trainer.run()
    assert seen == {0: dict.fromkeys(range(4), 1), 1: {**dict.fromkeys(range(4), 2), 4: 1, 5: 1}}


class Sharpness(toy.ToyTask):
    """Sharpness-aware minimisation: gradients are taken where the loss is higher (Foret et al., 2021)."""

    def gradients(self, accumulate):
        loss = accumulate()
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        steps = [0.05 * p.grad for p in parameters]
        self.model.zero_grad()
        for sign in (1, -1):
            with torch.no_grad():
                for parameter, step in zip(parameters, steps, strict=True):
                    parameter += sign * step
            if sign == 1:
                accumulate()
        return loss


def test_gradients_may_be_taken_more_than_once(tmp_path):
    task, reference = Sharpness(dropout=0.0), toy.ToyTask(dropout=0.0)
    toy.run(tmp_path, task, steps=1, batch_size=2, optimizer="sgd", max_grad_norm=None)
    order = RowOrder(len(reference.rows), 0)
    batch = reference.collate([reference.rows[order[i]] for i in range(4)])
    trained = [p for p in reference.model.parameters() if p.requires_grad]

    def gradients():
        loss_sum, count = reference.model(**batch)
        return torch.autograd.grad(loss_sum / count, trained)

    with torch.no_grad():
        start = [p.clone() for p in trained]
    moved = gradients()
    with torch.no_grad():
        for parameter, gradient in zip(trained, moved, strict=True):
            parameter += 0.05 * gradient
    expected = [p - 0.05 * 0.5 * g for p, g in zip(start, gradients(), strict=True)]
    for parameter, value in zip((p for p in task.model.parameters() if p.requires_grad), expected, strict=True):
        torch.testing.assert_close(parameter.detach(), value)


def test_a_stop_never_finds_the_weights_moved(tmp_path):
    """A signal in the second pass over an update waits for its end."""
    _, whole = toy.run(tmp_path / "whole", Sharpness())
    for forward in range(1, 25):
        folder = tmp_path / str(forward)
        outcome, _ = toy.run(folder, stop_at(Sharpness(), forward), checkpoint_every=0)
        # Two micro-batches, each run twice: a signal after the last one of the first round ends the update.
        assert outcome.step == (forward + 2) // 4 if forward < 23 else outcome.step == 6
        _, resumed = toy.run(folder, Sharpness(), resume=True, checkpoint_every=0)
        assert_same(whole, resumed)


def test_what_follows_an_update_is_in_what_is_saved(tmp_path):
    class Masked(toy.ToyTask):
        def end(self, moment):
            with torch.no_grad():
                self.model.layers[0].weight[:, 0] = 0

    _, weights = toy.run(tmp_path, Masked())
    assert (weights["layers.0.weight"][:, 0] == 0).all() and (weights["layers.0.weight"][:, 1] != 0).all()


def test_only_buffers_that_passes_change_are_copied():
    mask, statistics = torch.ones(5), torch.zeros(2)
    buffers = PassBuffers([mask, statistics])
    for _ in range(2):
        with buffers.undone_by_a_stop():
            statistics += 1
    mask.zero_()
    with pytest.raises(Interrupted), buffers.undone_by_a_stop():
        statistics += 1
        mask += 1
        raise Interrupted
    # A mask is not a pass's business: whoever changes it in one is not undone.
    assert statistics.tolist() == [2, 2] and mask.tolist() == [1] * 5


def test_evaluation_does_not_disturb_training(tmp_path):
    """Also where a part of the model is in evaluation mode all the time."""

    def make():
        task = toy.ToyTask()
        task.model.layers.append(torch.nn.Dropout(0.9).eval())
        return task

    _, without = toy.run(tmp_path / "without", make())
    task = make()
    _, with_evaluation = toy.run(tmp_path / "with", task, evaluate_every=1)
    assert task.evaluations == 6
    assert_same(without, with_evaluation)


def test_dropout_differs_between_updates_and_seeds(tmp_path):
    """Two rows, seen whole in every update, with weights that stay: only what dropout draws can differ."""

    class Still(toy.ToyTask):
        def end(self, moment):
            self.model.load_state_dict(self.start)

    losses = {}
    for seed in (0, 1, 0):
        task = Still(rows=2, dropout=0.5)
        task.start = toy.state_of(task)
        toy.run(tmp_path, task, seed=seed, steps=3)
        losses.setdefault(seed, []).append([record["loss"] for record in records_of(tmp_path)])
    assert losses[0][0] == losses[0][1]
    assert len({*losses[0][0], *losses[1][0]}) == 6


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops(tmp_path, number):
    before = signal.getsignal(number)
    outcome, _ = toy.run(tmp_path, stop_at(toy.ToyTask(), 5, number), checkpoint_every=0)
    assert (outcome.step, outcome.stopped_by) == (2, signal.Signals(number).name)
    assert checkpoint_steps(RunFolder(tmp_path).checkpoints) == [2]
    assert signal.getsignal(number) == before


@pytest.fixture
def interruptible():
    """A shell starts what runs in its background with interrupts ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_second_interrupt_is_not_held_back(tmp_path):
    task = stop_at(toy.ToyTask(), 3, signal.SIGINT)
    first = task.model.forward

    def impatient(*args, **kwargs):
        result = first(*args, **kwargs)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            os.kill(os.getpid(), signal.SIGINT)
        return result

    task.model.forward = impatient
    with pytest.raises(KeyboardInterrupt):
        toy.run(tmp_path, task)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_it_is_saved(tmp_path, poison):
    task = toy.ToyTask(rows=12)
    task.rows[RowOrder(12, 0)[9]]["y"].fill_(poison)
    task.rows[RowOrder(12, 0)[9]]["weight"].fill_(1.0)
    with pytest.raises(TrainingError, match=r"update 3 has loss (nan|inf).*not finite.*optimizer.lr=0.05"):
        toy.run(tmp_path, task, checkpoint_every=1)
    assert checkpoint_steps(RunFolder(tmp_path).checkpoints) == [1, 2]
    assert all(torch.isfinite(value).all() for value in task.model.state_dict().values())


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    toy.run(tmp_path)
    task = toy.ToyTask()
    task.model.layers[3].weight.requires_grad_(False)
    with pytest.raises(CheckpointError, match=r"other weights.*layers\.3\.weight"):
        toy.run(tmp_path, task, resume=True)


def test_other_data_is_refused_when_a_run_goes_on(tmp_path):
    toy.run(tmp_path)
    with pytest.raises(CheckpointError, match=r"would not go on as it was: rows \(10 then, 11 now\)"):
        toy.run(tmp_path, toy.ToyTask(rows=11), resume=True)


def test_buffers_are_part_of_a_checkpoint(tmp_path):
    toy.run(tmp_path, steps=4)
    _, state = toy.run(tmp_path, resume=True, steps=6)
    assert state["seen"] == 6 * 4


def test_a_batch_that_does_not_divide_is_refused(tmp_path, monkeypatch):
    # Two processes, as a launcher would say; nothing is started.
    state = SimpleNamespace(num_processes=2, distributed_type=DistributedType.MULTI_CPU)
    monkeypatch.setattr("hylora.training.parallelism.process_state", lambda: state)
    with pytest.raises(RecipeError, match=r"global_batch_size=5 is not a multiple of training.batch_size=1 times"):
        toy.make_trainer(tmp_path, global_batch_size=5, batch_size=1)


def test_records_are_one_json_object_per_line(tmp_path):
    toy.run(tmp_path, steps=3, evaluate_every=3)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["step"] for record in records] == [1, 2, 3, 3]
    assert set(records[0]) == {"step", "loss", "grad_norm", "lr", "rows", "seconds", "memory"}
    assert set(records[3]) == {"step", "eval_loss"}


def test_without_a_checkpoint_nothing_is_kept_of_the_run_before(tmp_path):
    """Its data and its base may have been others."""
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "eval_loss": 123.0}\n')
    toy.run(tmp_path, resume=True, steps=1, evaluate_every=1)
    assert all(record.get("eval_loss") != 123.0 for record in records_of(tmp_path))
