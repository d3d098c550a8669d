# SPDX-License-Identifier: Apache-2.0
"""A plan as tables, and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from hylora.planning.advice import Advice
from hylora.planning.compute import PHASES
from hylora.planning.hardware import GIB
from hylora.planning.planner import TrainingPlan

__all__ = ["print_plan", "to_dict"]

_RESIDENT = {
    "frozen weights": "",
    "trained weights": "in float32",
    "gradients": "in float32",
    "optimizer state": "",
    "optimizer's own": "while it updates the weights",
    "communication": "buckets, or weights that are gathered",
}
_PASSING = {
    "residual stream": "between layers",
    "norms": "",
    "attention": "projections, queries, keys, values, retrieved blocks",
    "recurrent layers": "projections, convolution, scan",
    "feed-forward": "",
    "loss": "slices of the head",
    "backward": "gradients of activations, workspace",
    "other": "token ids, and what is outside of all modules",
}
_COMPUTE = {
    "feed-forward": "feed-forward",
    "recurrent layers": "recurrent layers",
    "attention": "attention: projections",
    "attention method": "attention: {method}",
    "loss": "head, with its gradients",
    "backward": "gradients of the rest",
}


def to_dict(plan: TrainingPlan, advice: list[Advice]) -> dict[str, Any]:
    """A plan as plain JSON types: bytes, tokens and operations."""
    setup, compute = plan.setup, plan.compute
    recipe = setup.recipe.to_tree()
    return {
        "model": setup.recipe.model.path,
        "recipe": {name: recipe[name] for name in ("attention", "adapter", "optimizer", "training")},
        "hardware": {**asdict(setup.hardware), "usable": setup.hardware.usable},
        "sharding": setup.sharding,
        "kernels": setup.kernels,
        "parameters": {group: asdict(counts) for group, counts in plan.parameters.items()},
        "memory": {**asdict(plan.memory), "total": plan.memory.total},
        "logits": dict(zip(("slice", "whole"), plan.logits, strict=True)),
        "operations_per_token": {
            **compute.parts,
            "total": {phase: compute.of_phase(phase) for phase in PHASES},
            "full_attention_over_method": compute.full_over_method,
            "step_with_full_attention_over_step": compute.step_with_full_over_step,
        },
        "fits": plan.fits,
        "longest_context": plan.longest,
        "advice": [asdict(item) for item in advice],
    }


def print_plan(plan: TrainingPlan, advice: list[Advice], console: Console) -> None:
    """Show a plan: parameters, memory, operations, what fits, and what to change."""
    for table in (_parameters(plan), _memory(plan), _compute(plan)):
        console.print(table)
        console.print()
    for line in (*_assumptions(plan), *_verdict(plan)):
        console.print(line, highlight=False, markup=False)
    if advice:
        console.print(_advice(advice))


def _parameters(plan: TrainingPlan) -> Table:
    table = _table("Parameters", "group", "of the model", "trained", "share of the model")
    groups = plan.parameters.values()
    size, trained = sum(group.model for group in groups), sum(group.trained for group in groups)
    for name, group in plan.parameters.items():
        table.add_row(name, f"{group.model:,}", f"{group.trained:,}", f"{100 * group.trained / size:.3f} %")
    table.add_section()
    table.add_row("all", f"{size:,}", f"{trained:,}", f"{100 * trained / size:.3f} %")
    return table


def _memory(plan: TrainingPlan) -> Table:
    moment = f"Memory of each GPU, when it is most ({plan.memory.moment})"
    table = _table(moment, "part", "GiB", "its own most", "")
    table.columns[-1].justify = "left"
    for part, note in {**_RESIDENT, **_PASSING}.items():
        now = plan.memory.parts.get(part, 0)
        most = plan.memory.highest.get(part, 0) if part in _PASSING else 0
        if max(now, most):
            table.add_row(part, _gib(now), _gib(most) if most else "", note)
    table.add_section()
    table.add_row("all", _gib(plan.memory.total), "", "")
    hardware = plan.setup.hardware
    table.add_row("usable", _gib(hardware.usable), "", f"of {_gib(hardware.memory)}; the rest is a reserve")
    return table


def _compute(plan: TrainingPlan) -> Table:
    table = _table("Operations per token, in GFLOP", "part", "forward", "recomputed", "backward")
    method = plan.setup.recipe.attention.name
    rows = {part: label.format(method=method) for part, label in _COMPUTE.items()}
    for part, phases in plan.compute.parts.items():
        table.add_row(rows.get(part, part), *(_giga(phases.get(phase, 0.0)) for phase in PHASES))
    table.add_section()
    table.add_row("all", *(_giga(plan.compute.of_phase(phase)) for phase in PHASES))
    return table


def _assumptions(plan: TrainingPlan) -> list[str]:
    training, compute = plan.setup.recipe.training, plan.compute
    lines = [
        f"The head in slices of {training.loss_slice} positions makes {_gib(plan.logits[0])} GiB of logits at a time; "
        f"a loss over all of them at once would make {_gib(plan.logits[1])} GiB."
    ]
    if plan.setup.recipe.attention.name != "full":
        lines.append(
            f"Full attention would take {compute.full_over_method:.1f} times the operations of "
            f"{plan.setup.recipe.attention.name}, and a step with it {compute.step_with_full_over_step:.2f} times "
            "those of this one."
        )
    if plan.fused_layers:
        lines.append(
            f"{plan.fused_layers} layers are planned with mamba-ssm's fused kernel, which must be installed where the "
            "run is made; --kernels torch plans without it."
        )
    return lines


def _verdict(plan: TrainingPlan) -> list[str]:
    setup = plan.setup
    tokens = setup.recipe.training.sequence_length
    free = setup.hardware.usable - plan.memory.total
    answer = (
        f"It fits on {setup.hardware}: {_gib(free)} GiB of each GPU stay free."
        if plan.fits
        else f"It does not fit on {setup.hardware}: {_gib(-free)} GiB are missing on each GPU."
    )
    if plan.longest >= plan.longest_tried:
        longest = f"So does a context of {plan.longest:,} tokens, the longest one tried."
    elif plan.longest:
        longest = f"The longest context that fits is about {plan.longest:,} tokens."
    else:
        longest = "No context fits: the weights and what belongs to them are too large."
    return [f"A context of {tokens:,} tokens, {setup.recipe.training.batch_size} at a time:", answer, longest]


def _advice(advice: list[Advice]) -> Table:
    table = _table("What to change", "setting", "saves GiB", "then it fits")
    for item in advice:
        table.add_row(item.change, _gib(item.saves), "yes" if item.fits else "no")
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    return table


def _gib(size: float) -> str:
    return _number(size / GIB)


def _giga(operations: float) -> str:
    return _number(operations / 1e9) if operations else ""


def _number(value: float) -> str:
    """Three digits that count, and no exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.{1 if value >= 10 else 2 if value >= 1 else 3}f}"
