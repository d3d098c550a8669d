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

from hylora.environment import environment

_SCRATCH = "from scratch"


def learned(plan: dict[str, Any], setting: str, seed: int, output: Path) -> dict[str, Any]:
    """What a learner's pre-training and the fine-tuning of its audio branch came to, or the latter alone."""
    name = f"{setting}-{seed}".replace(" ", "_").replace(",", "")
    record: dict[str, Any] = {"setting": setting, "seed": seed}
    if setting == _SCRATCH:
        first = plan["scratch"]
    else:
        found = trained(plan["upstream"], plan["settings"][setting], seed, output / name)
        kept = {key: found[key] for key in ("updates", "seconds", "flops", "evaluation")}
        record["pretraining"], first = kept, [f"model.path={output / name}"]
    found = trained(plan["downstream"], first, seed, output / f"{name}-tuned")
    return {**record, "finetuning": found["evaluation"]}


def tell(gathered: dict[str, Any]) -> str:
    """The gathered runs as a table in Markdown: means over seeds, and the standard deviations of accuracies."""
    runs = gathered["runs"]
    settings = list(dict.fromkeys(run["setting"] for run in runs))
    heads = [
        "learner",
        "FLOPs",
        "updates",
        "sound's loss",
        "video's loss",
        "finds its video",
        "accuracy",
        "mAP",
        "seeds",
    ]
    lines = [_row(heads), _row(["---"] * len(heads))]
    baseline = _mean(runs, settings[0], "pretraining", "flops")
    for setting in settings:
        mine = [run for run in runs if run["setting"] == setting]
        flops = _mean(runs, setting, "pretraining", "flops")
        accuracies = [100 * run["finetuning"]["accuracy"] for run in mine]
        spread = f" ± {statistics.stdev(accuracies):.1f}" if len(accuracies) > 1 else ""
        losses = (_mean(runs, setting, "pretraining", "evaluation", key) for key in ("audio_loss", "video_loss"))
        lines.append(
            _row(
                [
                    setting,
                    _said(None if flops is None else flops / baseline, "{:.2f}"),
                    _said(_mean(runs, setting, "pretraining", "updates"), "{:.0f}"),
                    *(_said(loss, "{:.4f}") for loss in losses),
                    _said(_mean(runs, setting, "pretraining", "evaluation", "retrieval"), "{:.1%}"),
                    f"{statistics.fmean(accuracies):.1f} %{spread}",
                    _said(_mean(runs, setting, "finetuning", "map"), "{:.3f}"),
                    str(len(mine)),
                ]
            )
        )
    return "\n".join(lines)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _said(value: float | None, how: str) -> str:
    return "" if value is None else how.format(value)


def _mean(runs: list[dict[str, Any]], setting: str, *keys: str) -> float | None:
    """The mean over a setting's runs of a value within them; None where they have none."""
    values = []
    for run in runs:
        if run["setting"] == setting:
            value: Any = run
            for key in keys:
                value = (value or {}).get(key)
            values.append(value)
    return None if None in values else statistics.fmean(values)


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
