# SPDX-License-Identifier: Apache-2.0
"""How a run is spread over devices: what the launcher asks for, refused by name where it would not train what it says.

`accelerate launch` hands its configuration file and flags to the processes in environment variables. What they ask for
is looked at here, before anything is built.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import (
    DistributedType,
    FullyShardedDataParallelPlugin,
    GradientAccumulationPlugin,
    parse_flag_from_env,
)
from torch.distributed.fsdp import MixedPrecisionPolicy

from hylora.training.recipe import LoopRecipe, RecipeError, TrackingRecipe

__all__ = ["build_accelerator", "check_parallelism", "fsdp_plugin", "process_state"]

# Nothing carries what a layer knows from one part of a sequence to the process that has the next.
_SPLIT_SEQUENCES = (
    "splits each sequence over processes: recurrent layers would begin anew in every part, and SE-Attn's chunks and "
    "blocks would end at its edges"
)
_SPLIT_LAYERS = "splits projections over processes, which adapters and the sliced loss read whole"

# Variables of `accelerate launch` that ask for something when they hold a number above 1.
_REFUSED_SIZES = {
    "PARALLELISM_CONFIG_TP_SIZE": ("tensor parallelism (parallelism_config_tp_size)", _SPLIT_LAYERS),
    "PARALLELISM_CONFIG_CP_SIZE": ("context parallelism (parallelism_config_cp_size)", _SPLIT_SEQUENCES),
    "PARALLELISM_CONFIG_SP_SIZE": ("sequence parallelism (parallelism_config_sp_size)", _SPLIT_SEQUENCES),
}

# Those that do when they are true.
_REFUSED_FLAGS = {
    "ACCELERATE_USE_MEGATRON_LM": (
        "Megatron-LM (distributed_type: MEGATRON_LM) with its pipeline and tensor parallelism",
        "trains models of its own and none of transformers",
    ),
    "ACCELERATE_USE_SAGEMAKER": (
        "SageMaker (compute_environment: AMAZON_SAGEMAKER)",
        "starts processes by ways that were never tried",
    ),
    "FSDP_ACTIVATION_CHECKPOINTING": (
        "fsdp_activation_checkpointing",
        "draws other dropout when it recomputes; set training.gradient_checkpointing=true in the recipe",
    ),
}


def process_state() -> PartialState:
    """accelerate's view of the processes that were launched.

    Raises:
        RuntimeError: if several were launched and accelerate would let each of them run for itself.
    """
    # Accelerator reads this variable, PartialState does not.
    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched > 1 and state.num_processes == 1:
        raise RuntimeError(
            f"{launched} processes were launched, but accelerate found no GPU to connect them; to train on CPUs set "
            "ACCELERATE_USE_CPU=true"
        )
    return state


def check_parallelism(kind: DistributedType) -> None:
    """Refuse what the launcher asks for and the loop does not do.

    Args:
        kind: of the processes, as accelerate found them.

    Raises:
        RecipeError: naming what was asked for, why it is refused, and what there is in its place.
    """
    for asked, reason in _refused(kind):
        raise RecipeError(
            f"accelerate was asked for {asked}, which {reason}; launch with a file of recipes/accelerate (DDP, FSDP2, "
            "DeepSpeed ZeRO), or leave this out of yours"
        )


def _refused(kind: DistributedType) -> Iterator[tuple[str, str]]:
    for name, (asked, reason) in _REFUSED_FLAGS.items():
        if parse_flag_from_env(name):
            yield asked, reason
    if parse_flag_from_env("ACCELERATE_USE_PARALLELISM_CONFIG"):
        for name, (asked, reason) in _REFUSED_SIZES.items():
            if int(os.environ.get(name, "1")) > 1:
                yield f"{asked} of {os.environ[name]}", reason
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision not in ("no", "bf16"):
        yield f"mixed_precision: {precision}", "the loop does not have (the recipe's training.mixed_precision decides)"
    if parse_flag_from_env("ACCELERATE_USE_FSDP"):
        if os.environ.get("FSDP_VERSION", "1") != "2":
            yield (
                "FSDP1 (fsdp_version: 1)",
                "needs all parameters of a layer to be trained or none; set fsdp_version: 2",
            )
        if os.environ.get("FSDP_IGNORED_MODULES"):
            yield "fsdp_ignored_modules", "leaves the gradients of these modules apart on every process"
        if kind in (DistributedType.NO, DistributedType.MULTI_CPU):
            yield (
                "FSDP",
                f"shards over several GPUs alone: here ({kind.value}) each process would hold the whole model",
            )
    if kind == DistributedType.XLA:
        yield "XLA (distributed_type: TPU)", "compiles passes whole, and these choose chunks and blocks as they run"


def build_accelerator(loop: LoopRecipe, tracking: TrackingRecipe, logs: Path) -> Accelerator:
    """An accelerator for a run; how many processes there are is the launcher's choice.

    Args:
        loop, tracking: sections of the recipe.
        logs: folder for what trackers write.

    Raises:
        RecipeError: if the global batch cannot be spread over the processes, the mixed precision cannot be had, or the
            launcher asks for what the loop does not do.
    """
    state = process_state()
    check_parallelism(state.distributed_type)
    processes = state.num_processes
    if loop.global_batch_size % (loop.batch_size * processes):
        raise RecipeError(
            f"training.global_batch_size={loop.global_batch_size} is not a multiple of training.batch_size="
            f"{loop.batch_size} times {processes} processes"
        )
    if state.distributed_type != DistributedType.FSDP:
        # One program may make several runs, and accelerate keeps the first one's precision otherwise. That it shards
        # it finds out once only.
        AcceleratorState._reset_state()
    precision = _mixed_precision(loop, state.device)
    # How many passes an update has is the feed's to say, and the environment's settings must not scale it.
    accelerator = Accelerator(
        mixed_precision=precision,
        fsdp_plugin=fsdp_plugin(precision),
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1, sync_with_dataloader=False),
        log_with=list(tracking.trackers) or None,
        project_dir=str(logs),
    )
    plugin = accelerator.state.deepspeed_plugin
    if plugin is not None:
        if plugin.deepspeed_config.get("tensor_parallel", {}).get("autotp_size", 0) > 1:
            raise RecipeError(f"DeepSpeed was asked for tensor_parallel, which {_SPLIT_LAYERS}; leave it out")
        # DeepSpeed would read both off a DataLoader that it is never given.
        plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = loop.batch_size
        plugin.deepspeed_config["gradient_accumulation_steps"] = 1
    return accelerator


def fsdp_plugin(precision: str) -> FullyShardedDataParallelPlugin | None:
    """FSDP2 as the environment has it, but for accelerate's rounding of losses and summed gradients to bfloat16."""
    if not parse_flag_from_env("ACCELERATE_USE_FSDP"):
        return None
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if precision == "bf16" else None, reduce_dtype=torch.float32
    )
    return FullyShardedDataParallelPlugin(mixed_precision_policy=policy)


def _mixed_precision(loop: LoopRecipe, device: torch.device) -> str:
    """accelerate's name of the recipe's mixed precision."""
    on_gpu = device.type == "cuda"
    if loop.mixed_precision == "auto":
        return "bf16" if on_gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    if loop.mixed_precision == "bf16" and on_gpu and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise RecipeError("training.mixed_precision='bf16' needs a GPU that has bfloat16; use float32")
    return "bf16" if loop.mixed_precision == "bf16" else "no"
