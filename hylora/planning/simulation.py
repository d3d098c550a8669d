# SPDX-License-Identifier: Apache-2.0
"""One training step of the real model, the real loss and the real attention, on tensors without storage."""

from __future__ import annotations

import copy
import importlib.util
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from transformers import AutoModelForCausalLM, PretrainedConfig

from hylora.adapters.structure import base_model, find_groups
from hylora.attention import SpanConfig
from hylora.language.head import decoder_and_head
from hylora.language.model import ModelPlan, prepare_model, weights_dtype
from hylora.language.recipe import LanguageRecipe
from hylora.language.task import CausalLoss
from hylora.planning.fused import use_fused_scans
from hylora.planning.tracker import MemoryLedger, StepTracker
from hylora.training.optimizer import trainable

__all__ = ["Simulation", "StepProfile"]


@dataclass(frozen=True)
class StepProfile:
    """What one micro-batch takes.

    Args:
        memory: bytes by part at the moment when they are most.
        highest: the most bytes that each part has at any moment.
        operations: floating-point operations by part and phase ("forward", "recomputation", "backward").
        offloaded: bytes of each tensor that waits on the host.
    """

    memory: dict[str, int]
    highest: dict[str, int]
    operations: Counter[tuple[str, str]]
    offloaded: tuple[int, ...] = ()


class Simulation:
    """A recipe's model without weights, on which steps of any length can be tried.

    Args:
        recipe: the recipe.
        plan: of its model.
        mixed_precision: accelerate's name, "bf16" or "no".
        accumulate: whether gradients of an earlier micro-batch are there.
        kernels: of Mamba layers: "fused" for the memory and operations of mamba-ssm, "torch" for transformers' own
            code.
        on_gpu: attention as on a GPU: whole operators and the memory inside them, not the CPU's operations one by one.

    Raises:
        ValueError: for "torch" where mamba-ssm is installed, which transformers then runs whatever is asked.
    """

    def __init__(
        self,
        recipe: LanguageRecipe,
        plan: ModelPlan,
        mixed_precision: str,
        *,
        accumulate: bool = True,
        kernels: str = "fused",
        on_gpu: bool = True,
    ) -> None:
        if kernels == "torch" and importlib.util.find_spec("mamba_ssm"):
            raise ValueError("kernels='torch' cannot be planned where mamba-ssm is installed; use kernels='fused'")
        self._recipe = recipe
        self._mixed_precision = mixed_precision
        self._accumulate = accumulate
        self._on_gpu = on_gpu
        self._fake_mode = FakeTensorMode(allow_non_fake_inputs=True)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                _for_simulation(plan.config, on_gpu),
                attn_implementation=plan.attention,
                dtype=weights_dtype(recipe, mixed_precision),
                trust_remote_code=recipe.model.trust_remote_code,
            )
            # Offloading is left to `_offload`: transformers' own would look for a device.
            kept = replace(recipe, training=replace(recipe.training, offload=False))
            self.model = prepare_model(model, kept, plan)
        self._offloaded: list[int] = []
        if recipe.training.offload:
            _offload(self.model, self._offloaded)
        with self._fake_mode:
            _move_to_cpu(self.model)
        self._stored = {} if plan.quantization is None else plan.quantization.stored_bytes(self.model)
        with self._fake_mode:
            # One weight at a time is multiplied in its ordinary form.
            self._ordinary = torch.empty_like(max(self._stored, key=torch.numel)) if self._stored else None
        self._scans = use_fused_scans(self.model) if kernels == "fused" else []
        self._loss = CausalLoss(self.model, recipe.training.loss_slice)
        self._parts = _parts(self._loss)

    @property
    def fused_layers(self) -> int:
        """Layers whose fused kernel is modelled."""
        return len(self._scans)

    def resident(self) -> StepProfile:
        """What is there before a micro-batch has a token: weights, and gradients of an earlier one."""
        ledger = MemoryLedger()
        self._account_weights(ledger)
        if self._accumulate:
            ledger.live["gradients"] = sum(parameter.nbytes for parameter in trainable(self._loss).values())
        return StepProfile(dict(ledger.live), {}, Counter())

    def run(self, length: int, batch_size: int = 1) -> StepProfile:
        """Forward and backward pass of one micro-batch.

        Args:
            length: tokens per sequence.
            batch_size: sequences.
        """
        tracker = StepTracker(self._fake_mode, self._on_gpu)
        self._offloaded.clear()
        ids = torch.ones(batch_size, length, dtype=torch.long)
        precision = torch.autocast("cpu", torch.bfloat16) if self._mixed_precision == "bf16" else nullcontext()
        self._account_weights(tracker.memory)
        with tracker, tracker.watch(self._parts), self._gradients(tracker):
            with precision:
                loss, _ = self._loss(ids, ids.clone())
            with tracker.backward():
                loss.backward()
        operations = tracker.operations + self._scan_operations(batch_size * length)
        peak = {part: size for part, size in tracker.memory.peak.items() if size}
        return StepProfile(peak, tracker.memory.highest, operations, tuple(self._offloaded))

    def _account_weights(self, ledger: MemoryLedger) -> None:
        for tensor in (*self._loss.parameters(), *self._loss.buffers()):
            part = "trained weights" if tensor.requires_grad else "frozen weights"
            ledger.add(tensor, part, self._stored.get(tensor))
        if self._ordinary is not None:
            ledger.add(self._ordinary, "frozen weights")

    @contextmanager
    def _gradients(self, tracker: StepTracker) -> Iterator[None]:
        """Account gradients as such: those of an earlier micro-batch, or those that come to be."""
        trained = trainable(self._loss).values()
        handles = []
        for parameter in trained:
            if self._accumulate:
                with self._fake_mode:
                    parameter.grad = torch.zeros_like(parameter)
                tracker.memory.move(parameter.grad, "gradients")
            else:
                mark = lambda parameter: tracker.memory.move(parameter.grad, "gradients")  # noqa: E731
                handles.append(parameter.register_post_accumulate_grad_hook(mark))
        yield
        for handle in handles:
            handle.remove()
        for parameter in trained:
            parameter.grad = None

    def _scan_operations(self, tokens: int) -> Counter[tuple[str, str]]:
        """Operations inside the fused scans, which are no operators of torch."""
        forward = sum(scan.operations(tokens) for scan in self._scans)
        phases = {"forward": forward, "backward": sum(scan.backward_operations(tokens) for scan in self._scans)}
        if self._recipe.training.gradient_checkpointing:
            phases["recomputation"] = forward
        return Counter({("recurrent layers", phase): number for phase, number in phases.items()})


