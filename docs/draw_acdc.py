# SPDX-License-Identifier: Apache-2.0
"""Draw docs/images/acdc.png, the phases of sparse training and what they take, and print the table of schedules.

Run from the repository's root: `python docs/draw_acdc.py [PICTURE]`. Operations are those of ResNet-50 on ImageNet at
90 %, whose pass forward takes 0.18 of the dense one's (table 3.1 of the thesis on sparse networks); dense phases are
counted as if no weight were zero.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt

from vision_extras.sparse import SparseRecipe
from vision_extras.sparse.operations import phase_operations
from vision_extras.sparse.phases import Phase, plan_phases

EPOCHS, LEVEL, FORWARD = 100, 0.9, 0.18
RUNS = {
    "AC/DC": ({"schedule": "alternating"}, "#33658a"),
    "AC/DC, dense phases of 2": ({"schedule": "alternating", "dense": 2, "last_dense": 2}, "#f26419"),
    "gradual": ({"schedule": "gradual", "warmup": 30}, "#2f9e44"),
}


def forward(phase: Phase) -> float:
    """Operations of a pass forward over the dense one's, taken to fall with the weights as those at 90 % do."""
    return 1 - phase.level * (1 - FORWARD) / LEVEL


def course(phases: tuple[Phase, ...], value) -> list[float]:
    """A value of each phase, by epoch, with the end."""
    found = [value(phase) for phase in phases for _ in range(phase.epochs)]
    return [*found, found[-1]]


def main(path: Path) -> None:
    """Draw sparsity and operations by epoch, and print what each schedule comes to."""
    figure, axes = plt.subplots(2, len(RUNS), figsize=(11, 3.6), sharex=True, sharey="row", layout="constrained")
    print("| schedule | dense epochs | sparse epochs | operations over a dense run's |\n|---|---:|---:|---:|")
    for (name, (options, color)), (sparsity, taken) in zip(RUNS.items(), axes.T, strict=True):
        phases = plan_phases(SparseRecipe(sparsity=LEVEL, **options), EPOCHS)
        operations = course(phases, lambda phase: phase_operations(phase.is_dense, forward(phase), 1.0) / 3)
        sparsity.step(range(EPOCHS + 1), course(phases, lambda phase: phase.level), where="post", color=color)
        sparsity.set_title(f"{name}: {sum(operations[:-1]) / EPOCHS:.2f} of a dense run's operations", fontsize=9)
        taken.fill_between(range(EPOCHS + 1), operations, step="post", color=color, alpha=0.6, linewidth=0)
        taken.set_xlabel("epoch", fontsize=8)
        dense = sum(phase.epochs for phase in phases if phase.is_dense)
        print(f"| {name} | {dense} | {EPOCHS - dense} | {sum(operations[:-1]) / EPOCHS:.3f} |")
    axes[0, 0].set_ylabel("share of weights gone", fontsize=8)
    axes[1, 0].set_ylabel("operations of an epoch\nover a dense one's", fontsize=8)
    for axis in axes.flat:
        axis.set_ylim(0, 1.05)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "images/acdc.png")
