# SPDX-License-Identifier: Apache-2.0
"""Draw docs/images/multiscale.png, and print what the samplers take in the settings of chapter 4.

Run from the repository's root: `python docs/draw_multiscale.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import matplotlib.pyplot as plt

from vision_extras.curricula import Plan, SamplerRecipe
from vision_extras.curricula.scales import EXPANSIONS

EPOCHS = 600

# By model: B and side of the reference batch, those under MSc-VBSWC, and the smallest and largest side (table 4.8).
SETTINGS = {
    "ResNet-101": ((256, 224), (512, 160), (128, 320)),
    "EfficientNet-B3": ((256, 300), (256, 300), (160, 448)),
    "ViT-B": ((256, 224), (256, 224), (128, 320)),
    "Mask R-CNN": ((4, 1024), (4, 1024), (512, 1280)),
}

# Updates and training FLOPs in tables 4.1, 4.2, 4.4, 4.5 and 4.7; None where there are none.
THESIS = {
    ("ResNet-101", "MSc-FBS"): (1.00, 1.15),
    ("ResNet-101", "MSc-VBS"): (0.77, 0.77),
    ("ResNet-101", "MSc-VBSWC"): (0.66, 0.70),
    ("ResNet-101", "MSc-VBSWC, linear"): (0.66, 0.70),
    ("ResNet-101", "MSc-VBSWC, polynomial"): (0.63, 0.67),
    ("ResNet-101", "MSc-VBSWC, multi_step"): (0.64, 0.67),
    ("EfficientNet-B3", "MSc-VBS"): (0.75, 0.66),
    ("EfficientNet-B3", "MSc-VBSWC"): (0.65, 0.58),
    ("ViT-B", "MSc-VBS"): (0.76, 0.76),
    ("ViT-B", "MSc-VBSWC"): (0.67, 0.67),
    ("Mask R-CNN", "MSc-VBS"): (0.63, 0.70),
    ("Mask R-CNN", "MSc-VBSWC"): (0.54, 0.63),
}


def samplers(model: str) -> dict[str, tuple[SamplerRecipe, int]]:
    """The samplers of a model by name, each with the images of its reference batch."""
    (images, side), (images_wc, side_wc), (smallest, largest) = SETTINGS[model]
    pool = {"smallest": smallest, "largest": largest}
    curricula = {"MSc-VBSWC": "cosine"} | {f"MSc-VBSWC, {name}": name for name in EXPANSIONS if name != "cosine"}
    return {
        "SSc-FBS": (SamplerRecipe(side=side), images),
        "MSc-FBS": (SamplerRecipe(name="msc_fbs", side=side, **pool), images),
        "MSc-VBS": (SamplerRecipe(name="msc_vbs", side=side, **pool), images),
    } | {
        name: (SamplerRecipe(name="msc_vbswc", side=side_wc, expansion=expansion, **pool), images_wc)
        for name, expansion in curricula.items()
    }


def expected(recipe: SamplerRecipe, images: int) -> tuple[float, float]:
    """Updates and pixels that an image of the data set takes in a run, where an epoch has many updates."""
    updates = pixels = Fraction(0)
    for epoch in range(EPOCHS):
        rows = {shape: recipe.batch_size(shape, images) for shape in recipe.pool(epoch, EPOCHS)}
        seen = sum(rows.values())
        updates += Fraction(len(rows), seen)
        pixels += Fraction(sum(count * math.prod(shape) for shape, count in rows.items()), seen)
    return float(updates), float(pixels)


def table() -> Iterator[str]:
    """Lines of Markdown: what each sampler takes, as a ratio to SSc-FBS, beside the thesis's."""
    yield "| | | updates | pixels | thesis: updates | thesis: FLOPs |"
    yield "|---|---|---|---|---|---|"
    for model in SETTINGS:
        plain = expected(*samplers(model)["SSc-FBS"])
        for name, (recipe, images) in samplers(model).items():
            if (model, name) in THESIS:
                ratios = [found / base for found, base in zip(expected(recipe, images), plain, strict=True)]
                cells = [f"{value:.2f}" for value in (*ratios, *THESIS[model, name])]
                yield f"| {model} | {name} | {' | '.join(cells)} |"


def main() -> None:
    """Draw rho, and each sampler's updates in ResNet-101's setting, and print the table."""
    figure = plt.figure(figsize=(11, 4.2))
    grid = figure.add_gridspec(2, 5, width_ratios=(1.5, 1, 1, 1, 1))
    rho = figure.add_subplot(grid[:, 0])
    for name, color in zip(EXPANSIONS, ("#33658a", "#f26419", "#2f9e44", "#7048a8"), strict=True):
        recipe = SamplerRecipe(name="msc_vbswc", smallest=128, largest=320, expansion=name)
        factors = [recipe.factor(epoch, EPOCHS) for epoch in range(EPOCHS)]
        rho.plot(factors, label=name, color=color, drawstyle="steps-post")
    rho.set(xlabel="epoch", ylabel="ρ(e)", title="expansion")
    rho.legend(fontsize=8)
    shared: tuple = (None, None)
    for column, name in enumerate(("SSc-FBS", "MSc-FBS", "MSc-VBS", "MSc-VBSWC"), start=1):
        recipe, images = samplers("ResNet-101")[name]
        plan = Plan(recipe, 3000, EPOCHS, images, images, seed=0)
        # Not the last update of an epoch, which has what is left.
        last = {plan.first_step(epoch) - 1 for epoch in range(1, EPOCHS + 1)}
        steps = [step for step in range(plan.steps) if step not in last]
        batches = [plan.batches(step)[0] for step in steps]
        epochs = [plan.epoch(step) for step in steps]
        axes = tuple(figure.add_subplot(grid[row, column], sharey=shared[row]) for row in (0, 1))
        shared = tuple(first or axis for first, axis in zip(shared, axes, strict=True))
        axes[0].plot(epochs, [height for _, (height, _) in batches], ".", markersize=1, color="#33658a")
        axes[1].plot(epochs, [rows for rows, _ in batches], ".", markersize=1, color="#f26419")
        axes[0].set_title(name)
        axes[0].tick_params(labelbottom=False)
        axes[1].set_yscale("log", base=2)
        axes[1].yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes[1].set_xlabel("epoch")
        for axis, label in zip(axes, ("side in pixels", "images in a batch"), strict=True):
            axis.tick_params(labelleft=column == 1)
            axis.set_ylabel(label if column == 1 else "")
    figure.tight_layout()
    figure.savefig(Path(__file__).parent / "images/multiscale.png", dpi=110)
    print("\n".join(table()))


if __name__ == "__main__":
    main()
