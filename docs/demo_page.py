# SPDX-License-Identifier: Apache-2.0
"""Take a demo's figures into the documentation: `python docs/demo_page.py [FOLDER]`, by default `outputs/demo`.

Copies the picture and the figures, and writes the tables between the two markers of the guide. The words around them
are written by hand: read them again.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from hylora_eval.demo.settings import DemoSettings
from hylora_eval.demo.tables import grid_markdown, grids

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/guides/demo.md"
FIGURES = ROOT / "docs/benchmarks/demo_cpu.json"
MARKERS = "<!-- tables: python docs/demo_page.py -->", "<!-- end of tables -->"


def main(folder: Path) -> None:
    """Copy, and write the tables."""
    shutil.copy(folder / "demo.json", FIGURES)
    shutil.copy(folder / "demo.png", ROOT / "docs/images/demo.png")
    figures = json.loads(FIGURES.read_text(encoding="utf-8"))
    tables = grids(figures["results"], DemoSettings(**figures["settings"]))
    text = PAGE.read_text(encoding="utf-8")
    before, after = text.split(MARKERS[0])[0], text.split(MARKERS[1])[1]
    body = "\n\n".join(grid_markdown(grid, "###") for grid in tables)
    PAGE.write_text(f"{before}{MARKERS[0]}\n\n{body}\n\n{MARKERS[1]}{after}", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "outputs/demo"))
