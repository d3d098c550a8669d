# SPDX-License-Identifier: Apache-2.0
"""Draw docs/images/growth.png, compound scaling of ResNet-50 (figure 4.6), and print the table of budgets.

Run from the repository's root: `python docs/draw_growth.py`.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt

from vision_extras.planning import ImageSet, RunPlan, compound, plan_run
from vision_extras.recipe import ImageRecipe

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes/vision/growth/imagenet.yaml"
IMAGENET = ImageSet(images=1_281_167, channels=3, classes=1000)
BUDGETS = (0.8, 0.6, 0.4, 0.35, 0.3, 0.25, 0.22)


def plan(resolution: float, width: float, depth: float) -> RunPlan:
    """What the recipe takes from these start factors."""
    starts = [f"sampler.start={resolution}", f"growth.width={width}", f"growth.depth={depth}"]
    return plan_run(ImageRecipe.load(RECIPE, starts), IMAGENET)


def budgets() -> list[str]:
    """Rows of a table: a budget, the start factors that keep to it, and what the run takes."""
    recipe = ImageRecipe.load(RECIPE)
    rows = ["| budget | r₀ | w₀ | d₀ | FLOPs | updates |", "|---:|---:|---:|---:|---:|---:|"]
    for budget in BUDGETS:
        found = compound(recipe, budget, IMAGENET)
        starts = " | ".join(f"{factor:.2f}" for factor in found.start.values())
        rows.append(f"| {budget:.2f} | {starts} | {found.share:.3f} | {found.updates:,} |")
    return rows


def main() -> None:
    """Draw the schedules and what they come to, and print the table."""
    figure, (model, resolution, flops) = plt.subplots(1, 3, figsize=(11, 3.3), layout="constrained")
    runs = {
        "width": (plan(1, 0.25, 1), "#33658a", "-"),
        "depth": (plan(1, 1, 0.25), "#f26419", "-"),
        "resolution": (plan(0.25, 1, 1), "#2f9e44", "-"),
        "all three": (plan(0.25, 0.25, 0.25), "#222222", "-"),
    }
    for name in ("width", "depth", "all three"):
        run, color, style = runs[name]
        label = "both" if name == "all three" else name
        model.plot([epoch.parameters / run.parameters for epoch in run.epochs], style, color=color, label=label)
    model.set_title("parameters over those of the full network", fontsize=9)
    epochs = runs["all three"][0].epochs
    for name in ("largest", "smallest"):
        sides = [getattr(epoch, name)[0] for epoch in epochs]
        resolution.plot(sides, color="#2f9e44", label=name, linestyle="-" if name == "largest" else "--")
    resolution.set_title("height and width of images, pixels", fontsize=9)
    for name, (run, color, style) in runs.items():
        shares = [epoch.flops / run.dense for epoch in run.epochs]
        flops.plot(shares, style, color=color, label=f"{name}: {run.share:.2f} in all")
    flops.set_title("FLOPs of an epoch over those of SSc-FBS", fontsize=9)
    for axis in (model, resolution, flops):
        axis.set_xlabel("epoch")
        axis.set_ylim(0, None)
        axis.legend(fontsize=8)
    figure.savefig(ROOT / "docs/images/growth.png", dpi=90)
    print("\n".join(budgets()))


if __name__ == "__main__":
    main()
