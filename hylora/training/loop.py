# SPDX-License-Identifier: Apache-2.0
"""The training loop. It knows no task: not what a batch is, nor what the loss means."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, GradientAccumulationPlugin, gather_object
from torch import Tensor, nn

from hylora.training.batches import Layout, make_batches
from hylora.training.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from hylora.training.optimizer import build_optimizer, load_optimizer_state, optimizer_state, trainable
from hylora.training.processes import on_main, process_state, sum_over_processes
from hylora.training.progress import ProgressDisplay, peak_memory
from hylora.training.randomness import derive_key
from hylora.training.recipe import (
    EvaluationRecipe,
    LoopRecipe,
    OptimizerRecipe,
    OutputRecipe,
    RecipeError,
    TrackingRecipe,
)
from hylora.training.run_folder import RunFolder
from hylora.training.schedules import warmup
from hylora.training.sharding import like, whole
from hylora.training.stopping import StopRequest
from hylora.training.task import Batch, Task
from hylora.training.trackers import Metrics

__all__ = ["SHARDED", "Outcome", "Trainer", "TrainingError", "build_accelerator"]


# The kinds of training in which no process holds the whole model.
SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)


class TrainingError(RuntimeError):
    """Training cannot go on."""


@dataclass(frozen=True)
class Outcome:
    """How training ended.

    Args:
        step: updates made.
        evaluation: metrics of the last evaluation, empty if there was none.
        stopped_by: the signal that stopped it early, or None.
    """

    step: int
    evaluation: dict[str, float]
    stopped_by: str | None = None


def build_accelerator(loop: LoopRecipe, tracking: TrackingRecipe, folder: RunFolder) -> Accelerator:
    """An accelerator for a run; how many processes there are is the launcher's choice.

    Raises:
        RecipeError: if the global batch cannot be spread over the processes, or the mixed precision cannot be had.
    """
    processes = process_state().num_processes
    if loop.global_batch_size % (loop.batch_size * processes):
        raise RecipeError(
            f"training.global_batch_size={loop.global_batch_size} is not a multiple of training.batch_size="
            f"{loop.batch_size} times {processes} processes"
        )
    # One program may make several runs, and accelerate keeps the first one's precision otherwise.
    AcceleratorState._reset_state()
    return Accelerator(
        mixed_precision=_mixed_precision(loop, process_state().device),
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=loop.global_batch_size // (loop.batch_size * processes), sync_with_dataloader=False
        ),
        log_with=list(tracking.trackers) or None,
        project_dir=str(folder.logs),
    )


def _mixed_precision(loop: LoopRecipe, device: torch.device) -> str:
    """accelerate's name of the recipe's mixed precision."""
    on_gpu = device.type == "cuda"
    if loop.mixed_precision == "auto":
        return "bf16" if on_gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    if loop.mixed_precision == "bf16" and on_gpu and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise RecipeError("training.mixed_precision='bf16' needs a GPU that has bfloat16; use float32")
    return "bf16" if loop.mixed_precision == "bf16" else "no"


class Trainer:
    """Trains a task's model.

    Everything random is a function of the seed and of the position in training, so that a resumed run is the run that
    was not interrupted.

    Args:
        task: what to train.
        accelerator: from `build_accelerator`, of the same `loop`.
        folder: of the run, already claimed.
        loop, optimizer, evaluation, tracking, output: sections of a recipe.
    """

    def __init__(
        self,
        task: Task,
        accelerator: Accelerator,
        folder: RunFolder,
        *,
        loop: LoopRecipe,
        optimizer: OptimizerRecipe,
        evaluation: EvaluationRecipe,
        tracking: TrackingRecipe,
        output: OutputRecipe,
    ) -> None:
        if accelerator.distributed_type == DistributedType.DEEPSPEED and output.checkpoint_every:
            raise RecipeError(
                f"output.checkpoint_every={output.checkpoint_every} cannot be had under DeepSpeed, which keeps the "
                "optimizer's state to itself; set it to 0, or shard with FSDP2"
            )
        self._task = task
        self._accelerator = accelerator
        self._folder = folder
        self._loop = loop
        self._optimizer_recipe = optimizer
        self._evaluation = evaluation
        self._tracking = tracking
        self._output = output
        self._schedule = optimizer.schedule.build()
        self._layout = Layout(
            batch_size=loop.batch_size,
            accumulation=accelerator.gradient_accumulation_steps,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
        )
        self._batches = make_batches(task.rows, task.collate, self._layout, loop.seed)
        # A stream does not know how many rows it has.
        self._rows = len(task.rows) if hasattr(task.rows, "__len__") else None
        self._model, self._optimizer = accelerator.prepare(task.model, build_optimizer(task.model, optimizer))
        self._buffers = _buffers(self._unwrapped())
        self._last_evaluation: dict[str, float] = {}
        self._data_state = self._batches.state()

    def run(self, checkpoint: Path | None = None) -> Outcome:
        """Train to the end of the recipe, or until a signal asks to stop.

        Args:
            checkpoint: folder of the checkpoint to continue from, or None.

        Returns:
            How it ended. The task's model holds the trained weights.

        Raises:
            TrainingError: if the loss or the gradients are not finite. Nothing of them reaches a checkpoint.
            CheckpointError: if a checkpoint cannot be written or read.
        """
        main = self._accelerator.is_main_process
        start = 0 if checkpoint is None else self._restore(checkpoint)
        self._metrics = Metrics(self._folder.metrics, start) if main else None
        shown = main and self._tracking.progress
        with (
            ProgressDisplay(self._loop.steps, start, self._task.unit, shown) as self._display,
            StopRequest() as self._stop,
        ):
            for step in range(start, self._loop.steps):
                if not self._update(step):
                    return self._end_early(step)
                self._after_update(step + 1)
        return Outcome(self._loop.steps, self._last_evaluation)

    def gathered_state(self) -> dict[str, Tensor] | None:
        """The trained model's state where it is sharded, else None; every process must call it."""
        if self._accelerator.distributed_type not in SHARDED:
            return None
        return self._accelerator.get_state_dict(self._model)

    def _after_update(self, step: int) -> None:
        """What is due when `step` updates are made."""
        # Taken before the next batches are read, which a stop may leave unused.
        self._data_state = self._batches.state()
        last = step == self._loop.steps
        if _is_due(step, self._evaluation.every) or (last and self._evaluation.at_end):
            self._evaluate(step)
        if _is_due(step, self._output.checkpoint_every) or (last and self._output.checkpoint_every):
            self._save(step)

    def _end_early(self, step: int) -> Outcome:
        """Save what is there and say how to go on."""
        signal = self._stop.received or "a signal to another process"
        can_save = step and self._accelerator.distributed_type != DistributedType.DEEPSPEED
        where = f"saved {self._save(step)}" if can_save else "nothing saved"
        self._display.note(f"stopped by {signal} after {step} updates, {where}; go on with training.resume=true")
        return Outcome(step, self._last_evaluation, stopped_by=signal)

    def _update(self, step: int) -> bool:
        """Make one update of the weights; False, with the weights as they were, if a signal asks to stop."""
        begun = time.perf_counter()
        window = self._batches.window(step)
        (count,) = sum_over_processes(self._accelerator, sum(self._task.count(batch) for batch in window))
        # accelerate averages over the window and DDP over processes: undo both and divide by the terms instead.
        scale = len(window) * self._layout.world_size / max(count, 1)
        before = {name: value.clone() for name, value in self._buffers.items()}
        loss_sum = torch.zeros((), device=self._accelerator.device)
        for offset, batch in enumerate(window):
            if self._must_stop():
                for name, value in before.items():
                    self._buffers[name].copy_(value)
                return False
            loss_sum += self._backward(step * len(window) + offset, batch, scale)
        (loss,) = sum_over_processes(self._accelerator, float(loss_sum) / max(count, 1))
        limit = self._optimizer_recipe.max_grad_norm
        parameters = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        norm = self._accelerator.clip_grad_norm_(parameters, math.inf if limit is None else limit)
        # DeepSpeed updates on its own and may give no norm.
        norm = None if norm is None else float(whole(norm) if isinstance(norm, torch.Tensor) else norm)
        if not (math.isfinite(loss) and (norm is None or math.isfinite(norm))):
            raise TrainingError(
                f"update {step + 1} has loss {loss} and gradient norm {norm}: not finite. The weights of this update "
                f"are not saved; checkpoints before it are good. Lower optimizer.lr={self._optimizer_recipe.lr}, or "
                "look at the data of this update"
            )
        rate = self._set_rate(step)
        self._optimizer.step()
        self._optimizer.zero_grad()
        record = {"loss": loss, "grad_norm": norm, "lr": rate, self._task.unit: int(count)}
        self._report(step + 1, record, count, time.perf_counter() - begun)
        return True

    def _backward(self, micro_step: int, batch: Batch, scale: float) -> Tensor:
        """Add a micro-batch's gradients; gives its summed loss."""
        torch.manual_seed(derive_key("step", self._loop.seed, micro_step, self._layout.rank))
        batch = {name: value.to(self._accelerator.device, non_blocking=True) for name, value in batch.items()}
        with self._accelerator.accumulate(self._model):
            loss_sum, _ = self._model(**batch)
            self._accelerator.backward(loss_sum * scale)
        return loss_sum.detach()

    def _set_rate(self, step: int) -> float:
        recipe = self._optimizer_recipe
        factor = warmup(step, recipe.schedule.warmup_steps) * self._schedule(step / self._loop.steps)
        for group in self._optimizer.param_groups:
            group["lr"] = recipe.lr * factor
        return recipe.lr * factor

    def _must_stop(self) -> bool:
        """Whether any process got a signal; all of them get the same answer at the same micro-step."""
        (requests,) = sum_over_processes(self._accelerator, float(self._stop.received is not None))
        return requests > 0

    def _report(self, step: int, record: dict[str, Any], count: float, seconds: float) -> None:
        memory = peak_memory(self._accelerator.device)
        self._display.update(step, record["loss"], count / seconds, memory)
        if step % self._tracking.every == 0 or step == self._loop.steps:
            self._log({"step": step, **record, "seconds": seconds, "memory": memory})

    def _evaluate(self, step: int) -> None:
        self._model.eval()
        found = self._task.evaluate(self._model, self._accelerator)
        self._model.train()
        if found:
            self._last_evaluation = found
            self._log({"step": step, **{f"eval_{name}": value for name, value in found.items()}})
            shown = ", ".join(f"{name} {value:.4f}" for name, value in found.items())
            self._display.note(f"evaluation after {step} updates: {shown}")

    def _log(self, record: dict[str, Any]) -> None:
        if self._metrics is not None:
            self._metrics.write(record)
        if self._accelerator.trackers:
            values = {name: value for name, value in record.items() if name != "step" and value is not None}
            self._accelerator.log(values, step=record["step"])

    def _unwrapped(self) -> nn.Module:
        return self._accelerator.unwrap_model(self._model)

    def _save(self, step: int) -> Path:
        """Write a checkpoint; every process takes part."""
        model = self._unwrapped()
        weights = {name: whole(value).detach().cpu().contiguous() for name, value in _changing(model).items()}
        tensors, scalars = optimizer_state(self._optimizer, model)
        data = None if self._data_state is None else gather_object([self._data_state])
        state = {"optimizer": scalars, "data": data, "rows": self._rows, "evaluation": self._last_evaluation}
        checkpoint = Checkpoint(step, {"weights": weights, "optimizer": tensors}, state)
        return on_main(
            self._accelerator,
            lambda: save_checkpoint(self._folder.checkpoints, checkpoint, self._output.keep_checkpoints),
        )

    def _restore(self, path: Path) -> int:
        """Take over a checkpoint; gives the updates made so far."""
        checkpoint = load_checkpoint(path)
        if checkpoint.step > self._loop.steps:
            raise CheckpointError(
                f"{path} has made {checkpoint.step} updates, more than training.steps={self._loop.steps}; set that to "
                "at least as many"
            )
        rows = checkpoint.state["rows"]
        if rows != self._rows:
            # Their order depends on their number: some would be seen twice and others never.
            raise CheckpointError(
                f"{path} is of a run on {rows} rows of data, and there are {self._rows} now; bring back the data as "
                "it was, or start a new run in another output.path"
            )
        model = self._unwrapped()
        ours, theirs = _changing(model), checkpoint.tensors["weights"]
        if ours.keys() != theirs.keys():
            different = sorted(ours.keys() ^ theirs.keys())
            raise CheckpointError(
                f"{path} holds other weights than this run trains: {different[:5]} and {len(different)} in all differ"
            )
        with torch.no_grad():
            for name, value in ours.items():
                value.copy_(like(theirs[name], value))
        load_optimizer_state(self._optimizer, model, checkpoint.tensors["optimizer"], checkpoint.state["optimizer"])
        self._last_evaluation = checkpoint.state["evaluation"]
        data = checkpoint.state["data"]
        if data is not None:
            if len(data) != self._layout.world_size:
                raise CheckpointError(
                    f"{path} is of a stream read by {len(data)} processes, and there are {self._layout.world_size}; "
                    "resume with as many as before"
                )
            self._batches.restore(data[self._layout.rank])
            self._data_state = data[self._layout.rank]
        return checkpoint.step


def _is_due(step: int, every: int) -> bool:
    """Whether `step` is a multiple of `every`; 0 stands for never."""
    return every > 0 and step % every == 0


def _changing(model: nn.Module) -> dict[str, Tensor]:
    """What training changes: trainable parameters, and buffers that are part of the model's state."""
    return {**trainable(model), **_buffers(model)}


def _buffers(model: nn.Module) -> dict[str, Tensor]:
    """Buffers that are part of a model's state, such as batch statistics; language models rarely have any."""
    persistent = model.state_dict(keep_vars=True).keys()
    return {name: value for name, value in model.named_buffers() if name in persistent}