def _offload(model: nn.Module, sizes: list[int]) -> None:
    """Let go of what checkpointed layers are recomputed from, and allocate it anew for the backward pass.

    Args:
        model: with checkpointing; changed in place.
        sizes: receives the bytes of each tensor that leaves the device.
    """

    def pack(tensor: torch.Tensor) -> tuple[torch.Size, torch.dtype]:
        if tensor.nbytes:
            sizes.append(tensor.nbytes)
        return tensor.shape, tensor.dtype

    def checkpoint(function: Callable, *args: Any, original: Callable, **kwargs: Any) -> Any:
        with saved_tensors_hooks(pack, lambda packed: torch.empty(packed[0], dtype=packed[1])):
            return original(function, *args, **kwargs)

    for module in model.modules():
        if original := getattr(module, "_gradient_checkpointing_func", None):
            module._gradient_checkpointing_func = partial(checkpoint, original=original)


def _move_to_cpu(model: nn.Module) -> None:
    """Replace tensors on the meta device, where kernels take other ways; to be called under a fake mode."""
    moved: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None and id(tensor) not in moved:
                    empty = torch.empty(tensor.shape, dtype=tensor.dtype)
                    is_parameter = tensors is module._parameters
                    moved[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty
                if tensor is not None:
                    tensors[name] = moved[id(tensor)]


def _for_simulation(config: PretrainedConfig, on_gpu: bool) -> PretrainedConfig:
    """The config with options that cost nothing here and change no shape, and without chance.

    Which blocks are retrieved changes no shape, and scoring them takes long on tensors that are not there. Of several
    chunk sizes the largest is the one that evaluation uses. A GPU's backends are operators that torch does not look
    into, whichever it is.
    """
    config = copy.deepcopy(config)
    text = config.get_text_config()
    span = SpanConfig.of(text)
    retrieval = "random" if span.retrieval == "relevance" else span.retrieval
    backend = "triton" if on_gpu else span.backend
    replace(span, retrieval=retrieval, chunk_size=max(span.chunk_sizes), backend=backend).keep_on(text)
    return config


def _parts(loss: CausalLoss) -> dict[nn.Module, str]:
    """The part of the model that each module belongs to; modules inside these belong to the same."""
    base = base_model(loss)
    groups = find_groups(base)
    kinds = dict.fromkeys(groups["norms"].values(), "norms")
    # Attention comes last: a convolution inside it does not make it recurrent.
    for group, part in (("convs", "recurrent layers"), ("attention", "attention")):
        kinds.update({base.get_submodule(name.rpartition(".")[0]): part for name in groups[group]})
    parts = {loss: "loss", decoder_and_head(loss.model).decoder: "residual stream"}

    def assign(module: nn.Module) -> None:
        if module in kinds:
            parts[module] = kinds[module]
        elif any(kinds.get(inner, "norms") != "norms" for inner in module.modules()):
            for child in module.children():
                assign(child)
        elif any(True for _ in module.parameters()) and module is not base.get_input_embeddings():
            parts[module] = "feed-forward"

    for child in decoder_and_head(loss.model).decoder.children():
        assign(child)
    return parts
