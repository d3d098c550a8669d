# SPDX-License-Identifier: Apache-2.0
"""Count what masked audio-video learners take, in floating-point operations, as table 5.5 has it.

    python benchmarks/mavil_flops.py

Operations of a clip's pass forward on the thesis's shapes (section 5.5.1), on the average over 60 epochs, by module
and relative to MAViL. Nothing is computed and nothing is timed, so that the figures are the same on every machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from pathlib import Path

from vision_extras.clips.recipe import ClipsRecipe
from vision_extras.mavil.masking import MaskRecipe
from vision_extras.mavil.operations import MODULES, epoch_mean
from vision_extras.mavil.recipe import LearnerRecipe

EPOCHS, BATCH = 60, 2048
# Shapes alone; where clips come from does not matter.
CLIPS = ClipsRecipe(name="bunny")

_SELF, _CROSS = LearnerRecipe(video_attention="self"), LearnerRecipe()
_FIXED, _LINEAR = MaskRecipe(), MaskRecipe(first=0.9, last=0.8)
ROWS: dict[str, tuple[LearnerRecipe, MaskRecipe]] = {
    "MAViL": (dataclasses.replace(_SELF, diffusion=False), _FIXED),
    "R1": (_SELF, _FIXED),
    "R2": (_CROSS, _FIXED),
    "R3": (_CROSS, _LINEAR),
    "R4": (_CROSS, dataclasses.replace(_LINEAR, adaptive=True)),
}

# Columns of tables 5.3 and 5.5, in the order of MODULES and then the total; table 5.5 has no R4.
THESIS = {
    "R1": (1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
    "R2": (1.0, 1.0, 0.97, 0.53, 1.0, 0.81),
    "R3": (0.74, 1.0, 0.72, 0.54, 0.74, 0.68),
    "R4": (None, None, None, None, None, 0.68),
}


def count(name: str) -> dict[str, float]:
    """Operations of a clip's pass forward by module, and updates of an epoch over those of a fixed batch."""
    model, mask = ROWS[name]
    sizes = [mask.batch_size(mask.ratio(epoch, EPOCHS), BATCH) for epoch in range(EPOCHS)]
    return {**epoch_mean(model, CLIPS, mask, EPOCHS), "updates": statistics.mean(BATCH / size for size in sizes)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/benchmarks/mavil_flops.json"))
    options = parser.parse_args()
    counts = {name: count(name) for name in ROWS}
    columns = (*MODULES, "total")
    rows = {
        name: {
            "gflops": {column: found[column] / 1e9 for column in columns},
            "over_mavil": {column: found[column] / counts["MAViL"][column] for column in columns},
            "thesis": dict(zip(columns, THESIS.get(name, (1.0,) * len(columns)), strict=True)),
            "updates": found["updates"],
        }
        for name, found in counts.items()
    }
    shape = {name: getattr(CLIPS, name) for name in ("seconds", "steps", "bands", "frames", "side")}
    found = {"epochs": EPOCHS, "batch": BATCH, "clips": shape, "rows": rows}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(found, indent=2) + "\n")
    for name, row in rows.items():
        print(name, {column: round(ratio, 3) for column, ratio in row["over_mavil"].items()}, round(row["updates"], 3))


if __name__ == "__main__":
    main()
