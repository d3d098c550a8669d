# SPDX-License-Identifier: Apache-2.0
"""Tell what comparisons whose settings are folds came to: of each seed the mean over folds, and of those the mean.

python studies/vision/compare.py studies/vision/esc50.yaml model.path=outputs/mavil/audioset
python studies/vision/tell_folds.py outputs/vision/esc50.json
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

from tell import Run, accuracy, by_setting, head, line


def folds_table(comparisons: dict[str, list[Run]]) -> Iterator[str]:
    """The accuracy in percent of each comparison: mean and deviation over seeds of the mean over folds."""
    yield from head(["folds", "seeds", "accuracy"])
    for name, runs in comparisons.items():
        folds, seeds = by_setting(runs), sorted({run["seed"] for run in runs})
        if len(runs) != len(folds) * len(seeds):
            raise SystemExit(f"{name} has {len(runs)} runs, and not one of each of {len(folds)} folds for each seed")
        means = [statistics.mean(accuracy(run) for run in runs if run["seed"] == seed) for seed in seeds]
        spread = statistics.stdev(means) if len(means) > 1 else 0.0
        yield line([name, str(len(folds)), str(len(seeds)), f"{statistics.mean(means):.2f} ± {spread:.2f}"])


def main() -> None:
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    comparisons = {Path(path).stem: json.loads(Path(path).read_text())["runs"] for path in sys.argv[1:]}
    print("\n".join(folds_table(comparisons)))


if __name__ == "__main__":
    main()
