# SPDX-License-Identifier: Apache-2.0
"""Draw docs/images/report.png from docs/benchmarks/report, and docs/images/needles.png from invented results.

The pictures are of pages in a headless Chromium. Run from the repository's root: `python docs/draw_report.py`.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import tempfile
from pathlib import Path
from statistics import fmean

from hylora_eval.report.collect import collect
from hylora_eval.report.write import write_report
from hylora_eval.ruler.tasks import GROUPS

IMAGES = Path("docs/images")
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")

LENGTHS = (1024, 2048, 4096, 8192, 16384)
SAMPLES = 100

# One reader sees the first 128 and the last 2048 tokens; the other sees everything, and overlooks more in the middle.
READERS = {
    "window": lambda depth, length, luck: depth * length < 128 or (1 - depth) * length < 2048,
    "full": lambda depth, length, luck: luck > 0.03 * (length / 1024) * (1 - abs(2 * depth - 1)),
}


def needles(reader: str, task: str, needles: int) -> list[dict]:
    """Rows of RULER as a reader would have them; both get the same samples."""
    rows = []
    for length in LENGTHS:
        rng = random.Random(f"{task} {length}")
        # As RULER's, at forty depths.
        depths = [[rng.randrange(40) / 39 for _ in range(needles)] for _ in range(SAMPLES)]
        scores = [100 * fmean(READERS[reader](depth, length, rng.random()) for depth in own) for own in depths]
        rows.append(
            {
                "task": task,
                "length": length,
                "score": fmean(scores),
                "standard_error": None,
                "samples": SAMPLES,
                "prompts_sha256": f"{task} {length}",
                "scores": scores,
                "depths": [[round(100 * depth, 1) for depth in own] for own in depths],
            }
        )
    return rows


def invented(folder: Path) -> None:
    """Write a result for each reader."""
    for reader in READERS:
        tasks = dict.fromkeys(GROUPS["NIAH-S"], 1) | dict.fromkeys(GROUPS["NIAH-M-QV"], 4)
        record = {
            "kind": "ruler",
            "model": {"path": reader, "training_attention": "sdpa"},
            "attention": {"name": "sdpa" if reader == "full" else "sw_attn"},
            "settings": {"mode": "exact", "seed": 42, "samples": SAMPLES},
            "results": [row for task, count in tasks.items() for row in needles(reader, task, count)],
        }
        (folder / f"{reader}.json").write_text(json.dumps(record))


def picture(results: Path, name: str, title: str, size: tuple[int, int], style: str = "") -> None:
    """Show a report of results in a browser, and take its picture."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise SystemExit(f"none of {', '.join(BROWSERS)} is installed")
    with tempfile.TemporaryDirectory() as folder:
        write_report(Path(folder, "report"), collect([results]), title)
        page = Path(folder, "report/report.html")
        page.write_text(page.read_text(encoding="utf-8").replace("</head>", f"<style>{style}</style></head>"))
        options = ["--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size={size[0]},{size[1]}"]
        subprocess.run([browser, *options, f"--screenshot={IMAGES / name}", page.as_uri()], check=True)


if __name__ == "__main__":
    title = "The miniature, stretched from 64 to 256 tokens"
    picture(Path("docs/benchmarks/report"), "report.png", title, (1060, 1730))
    with tempfile.TemporaryDirectory() as folder:
        invented(Path(folder))
        only = "body > :not(main), section:not(#needles) { display: none !important }"
        picture(Path(folder), "needles.png", "Needles", (900, 1000), only)
