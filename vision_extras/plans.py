# SPDX-License-Identifier: Apache-2.0
"""What a run takes before it starts, by epochs, whatever it is trained on: shown, drawn and as plain values."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Console
from rich.table import Table

__all__ = ["PlannedRun"]

_ROWS = 12


@dataclass(frozen=True)
class PlannedRun:
    """What a run takes.

    Attributes:
        rows_are: what an epoch goes over, in a word.
        reference: the plain run that its operations are related to, in few words.
        name: of what is trained.

    Args:
        recipe: of the run.
        rows: in an epoch.
        parameters: of the full network; of both ends of a line.
        dense: operations of an epoch of the reference.
        epochs: what each of them takes, with `epoch`, `updates` and `flops` at least.
    """

    rows_are: ClassVar[str]
    reference: ClassVar[str]
    name: ClassVar[str]

    recipe: Any
    rows: int
    parameters: int
    dense: int
    epochs: tuple[Any, ...]

    @property
    def flops(self) -> int:
        """Operations of the run."""
        return sum(epoch.flops for epoch in self.epochs)

    @property
    def share(self) -> float:
        """Operations over those of as many epochs of the reference."""
        return self.flops / (self.dense * len(self.epochs))

    @property
    def updates(self) -> int:
        """Updates of the weights."""
        return sum(epoch.updates for epoch in self.epochs)

    def totals(self) -> dict[str, str]:
        """What else is shown of the run."""
        return {}

    def cells(self, epoch: Any) -> dict[str, str]:
        """What is shown of an epoch besides its operations, by column."""
        raise NotImplementedError

    def curves(self) -> dict[str, tuple[str, Sequence[float]]]:
        """What the operations come from: the line's style, and a number for each epoch."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain JSON values."""
        return {
            "recipe": self.recipe.to_tree(),
            "parameters": self.parameters,
            "updates": self.updates,
            self.rows_are: self.rows * len(self.epochs),
            "flops": self.flops,
            "dense_flops": self.dense * len(self.epochs),
            "flops_over_dense": self.share,
            "epochs": [dataclasses.asdict(epoch) for epoch in self.epochs],
        }

    def show(self, console: Console) -> None:
        """Print totals, and what about a dozen of the epochs take."""
        count = len(self.epochs)
        totals = Table(title=f"{self.name}, {count} epochs", show_header=False)
        for name, value in {
            "parameters": f"{self.parameters:,}",
            self.rows_are: f"{self.rows * count:,}",
            "updates": f"{self.updates:,}",
            "FLOPs": f"{self.flops:.3g}",
            f"over {self.reference}": f"{self.share:.3f}",
            **self.totals(),
        }.items():
            totals.add_row(name, value)
        lines = []
        for number in sorted({round(row * (count - 1) / (_ROWS - 1)) for row in range(_ROWS)}):
            epoch = self.epochs[number]
            costs = {"FLOPs": f"{epoch.flops:.2e}", "share": f"{epoch.flops / self.dense:.3f}"}
            lines.append({"epoch": str(epoch.epoch), **self.cells(epoch), **costs})
        table = Table(title="epochs", caption=f"share: of the FLOPs of an epoch of {self.reference}")
        for name in lines[0]:
            table.add_column(name, justify="right", no_wrap=True)
        for line in lines:
            table.add_row(*line.values())
        console.print(totals)
        console.print(table)

    def draw(self, path: Path) -> None:
        """Draw the operations of each epoch, and what they come from.

        Raises:
            ValueError: if matplotlib is missing, or the file's ending is none of a picture.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ValueError("plot needs matplotlib, which is not installed; pip install 'hylora[demo]'") from error
        figure = Figure(figsize=(7.5, 3.6), layout="constrained")
        axis = figure.subplots()
        epochs, flops = range(len(self.epochs)), [epoch.flops / self.dense for epoch in self.epochs]
        axis.fill_between(epochs, flops, alpha=0.3, step="mid")
        axis.plot(epochs, flops, drawstyle="steps-mid", label="FLOPs")
        for name, (style, values) in self.curves().items():
            axis.plot(epochs, values, style, label=name)
        axis.axhline(1, color="#bbbbbb", linewidth=0.8, zorder=0)
        axis.set(xlabel="epoch", ylabel=f"over {self.reference}, and factors", ylim=(0, None))
        axis.set_title(f"{self.share:.2f} of the FLOPs of {self.reference}")
        axis.legend()
        figure.savefig(path)
