# SPDX-License-Identifier: Apache-2.0
"""The demo's picture: what each model recalls with its own attention, dense and sparse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hylora_eval.demo.settings import CHUNK, DemoSettings, Variant
from hylora_eval.demo.tables import far_recall_mean, summarize

__all__ = ["draw"]

# Colours that colour-blind readers can tell apart (Okabe and Ito).
OWN, CONTROL, REFERENCE = "#0072B2", "#999999", "#D55E00"


def draw(results: list[dict[str, Any]], settings: DemoSettings, path: Path) -> bool:
    """Draw the picture: a panel for each task, a bar for each model.

    Args:
        results: of all models.
        settings: of the demo.
        path: of the PNG file.

    Returns:
        False, with nothing drawn, where matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    titles = {
        f"dense {settings.tuned_length}": "Dense: rows of facts",
        f"sparse {settings.tuned_length}": "Sparse: facts in text",
        f"end {settings.tuned_length}": "Sparse, asked at the end",
    }
    models = [(variant, runs) for variant, runs in summarize(results) if runs and variant.name != "none"]
    figure = Figure(figsize=(10.5, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(titles), sharey=True)
    for panel, (task, title) in zip(panels, titles.items(), strict=True):
        for place, (variant, runs) in enumerate(models):
            _bar(panel, place, variant, runs, task)
        full = far_recall_mean(models[0][1], "own", task)
        panel.axvline(full.mean, color=OWN, linewidth=1, linestyle=":", zorder=0)
        panel.set(title=title, xlim=(0, 112), xlabel="facts recalled (%)")
        panel.set_yticks(range(len(models)), [variant.label for variant, _ in models])
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].invert_yaxis()
    figure.suptitle(
        f"Recall from {CHUNK} tokens back or more, in documents of {settings.tuned_length} tokens", fontsize=12
    )
    handles, labels = panels[0].get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(unique.values(), unique, loc="outside lower center", ncols=len(unique), frameon=False)
    figure.savefig(path, dpi=130)
    return True


def _bar(panel, place: int, variant: Variant, runs: list[dict[str, Any]], task: str) -> None:
    own, full = far_recall_mean(runs, "own", task), far_recall_mean(runs, "full", task)
    control = variant.name == "random"
    label = "its own attention (the control: random blocks)" if control else "its own attention"
    panel.barh(place, own.mean, xerr=own.spread, color=CONTROL if control else OWN, height=0.65, label=label)
    panel.text(own.mean + (own.spread or 0) + 1.5, place, f"{own.mean:.0f}", va="center", fontsize=9)
    if variant.attention == "full":
        return
    style = {"marker": "D", "markersize": 5, "color": REFERENCE, "linestyle": "none", "fillstyle": "none"}
    panel.plot(full.mean, place, label="the same model with full attention", **style)
