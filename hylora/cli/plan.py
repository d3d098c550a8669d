# SPDX-License-Identifier: Apache-2.0
"""`hylora plan`: what training will take, and whether it fits."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from hylora.training.tasks import TaskKind

__all__ = ["plan"]

_PRECISIONS = {"bf16": "bf16", "fp32": "float32"}


def plan(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RECIPE] [SECTION.KEY=VALUE]...",
            help="A YAML recipe, and settings that replace its own, as in `hylora train`.",
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="A hub id, a model folder or a config.json.")] = None,
    recipe: Annotated[str | None, typer.Option(help="The YAML recipe; options replace its settings.")] = None,
    gpus: Annotated[str, typer.Option(help="How many GPUs, and the memory or name of each, as in 8xH100.")] = "1x80GB",
    context: Annotated[int | None, typer.Option(help="Tokens per sequence (training.sequence_length).")] = None,
    attention: Annotated[
        str | None, typer.Option(help="'full', or one of 'se_attn', 'se_attn_recall', 'sw_attn', 's2_attn'.")
    ] = None,
    variant: Annotated[str | None, typer.Option(help="'lora', 'longlora', 'hylora' or 'none' to train all.")] = None,
    r: Annotated[int | None, typer.Option(help="Rank of LoRA; alpha is twice the rank.")] = None,
    micro_batch: Annotated[int | None, typer.Option(help="Sequences in a forward pass (training.batch_size).")] = None,
    precision: Annotated[str | None, typer.Option(help="'bf16' or 'fp32'.")] = None,
    gradient_checkpointing: Annotated[bool | None, typer.Option(help="Recompute activations.")] = None,
    offload: Annotated[bool | None, typer.Option(help="Keep what they are recomputed from on the host.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="'adamw', 'adamw_8bit' or 'sgd'.")] = None,
    sharding: Annotated[str, typer.Option(help="'none', 'fsdp', 'zero2' or 'zero3'.")] = "none",
    kernels: Annotated[str, typer.Option(help="'fused' (mamba-ssm is installed there) or 'torch'.")] = "fused",
    search: Annotated[bool, typer.Option(help="Look for the longest context that fits.")] = True,
    output: Annotated[Path | None, typer.Option("--json", help="Write the plan to this file as well.")] = None,
    budget: Annotated[
        float | None,
        typer.Option(help="Images: begin as small as it takes to keep to this share of the dense run's FLOPs."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Images and clips: draw the FLOPs of each epoch into this file.")
    ] = None,
) -> None:
    """Tell what training takes: parameters, memory, operations, whether it fits, and what to change if not.

    Nothing is downloaded but the model's config, and nothing of the model's size is allocated.
    """
    # Nobody waits for a recipe's imports who only reads the options.
    from hylora.files import check_target, write_atomically
    from hylora.language.recipe import LanguageRecipe
    from hylora.planning.hardware import Hardware
    from hylora.runs.whereabouts import check_exists
    from hylora.training.recipe_loading import parse_overrides, read_yaml
    from hylora.training.tasks import find_task

    overrides = overrides or []
    if recipe is None and overrides and ("=" not in overrides[0] or Path(overrides[0]).is_file()):
        recipe, *overrides = overrides
    if (model is None) == (recipe is None):
        raise ValueError(f"model={model!r} and recipe={recipe!r} must be one of the two; name a model or a recipe")
    if precision is not None and precision not in _PRECISIONS:
        raise ValueError(f"precision={precision!r} must be one of {', '.join(_PRECISIONS)}")
    if context is not None and context < 2:
        raise ValueError(f"context={context} must be at least 2 tokens")
    settings = {
        "training.sequence_length": context,
        "attention.name": attention,
        "adapter.variant": variant,
        "adapter.r": r,
        "adapter.lora_alpha": None if r is None else 2 * r,
        "training.batch_size": micro_batch,
        "training.mixed_precision": _PRECISIONS.get(precision),
        "training.gradient_checkpointing": gradient_checkpointing,
        "training.offload": offload,
        "optimizer.name": optimizer,
    }
    if recipe is not None:
        kind = find_task(parse_overrides(read_yaml(recipe), overrides))
        if kind.recipe is not LanguageRecipe:
            for name, value in settings.items():
                if value is not None:
                    raise ValueError(f"{name}={value!r} is for language models, which {recipe!r} does not train")
            _plan_other(kind, parse_overrides(read_yaml(recipe), overrides), budget, output, plot)
            return
    for name, value in (("budget", budget), ("plot", plot)):
        if value is not None:
            raise ValueError(f"{name}={str(value)!r} is for recipes of images; leave it out")
    if output is not None:
        check_target(output)
    hardware = Hardware.parse(gpus)
    tree = _bare_recipe(model, hardware.gpus, micro_batch or 1) if recipe is None else read_yaml(recipe)
    given = [f"{key}={json.dumps(value)}" for key, value in settings.items() if value is not None]
    planned = LanguageRecipe.from_tree(parse_overrides(tree, [*given, *overrides]))
    if not planned.model.from_scratch and not Path(planned.model.path).is_file():
        check_exists(planned.model.path)
    console = Console()
    with _telling("Making the model without weights"):
        # Nor for torch whose input is wrong.
        from hylora.planning import TrainingSetup, advise
        from hylora.planning.planner import Estimator
        from hylora.planning.report import print_parameters, print_step, print_verdict, to_dict

        estimator = Estimator(TrainingSetup(planned, hardware, sharding, kernels))
    print_parameters(estimator.parameters, console)
    with _telling(f"Trying a step of {planned.training.sequence_length:,} tokens"):
        found = estimator.plan()
    print_step(found, console)
    with _telling() as tell:
        found = replace(found, longest=estimator.search(found, tell) if search else None)
        advice = advise(found, tell) if search and not found.fits else []
    print_verdict(found, advice, console)
    if output is not None:
        write_atomically(output, json.dumps(to_dict(found, advice), indent=2) + "\n")


@contextmanager
def _telling(*steps: str) -> Iterator[Callable[[str], None]]:
    """Tells what is tried: in one line that changes on a terminal, and line by line elsewhere."""
    console = Console(stderr=True)
    with console.status("") if console.is_terminal else nullcontext() as status:
        tell = console.print if status is None else status.update
        for step in steps:
            tell(step)
        yield tell


def _plan_other(
    kind: TaskKind, tree: dict[str, Any], budget: float | None, output: Path | None, plot: Path | None
) -> None:
    """Plan a run of a task that other packages bring."""
    from hylora.files import write_atomically

    if kind.plan is None:
        raise ValueError(
            f"task={tree['task']!r} has no plan; plans are for language models, images and masked learners"
        )
    found = kind.plan(kind.recipe.from_tree(tree), budget)
    found.show(Console())
    if output is not None:
        write_atomically(output, json.dumps(found.to_dict(), indent=2) + "\n")
    if plot is not None:
        found.draw(plot)


def _bare_recipe(model: str | None, gpus: int, micro_batch: int) -> dict[str, Any]:
    """A recipe of defaults for a model; its data and output are never looked at."""
    return {
        "model": {"path": model},
        "data": {"sources": [{"path": "-"}]},
        # Two micro-batches at least, as in any run of the usual size: gradients wait while the second one is made.
        "training": {"global_batch_size": 2 * micro_batch * gpus},
        "output": {"path": "-"},
    }
