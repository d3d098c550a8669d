# SPDX-License-Identifier: Apache-2.0
"""The training loop. It knows no task: not what a batch is, nor what the loss means."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, extract_model_from_parallel, gather_object
from torch import Tensor, nn

from hylora.randomness import derive_key
from hylora.training.accumulation import Accumulation, Interrupted, PassBuffers
from hylora.training.checkpoint import Checkpoint, CheckpointError, save_checkpoint
from hylora.training.evaluation import evaluation_mode
from hylora.training.moment import Moment
from hylora.training.optimizer import (
    build_optimizer,
    carried_state,
    load_optimizer_state,
    optimizer_state,
    parameter_names,
    trainable,
)
from hylora.training.processes import (
    SHARDED,
    on_main,
    reshard,
    shards_parameters,
    share_of,
    sum_over_processes,
    whole,
)
from hylora.training.recipe import Recipe, RecipeError
from hylora.training.reporting import EVALUATED, Metrics, ProgressDisplay, forget_peak, peak_memory, read_metrics
from hylora.training.run_folder import RunFolder
from hylora.training.schedules import warmup
from hylora.training.state import NotFiniteError, changing, check_finite, persistent_buffers, put_back, take
from hylora.training.stopping import StopRequest
from hylora.training.task import Task

__all__ = ["Outcome", "Trainer", "TrainingError"]


class TrainingError(RuntimeError):
    """Training cannot go on."""


@dataclass(frozen=True)
class Outcome:
    """How training ended.

    Args:
        step: updates made.
        evaluation: metrics of the last evaluation, empty if there was none.
        measured: what the task measured of the trained model.
        stopped_by: the signal that stopped it early, or None.
        seconds: that all updates took, without evaluations and checkpoints.
        memory: most bytes in use, on the main process's device.
    """

    step: int
    evaluation: dict[str, float]
    stopped_by: str | None = None
    measured: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    memory: int = 0


class Trainer:
    """Trains a task's model.

    Everything random is a function of the seed and of the position in training, so that a resumed run is the run that
    was not interrupted.

    Args:
        task: what to train.
        accelerator: from `build_accelerator`, of the same recipe.
        folder: of the run, already claimed.
        recipe: of the run; only the sections that all tasks share are read.
        stop: where signals are noted; None for one of its own.
    """

    def __init__(
        self, task: Task, accelerator: Accelerator, folder: RunFolder, recipe: Recipe, stop: StopRequest | None = None
    ) -> None:
        output = recipe.output
        if accelerator.distributed_type == DistributedType.DEEPSPEED and output.checkpoint_every:
            raise RecipeError(
                f"output.checkpoint_every={output.checkpoint_every} cannot be had under DeepSpeed, which keeps the "
                "optimizer's state to itself; set it to 0, or shard with FSDP2"
            )
        self._task = task
        self._parts = (task, *task.methods)
        self._method_states()
        self._steps = task.steps or recipe.training.steps
        self._accelerator = accelerator
        self._folder = folder
        self._recipe = recipe
        self._stop = stop or StopRequest()
        self._schedule = recipe.optimizer.schedule.build()
        self._share = share_of(accelerator)
        self._last_begun = self._moment(0)
        self._last_evaluation: dict[str, float] = {}
        self._data_state = task.feed.state()
        self._metrics: Metrics | None = None
        self._step = 0
        self._seconds = 0.0
        self._memory = 0
        self._prepare()

    def run(self, checkpoint: Checkpoint | None = None) -> Outcome:
        """Train to the end of the recipe, or until a signal asks to stop.

        Args:
            checkpoint: to continue from, or None.

        Returns:
            How it ended. The task's model holds the trained weights, all of them finite.

        Raises:
            TrainingError: if the loss, the gradients or the weights are not finite. Nothing of them is saved.
            CheckpointError: if a checkpoint or a record cannot be written, or the checkpoint is of another run.
        """
        steps = self._steps
        if checkpoint is not None:
            self._restore(checkpoint)
        start = self._step
        # Of a run without a checkpoint nothing says that it had the same data and the same base.
        kept = -1 if checkpoint is None else start
        main = self._accelerator.is_main_process
        self._last_evaluation, evaluated = on_main(self._accelerator, lambda: self._evaluation_before(kept))
        self._metrics = Metrics(self._folder.metrics, kept) if main else None
        shown = main and self._recipe.tracking.progress
        with self._stop.deferred(), ProgressDisplay(steps, start, self._task.unit, shown) as self._display:
            try:
                if not evaluated:
                    self._evaluate_if_due(start)
                for step in range(start, steps):
                    self._update(self._moment(step))
                    self._after_update(step + 1)
                with evaluation_mode(self._model):
                    measured = self._task.measure(self._model, self._accelerator, self._check_stop)
            except Interrupted:
                return self._end_early()
        try:
            check_finite(changing(self._unwrapped()))
        except NotFiniteError as error:
            raise self._not_finite(error) from error
        return Outcome(steps, self._last_evaluation, measured=measured, seconds=self._seconds, memory=self._memory)

    def gathered_state(self) -> dict[str, Tensor] | None:
        """The trained model's state where no process has it, else None; every process must call it.

        Raises:
            TrainingError: if it is not finite, which only a whole one shows under DeepSpeed.
        """
        if not shards_parameters(self._accelerator):
            return None
        state = self._accelerator.get_state_dict(self._model)
        try:
            on_main(self._accelerator, lambda: check_finite(state))
        except NotFiniteError as error:
            raise self._not_finite(error) from error
        return state

    def rescue(self) -> str:
        """Save what was trained, because its results could not be written; what to do next, for the message."""
        if self._accelerator.distributed_type == DistributedType.DEEPSPEED:
            return "Under DeepSpeed nothing else is saved: the training is lost"
        try:
            saved = f"The training is not lost: it is saved in {self._save()}. "
        except (CheckpointError, RuntimeError) as error:
            saved = f"Nor could it be saved ({error}). " if not self._recipe.output.checkpoint_every else ""
        return f"{saved}Make room on the disk, then go on from the last checkpoint with training.resume=true"

    def _seed(self, what: str, moment: Moment) -> None:
        """Seed torch's generator, for tasks whose building blocks draw from that, as layers do that are added."""
        torch.manual_seed(derive_key(what, moment.seed, moment.step))

    def _moment(self, step: int) -> Moment:
        return Moment(step, self._steps, self._recipe.training.seed)

    # What is trained

    def _prepare(self) -> None:
        """Wrap the model for the processes at hand, and build its optimizer."""
        recipe, model = self._recipe.optimizer, self._task.model
        optimizer = build_optimizer(self._task.parameter_groups(recipe.weight_decay), recipe)
        self._names = parameter_names(optimizer, model)
        self._shapes = {name: parameter.shape for name, parameter in trainable(model).items()}
        self._tell_plugins(model)
        self._model, self._optimizer = self._accelerator.prepare(model, optimizer)
        self._undo = PassBuffers(list(persistent_buffers(self._unwrapped()).values()))

    def _tell_plugins(self, model: nn.Module) -> None:
        """Give what shards the model the part of the recipe that it sees to itself."""
        state = self._accelerator.state
        if state.deepspeed_plugin is not None:
            state.deepspeed_plugin.deepspeed_config["gradient_clipping"] = self._recipe.optimizer.max_grad_norm or 0.0
        plugin = getattr(state, "fsdp_plugin", None)
        if plugin is not None and plugin.cpu_ram_efficient_loading and persistent_buffers(model):
            raise RecipeError(
                f"accelerate was asked for fsdp_cpu_ram_efficient_loading, which loses buffers, and the model has "
                f"{next(iter(persistent_buffers(model)))}; set it to false"
            )

    def _begin(self, moment: Moment) -> None:
        """Let the task prepare an update; where it changed the parameters, take the optimizer's state over."""
        self._last_begun = moment
        self._seed("begin", moment)
        changed = [part.begin(moment) for part in self._parts]
        if any(changed):
            self._renew(moment)
        for parameter in itertools.chain.from_iterable(part.forgotten(moment) for part in self._parts):
            if self._accelerator.distributed_type == DistributedType.DEEPSPEED:
                raise TrainingError(
                    f"update {moment.step + 1} begins with fresh momentum, and DeepSpeed keeps the optimizer's state "
                    "to itself; train with DDP, FSDP2 or on one GPU"
                )
            # Not zeroed: what counts updates begins anew too.
            self._optimizer.state.pop(parameter, None)

    def _renew(self, moment: Moment) -> None:
        """Wrap the changed model, and carry over the optimizer's state of what is still there."""
        if self._accelerator.distributed_type in SHARDED:
            raise TrainingError(
                f"update {moment.step + 1} changes the model's parameters, which cannot be done while they are "
                "sharded over processes; train with DDP or on one GPU"
            )
        state = optimizer_state(self._optimizer, self._names)
        extract_model_from_parallel(self._model, keep_fp32_wrapper=False)
        self._accelerator.free_memory()
        shapes = self._shapes
        self._prepare()
        model = self._unwrapped()
        load_optimizer_state(self._optimizer, model, *carried_state(model, *state, shapes))

    def _unwrapped(self) -> nn.Module:
        reshard(self._model)
        return self._accelerator.unwrap_model(self._model, keep_torch_compile=False)

    # An update

    def _update(self, moment: Moment) -> None:
        """Make one update of the weights.

        Raises:
            Interrupted: if a signal asks to stop; the model is then as after the update before.
        """
        started = time.perf_counter()
        self._check_stop()
        self._begin(moment)
        window = self._task.feed.window(moment)
        (count,) = sum_over_processes(self._accelerator, sum(self._task.count(batch) for batch in window))
        accumulation = Accumulation(
            self._accelerator, self._model, moment, window, max(count, 1), self._undo, self._check_stop
        )
        # DeepSpeed steps at the end of the last backward pass, so that the rate has to be set by then.
        rate = self._set_rate(moment)
        accumulate: Callable[[], Tensor] = accumulation
        for part in self._parts:
            accumulate = partial(part.gradients, accumulate)
        loss_sum = accumulate()
        (loss,) = sum_over_processes(self._accelerator, float(loss_sum) / max(count, 1))
        norm = self._clip()
        if not (math.isfinite(loss) and (norm is None or math.isfinite(norm))):
            raise TrainingError(
                f"update {moment.step + 1} has loss {loss} and gradient norm {norm}: not finite. The weights of this "
                f"update are not saved; checkpoints before it are good. Lower optimizer.lr="
                f"{self._recipe.optimizer.lr}, or look at the data of this update"
            )
        self._optimizer.step()
        self._seed("end", moment)
        for part in self._parts:
            part.end(moment)
        self._optimizer.zero_grad()
        self._step = moment.step + 1
        record = {"loss": loss, "grad_norm": norm, "lr": rate, self._task.unit: int(count)}
        for part in self._parts:
            record |= part.scheduled(moment)
        noteworthy = any(part.noteworthy(moment) for part in self._parts)
        self._report(self._step, record, count, time.perf_counter() - started, noteworthy)

    def _clip(self) -> float | None:
        """Clip the gradients; their norm before that, or None where DeepSpeed keeps it."""
        limit = self._recipe.optimizer.max_grad_norm
        trained = {id(parameter) for group in self._optimizer.param_groups for parameter in group["params"]}
        # In the model's order: under FSDP accelerate asks whether they are its parameters, and compares what is not.
        parameters = [parameter for parameter in self._model.parameters() if id(parameter) in trained]
        norm = self._accelerator.clip_grad_norm_(parameters, math.inf if limit is None else limit)
        return None if norm is None else float(whole(norm) if isinstance(norm, Tensor) else norm)

    def _set_rate(self, moment: Moment) -> float:
        recipe = self._recipe.optimizer
        factor = warmup(moment.step, recipe.schedule.warmup_steps) * self._schedule(moment.progress)
        for part in self._parts:
            factor = part.rate(moment, factor)
        for group in self._optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        return recipe.lr * factor

    def _check_stop(self) -> None:
        """End here if any process got a signal; all of them come to the same answer at the same place."""
        (requests,) = sum_over_processes(self._accelerator, float(self._stop.received is not None))
        if requests:
            raise Interrupted

    # Between updates

    def _after_update(self, step: int) -> None:
        """What is due when `step` updates are made."""
        # Taken before the next batches are read, which a stop may leave unused.
        self._data_state = self._task.feed.state()
        output = self._recipe.output
        # An evaluation may take longer than whoever asks to stop waits: save first.
        if _is_due(step, output.checkpoint_every) or (step == self._steps and output.checkpoint_every):
            self._save()
        self._evaluate_if_due(step)

    def _evaluate_if_due(self, step: int) -> None:
        recipe, last = self._recipe.evaluation, step == self._steps
        due = self._task.evaluation_due(step, recipe.every) if step else recipe.at_start
        if not (due or (last and recipe.at_end)):
            return
        arguments = self._model, self._accelerator, self._check_stop
        with evaluation_mode(self._model):
            found = self._task.evaluate(*arguments)
            if found and recipe.at_start and (last or not step):
                found |= self._task.evaluate_ends(*arguments)
        forget_peak(self._accelerator.device)
        if found:
            if step:
                self._last_evaluation = found
            self._log({"step": step, **{f"{EVALUATED}{name}": value for name, value in found.items()}})
            shown = ", ".join(f"{name} {value:.4f}" for name, value in found.items())
            self._display.note(f"evaluation after {step} updates: {shown}")

    def _evaluation_before(self, start: int) -> tuple[dict[str, float], bool]:
        """The last evaluation on record up to a step, and whether there is one of that very step."""
        records = [r for r in read_metrics(self._folder.metrics) if r["step"] <= start and _is_evaluation(r)]
        step = records[-1]["step"] if records else 0
        # That of step 0 is of what training starts from.
        found = records[-1] if step else {}
        values = {name.removeprefix(EVALUATED): value for name, value in found.items() if name != "step"}
        return values, bool(records) and step == start

    def _end_early(self) -> Outcome:
        """Save what is there and say how to go on."""
        signal = self._stop.received or "a signal to another process"
        can_save = self._step and self._accelerator.distributed_type != DistributedType.DEEPSPEED
        where = f"saved {self._save()}" if can_save else "nothing saved"
        self._display.note(f"stopped by {signal} after {self._step} updates, {where}; go on with training.resume=true")
        return Outcome(self._step, self._last_evaluation, stopped_by=signal)

    def _report(self, step: int, record: dict[str, Any], count: float, seconds: float, noteworthy: bool) -> None:
        self._seconds += seconds
        self._memory = max(self._memory, peak_memory(self._accelerator.device))
        self._display.update(step, record["loss"], count / seconds, self._memory)
        if noteworthy or _is_due(step, self._recipe.tracking.every) or step == self._steps:
            self._log({"step": step, **record, "seconds": seconds, "memory": self._memory})

    def _log(self, record: dict[str, Any]) -> None:
        if self._metrics is not None:
            try:
                self._metrics.write(record)
            except OSError as error:
                raise CheckpointError(
                    f"{self._folder.metrics} cannot be written: {error}. Make room on the disk, then go on from the "
                    "last checkpoint with training.resume=true"
                ) from error
        if self._accelerator.trackers:
            values = {name: value for name, value in record.items() if name != "step" and value is not None}
            self._accelerator.log(values, step=record["step"])

    # Checkpoints

    def _save(self) -> Path:
        """Write a checkpoint; every process takes part."""
        main = self._accelerator.is_main_process
        try:
            tensors, scalars = take(self._unwrapped(), self._optimizer, self._names, keep=main)
        except NotFiniteError as error:
            raise self._not_finite(error) from error
        data = None if self._data_state is None else gather_object([self._data_state])
        state = {
            "begun": self._last_begun.step,
            "optimizer": scalars,
            "data": data,
            "identity": dict(self._task.identity()),
            "methods": self._method_states(),
            "seconds": self._seconds,
            "memory": self._memory,
        }
        checkpoint = Checkpoint(self._step, tensors, state)
        keep = self._recipe.output.keep_checkpoints
        if self._metrics is not None:
            self._metrics.flush()
        return on_main(self._accelerator, lambda: save_checkpoint(self._folder.checkpoints, checkpoint, keep))

    def _method_states(self) -> dict[str, Any]:
        """What is to be kept of the methods, by their names."""
        found = [(part.name, state) for part in self._parts if (state := part.state()) is not None]
        names = [name for name, _ in found]
        if "" in names or len({*names}) < len(names):
            raise ValueError(f"methods with a state must have each a name of their own, and they have {names}")
        return dict(found)

    def _not_finite(self, error: NotFiniteError) -> TrainingError:
        return TrainingError(
            f"{error} is not finite after update {self._step}. It is not saved; checkpoints before it are good. Lower "
            f"optimizer.lr={self._recipe.optimizer.lr}, or look at the optimizer's other settings"
        )

    def _restore(self, checkpoint: Checkpoint) -> None:
        """Take over a checkpoint."""
        where, steps = f"the checkpoint of update {checkpoint.step}", self._steps
        if checkpoint.step > steps:
            raise CheckpointError(
                f"{where} has made {checkpoint.step} updates, more than training.steps={steps}; set that to at least "
                "as many"
            )
        try:
            begun, scalars, data, before = (checkpoint.state[x] for x in ("begun", "optimizer", "data", "identity"))
            self._seconds, self._memory = checkpoint.state["seconds"], checkpoint.state["memory"]
            self._check_identity(where, before)
            states = checkpoint.state["methods"]
            for part in self._parts:
                if part.name in states:
                    part.restore(states[part.name])
            # The structure follows from the moment; the weights of that structure are then put into it.
            self._begin(self._moment(begun))
            put_back(self._unwrapped(), self._optimizer, checkpoint.tensors, scalars)
        except KeyError as error:
            raise CheckpointError(
                f"{where} has no {error}: it is of another version of hylora; go on with that, or start a new run"
            ) from error
        except ValueError as error:
            raise CheckpointError(f"{where} {error}") from error
        if data is not None:
            if len(data) != self._share.world_size:
                raise CheckpointError(
                    f"{where} is of a stream read by {len(data)} processes, and there are {self._share.world_size}; "
                    "resume with as many as before"
                )
            self._data_state = data[self._share.rank]
            self._task.feed.restore(self._data_state)
        self._step = checkpoint.step

    def _check_identity(self, where: str, before: dict[str, Any]) -> None:
        now = dict(self._task.identity())
        changed = [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
        if changed:
            details = ", ".join(f"{name} ({before.get(name)} then, {now.get(name)} now)" for name in changed)
            raise CheckpointError(
                f"{where} is of a run that would not go on as it was: {details}; bring back what was there, or "
                "start a new run in another output.path"
            )


def _is_evaluation(record: dict[str, Any]) -> bool:
    return any(name.startswith(EVALUATED) for name in record)


def _is_due(step: int, every: int) -> bool:
    """Whether `step` is a multiple of `every`; 0 stands for never."""
    return every > 0 and step % every == 0
