# SPDX-License-Identifier: Apache-2.0
"""Pre-train masked learners, fine-tune the audio branch of each, and gather how well it tells sounds apart.

    python studies/vision/mavil.py studies/vision/mavil.yaml --seeds 3 --output outputs/vision/mavil

Runs that are finished are kept: the same command goes on where it was stopped. The table is printed; --tell prints
that of a gathered file alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import yaml
from chained import trained
from tell import line

from hylora.environment import environment

_SCRATCH = "from scratch"


def learned(plan: dict[str, Any], setting: str, seed: int, output: Path) -> dict[str, Any]:
    """What a learner's pre-training and the fine-tuning of its audio branch came to, or the latter alone."""
    name = f"{setting}-{seed}".replace(" ", "_").replace(",", "")
    record: dict[str, Any] = {"setting": setting, "seed": seed}
    modes, path = plan["scratch"], []
    if setting != _SCRATCH:
        found = trained(plan["upstream"], plan["settings"][setting], seed, output / name)
        kept = {key: found[key] for key in ("updates", "seconds", "flops", "evaluation")}
        record["pretraining"], modes, path = kept, plan["modes"], [f"model.path={output / name}"]
    record["finetuning"] = {}
    for mode, overrides in modes.items():
        folder = output / f"{name}-{mode}".replace(" ", "_")
        record["finetuning"][mode] = trained(plan["downstream"], [*path, *overrides], seed, folder)["evaluation"]
    return record


def tell(gathered: dict[str, Any]) -> str:
    """The gathered runs as a table in Markdown: means over seeds, and the standard deviations of accuracies."""
    runs = gathered["runs"]
    modes = list(dict.fromkeys(mode for run in runs for mode in run["finetuning"]))
    heads = ["learner", "FLOPs", "updates", "sound's loss", "video's loss", "finds its video", *modes]
    lines = [line(heads), line(["---"] * len(heads))]
    baseline = statistics.fmean(_values(runs, runs[0]["setting"], "pretraining", "flops"))
    for setting in dict.fromkeys(run["setting"] for run in runs):

        def said(how: str, *keys: str, over: float = 1.0, setting: str = setting) -> str:
            values = [value / over for value in _values(runs, setting, *keys)]
            spread = f" ± {100 * statistics.stdev(values):.1f}" if how == "{:.1%}" and len(values) > 1 else ""
            return how.format(statistics.fmean(values)) + spread if values else ""

        lines.append(
            line(
                [
                    setting,
                    said("{:.2f}", "pretraining", "flops", over=baseline),
                    said("{:.0f}", "pretraining", "updates"),
                    said("{:.4f}", "pretraining", "evaluation", "audio_loss"),
                    said("{:.4f}", "pretraining", "evaluation", "video_loss"),
                    said("{:.1%}", "pretraining", "evaluation", "retrieval"),
                    *(said("{:.1%}", "finetuning", mode, "accuracy") for mode in modes),
                ]
            )
        )
    return "\n".join(lines)


def _values(runs: list[dict[str, Any]], setting: str, *keys: str) -> list[float]:
    """A value within each run of a setting that has it."""
    found: list[Any] = [run for run in runs if run["setting"] == setting]
    for key in keys:
        found = [value[key] for value in found if key in value]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="YAML file of the learners; with --tell what was gathered")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("outputs/vision/mavil"), help="folder of the runs")
    parser.add_argument("--tell", action="store_true", help="print the table of a gathered file")
    arguments = parser.parse_args()
    if arguments.tell:
        print(tell(json.loads(arguments.study.read_text())))
        return
    plan = yaml.safe_load(arguments.study.read_text())
    results = arguments.output / f"{arguments.study.stem}.json"
    results.parent.mkdir(parents=True, exist_ok=True)
    gathered = {"kind": "mavil", "question": plan["question"], "environment": environment(), "runs": []}
    for seed in range(arguments.seeds):
        for setting in (*plan["settings"], _SCRATCH):
            gathered["runs"].append(learned(plan, setting, seed, arguments.output))
            results.write_text(json.dumps(gathered, indent=1) + "\n")
            print(f"{setting}, seed {seed}", flush=True)
    print(tell(gathered))


if __name__ == "__main__":
    main()
