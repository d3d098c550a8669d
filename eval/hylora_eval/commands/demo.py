# SPDX-License-Identifier: Apache-2.0
"""`hylora demo`: the whole story in miniature, on a CPU and without network."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from hylora.environment import environment
from hylora.files import write_atomically

__all__ = ["demo"]


def demo(
    output: Annotated[Path, typer.Option(help="Folder for runs, tables and picture.")] = Path("outputs/demo"),
    quick: Annotated[
        bool, typer.Option("--quick", help="A minute that runs every part; figures mean nothing.")
    ] = False,
    seeds: Annotated[int | None, typer.Option(min=1, help="Fine-tuning runs of each variant.")] = None,
) -> None:
    """Stretch a small hybrid to four times its context under several kinds of attention, and compare them."""
    # Here, so that options are listed and refused without the seconds that these take to import.
    from hylora_eval.demo.picture import draw
    from hylora_eval.demo.run import run_demo
    from hylora_eval.demo.settings import DemoSettings
    from hylora_eval.demo.tables import markdown, show

    console = Console()
    settings = DemoSettings.quick() if quick else DemoSettings()
    if seeds is not None:
        settings = dataclasses.replace(settings, seeds=seeds)
    started = time.perf_counter()
    results = run_demo(output, settings, console)
    picture = output / "demo.png"
    drawn = draw(results, settings, picture)
    figures = {"environment": environment(), "settings": settings.to_dict(), "results": results}
    write_atomically(output / "demo.json", json.dumps(figures, indent=1))
    report = output / "demo.md"
    write_atomically(report, markdown(results, settings, picture.name if drawn else None))
    show(results, settings, console)
    console.print(
        f"{time.perf_counter() - started:.0f} s. Report: {report}; figures: {output / 'demo.json'}", soft_wrap=True
    )
    if drawn:
        console.print(f"Picture: {picture}", soft_wrap=True)
    else:
        console.print("No picture: matplotlib is not installed (pip install 'hylora[demo]')", markup=False)
