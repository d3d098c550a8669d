# SPDX-License-Identifier: Apache-2.0
"""A plan as tables, and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from hylora.planning.advice import Advice
from hylora.planning.compute import PHASES
from hylora.planning.context import GRID
from hylora.planning.hardware import GIB
from hylora.planning.parameters import GroupParameters
from hylora.planning.planner import TrainingPlan

__all__ = ["print_parameters", "print_step", "print_verdict", "to_dict"]

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
# How many times the operations: contexts are told from which on full attention makes a step so much dearer.
_SAVINGS = (1.5, 2)
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
        "memory": {**asdict(plan.memory), "total": plan.memory.total, "pinned": plan.memory.pinned},
        "logits": dict(zip(("slice", "whole"), plan.logits, strict=True)),
        "operations_per_token": {
            **compute.parts,
            "total": {phase: compute.of_phase(phase) for phase in PHASES},
            "full_attention_over_method": compute.full_over_method,
            "step_with_full_attention_over_step": compute.step_with_full_over_step,
        },
        "full_attention": {
            "compared_with": compute.attention.name,
            "share_of_step": compute.attention.share(compute.length),
            "context_of_saving": {str(saving): compute.attention.context_of(saving) for saving in _SAVINGS},
        },
        "fits": plan.fits,
        "longest_context": plan.longest,
        "advice": [asdict(item) for item in advice],
    }


def print_parameters(parameters: dict[str, GroupParameters], console: Console) -> None:
    """Show parameters by group, which are known before anything is tried."""
    table = _table("Parameters", "group", "of the model", "trained", "share of the model")
    groups = parameters.values()
    size, trained = sum(group.model for group in groups), sum(group.trained for group in groups)
    for name, group in parameters.items():
        table.add_row(name, f"{group.model:,}", f"{group.trained:,}", f"{100 * group.trained / size:.3f} %")
    table.add_section()
    table.add_row("all", f"{size:,}", f"{trained:,}", f"{100 * trained / size:.3f} %")
    console.print(table)
    console.print()


def print_step(plan: TrainingPlan, console: Console) -> None:
    """Show what a step takes, whether that fits, and where sparse attention pays."""
    for table in (_memory(plan), _compute(plan)):
        console.print(table)
        console.print()
    _print_lines(console, *_assumptions(plan), *_worth(plan), *_fit(plan))


def print_verdict(plan: TrainingPlan, advice: list[Advice], console: Console) -> None:
    """Show how long a context fits, and what to change."""
    if plan.longest is not None:
        _print_lines(console, _longest(plan))
    if advice:
        console.print(_advice(advice))


def _print_lines(console: Console, *lines: str) -> None:
    for line in lines:
        console.print(line, highlight=False, markup=False)


def _memory(plan: TrainingPlan) -> Table:
    moment = f"Memory of each GPU, when it is most ({plan.memory.moment})"
    unit, name = _memory_unit(plan.memory.total)
    table = _table(moment, "part", name, "its own most", "")
    table.columns[-1].justify = "left"
    for part, note in {**_RESIDENT, **_PASSING}.items():
        now = plan.memory.parts.get(part, 0)
        most = plan.memory.highest.get(part, 0) if part in _PASSING else 0
        if max(now, most):
            table.add_row(part, _number(now / unit), _number(most / unit) if most else "", note)
    table.add_section()
    table.add_row("all", _number(plan.memory.total / unit), "", "")
    usable, memory = (_number(size / unit) for size in (plan.setup.hardware.usable, plan.setup.hardware.memory))
    table.add_row("usable", usable, "", f"of {memory}; the rest is a reserve")
    return table


def _compute(plan: TrainingPlan) -> Table:
    unit, name = (1e9, "GFLOP") if plan.compute.step >= 1e9 else (1e6, "MFLOP")
    table = _table(f"Operations per token, in {name}", "part", "forward", "recomputed", "backward")
    method = plan.setup.recipe.attention.name
    rows = {part: label.format(method=method) for part, label in _COMPUTE.items()}
    for part, phases in plan.compute.parts.items():
        table.add_row(rows.get(part, part), *_operations(map(phases.get, PHASES), unit))
    table.add_section()
    table.add_row("all", *_operations(map(plan.compute.of_phase, PHASES), unit))
    return table


def _assumptions(plan: TrainingPlan) -> list[str]:
    training, offloaded = plan.setup.recipe.training, plan.memory.offloaded
    lines = [
        f"The head in slices of {training.loss_slice} positions makes {_size(plan.logits[0])} of logits at a time; "
        f"a loss over all of them at once would make {_size(plan.logits[1])}."
    ]
    if offloaded:
        gpus = plan.setup.hardware.gpus
        lines.append(
            f"{len(offloaded)} inputs of layers, {_size(sum(offloaded))}, wait on the host for the backward pass. "
            f"{_size(plan.memory.pinned)} of its memory are pinned for that, which torch does in powers of two"
            + (f", and as much for each of the {gpus} GPUs." if gpus > 1 else ".")
        )
    if windows := plan.compute.attention.windows:
        layers = len(windows) + len(plan.compute.attention.widths)
        lines.append(
            f"{len(windows)} of {layers} attention layers have a sliding window of their own, which they keep under "
            "any attention."
        )
    if plan.fused_layers:
        lines.append(
            f"{plan.fused_layers} layers are planned with mamba-ssm's fused kernel, which must be installed where the "
            "run is made; --kernels torch plans without it."
        )
    return lines


def _worth(plan: TrainingPlan) -> list[str]:
    """Where the sparse method pays for this model, and where it does not."""
    cost, tokens = plan.compute.attention, plan.compute.length
    if not cost.widths:
        return []
    saving = cost.saving(tokens)
    verdict = "hardly pays" if saving < 1.1 else "pays a little" if saving < 1.5 else "pays"
    once, twice = map(_about, map(cost.context_of, _SAVINGS))
    return [
        f"At {tokens:,} tokens full attention takes {100 * cost.share(tokens):.0f} % of a step's operations, and such "
        f"a step {saving:.2f} times those of one with {cost.name}, which {verdict} here. It takes {_SAVINGS[0]} times "
        f"as many {once}, and {_SAVINGS[1]} times {twice}. The memory of both is about the same."
    ]


def _about(tokens: int | None) -> str:
    """From which context on, to two digits."""
    return "at no context" if tokens is None else f"from about {float(f'{tokens:.2g}'):,.0f} tokens on"


def _fit(plan: TrainingPlan) -> list[str]:
    setup = plan.setup
    tokens = setup.recipe.training.sequence_length
    free = setup.hardware.usable - plan.memory.total
    answer = (
        f"It fits on {setup.hardware}: {_size(free)} of each GPU stay free."
        if plan.fits
        else f"It does not fit on {setup.hardware}: {_size(-free)} are missing on each GPU."
    )
    return [f"A context of {tokens:,} tokens, {setup.recipe.training.batch_size} at a time:", answer]


def _longest(plan: TrainingPlan) -> str:
    if plan.longest >= plan.longest_tried:
        return f"So does a context of {plan.longest:,} tokens, the longest one tried."
    if plan.longest:
        return f"The longest context that fits is about {plan.longest:,} tokens."
    return f"No context of {GRID:,} tokens or more fits."


def _advice(advice: list[Advice]) -> Table:
    table = _table("What to change", "setting", "saves", "then it fits")
    for item in advice:
        table.add_row(item.change, _size(item.saves), "yes" if item.fits else "no")
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    return table


def _operations(numbers: Iterable[float | None], unit: float) -> Iterator[str]:
    return (_number(number / unit) if number else "" for number in numbers)


def _size(size: int) -> str:
    unit, name = _memory_unit(size)
    return f"{_number(size / unit)} {name}"


def _memory_unit(size: int) -> tuple[int, str]:
    return (GIB, "GiB") if size >= GIB else (GIB // 1024, "MiB")


def _number(value: float) -> str:
    """Three digits that count, and no exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.{1 if value >= 10 else 2 if value >= 1 else 3}f}"
