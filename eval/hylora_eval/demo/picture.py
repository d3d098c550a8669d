# SPDX-License-Identifier: Apache-2.0
"""The demo's picture: perplexity by context size and recall by distance, with full and with own attention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hylora_eval.demo.settings import DemoSettings
from hylora_eval.demo.tables import perplexity_mean, recall_mean, summarize

__all__ = ["draw"]

# A palette that colour-blind readers can tell apart (Okabe and Ito); markers tell the same in print.
STYLES = {
    "none": ("#000000", "o", ":"),
    "full": ("#0072B2", "s", "-"),
    "sw": ("#E69F00", "^", "-"),
    "s2": ("#CC79A7", "v", "-"),
    "se": ("#D55E00", "D", "-"),
    "se_mean_key": ("#009E73", "P", "-"),
    "se_token": ("#56B4E9", "*", "-"),
    "se_random": ("#999999", "X", "--"),
}


def draw(results: list[dict[str, Any]], settings: DemoSettings, path: Path) -> bool:
    """Draw the picture.

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
    figure = Figure(figsize=(10.5, 7.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2, sharey="row")
    longest = settings.lengths[-1]
    for column, (way, title) in enumerate((("full", "with full attention"), ("own", "with its own attention"))):
        upper, lower = axes[0, column], axes[1, column]
        for variant, runs in summarize(results):
            color, marker, line = STYLES[variant.name]
            style = {"color": color, "marker": marker, "linestyle": line, "markersize": 5, "linewidth": 1.4}
            cells = [perplexity_mean(runs, way, length) for length in settings.lengths]
            _plot(upper, settings.lengths, cells, variant.label, style)
            cells = [recall_mean(runs, way, longest, upto) for upto in settings.distances]
            _plot(lower, settings.distances, cells, variant.label, style)
        upper.set(title=f"Perplexity of held-out text, {title}", xlabel="context size (tokens)")
        lower.set(
            title=f"Recall, {title}", xlabel=f"distance up to (tokens, in documents of {longest})", ylim=(-3, 103)
        )
        for panel, ticks in ((upper, settings.lengths), (lower, settings.distances)):
            panel.set_xscale("log", base=2)
            panel.set_xticks(ticks, [str(tick) for tick in ticks])
            panel.axvline(settings.tuned_length, color="0.8", linewidth=1, zorder=0)
            panel.grid(axis="y", color="0.92")
            panel.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("perplexity")
    axes[1, 0].set_ylabel("facts recalled (%)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, title="fine-tuned with")
    figure.savefig(path, dpi=130)
    return True


def _plot(panel, places, cells, label: str, style: dict[str, Any]) -> None:
    known = [(place, cell) for place, cell in zip(places, cells, strict=True) if cell is not None]
    places, means = [place for place, _ in known], [cell.mean for _, cell in known]
    panel.errorbar(places, means, [cell.spread or 0 for _, cell in known], label=label, capsize=2, **style)
