# SPDX-License-Identifier: Apache-2.0
"""Time span-expanded attention against its rivals on this machine.

The methods are first checked against the reference backend, output and gradients; a red check stops the run. Then they
take turns: one round times each of them once, and ratios are formed within a round, so that a machine that slows down
slows all of them. Reported are medians over rounds, with the smallest and largest ratio.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from environment import describe
from suite.checks import check_method, check_tensors, retrieval_for
from suite.markdown import table
from suite.methods import Method, Options, own_methods
from suite.runs import prepare, random_tensors
from suite.timing import stopwatch, take_turns

LABELS = {
    "full": "Full",
    "se": "SE-Attn",
    "se_token": "SE-Attn per token",
    "se_recall": "SE-Attn recall",
    "nomem": "NoMem",
    "sw": "SW",
    "s2": "S2",
}
RATIOS = [
    ("full", "se"),
    ("full", "se_token"),
    ("full", "se_recall"),
    ("se_token", "se"),
    ("se_recall", "se"),
    ("sw", "se"),
    ("s2", "se"),
    ("se", "nomem"),
]
PASSES = ("forward", "forward+backward")


def process_time(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of this process that a run takes."""
    start = time.process_time()
    run()
    return time.process_time() - start


CLOCKS = {"wall": stopwatch, "cpu": process_time}


def methods_of(options: Options, names: list[str], retrieval: str = "relevance") -> dict[str, Method]:
    """Those that are named. "se_token" is "se_recall" with blocks of the published size, and half as many."""
    doubled = replace(options, block_size=2 * options.block_size, top_k=options.top_k // 2)
    methods = {**own_methods(options, retrieval), "se_token": own_methods(doubled, retrieval)["se_recall"]}
    return {name: methods[name] for name in names}


def check(options: Options, dtypes: list[torch.dtype], names: list[str]) -> list[dict]:
    """Compare methods with the reference in float64, at the options timed and an odd length.

    Raises:
        SystemExit: an error is above its tolerance.
    """
    report = []
    for dtype in [torch.float64, *dtypes]:
        for name, method in methods_of(options, names, retrieval_for(dtype)).items():
            tensors = check_tensors(method, (2, 2), options, 2 * options.chunk_size + 37, dtype)
            line = check_method(name, method, tensors)
            report.append(line)
            if not line["passed"]:
                raise SystemExit(f"{LABELS[name]} is wrong in {line['dtype']}: {line['failure']}; nothing was timed")
    return report


def measure(
    methods: dict[str, Method], options: Options, place: dict, dtype: torch.dtype, rounds: int, clock: Callable
) -> dict:
    """Seconds of every method in every round, after one round to warm up."""
    heads, device = place["heads"], torch.device(options.device)
    tensors = random_tensors(heads, heads, place["length"], options.head_dim, dtype, options.device)
    runs = {name: prepare(place["pass"], method.bind(*tensors[:3]), tensors) for name, method in methods.items()}
    points = take_turns(runs.__getitem__, runs, place, clock, device, rounds)
    seconds = {point.contender: list(point.seconds) for point in points}
    ratios = {}
    for slow, fast in RATIOS:
        if {slow, fast} <= set(methods):
            values = [a / b for a, b in zip(seconds[slow], seconds[fast], strict=True)]
            ratios[f"{slow}/{fast}"] = [statistics.median(values), min(values), max(values)]
    return {**place, "seconds": seconds, "ratios": ratios}


def markdown(report: dict) -> str:
    """The results as a table."""
    first = report["results"][0]
    ratio_names = [" / ".join(LABELS[name] for name in ratio.split("/")) for ratio in first["ratios"]]
    method_names = [f"{LABELS[name]} [ms]" for name in first["seconds"]]
    header = ["dtype", "pass", "length", "heads", *method_names, *ratio_names]
    rows = []
    for result in report["results"]:
        times = [f"{1e3 * statistics.median(seconds):.0f}" for seconds in result["seconds"].values()]
        ratios = ["{:.2f} ({:.2f}-{:.2f})".format(*ratio) for ratio in result["ratios"].values()]
        rows.append([result["dtype"], result["pass"], result["length"], result["heads"], *times, *ratios])
    facts = "\n".join(f"- {key}: {value}" for key, value in {**report["environment"], **report["settings"]}.items())
    return "# Attention on this machine\n\nMedian over rounds; ratios within a round, with (smallest-largest).\n\n" + (
        table(header, rows) + "\n\n" + facts + "\n"
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 4096, 8192, 16384, 32768])
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "bfloat16"], default=["float32", "bfloat16"])
    parser.add_argument("--passes", nargs="+", choices=PASSES, default=PASSES)
    parser.add_argument("--heads", type=int, help="default: 8 up to 4k tokens, then fewer, down to 2 from 16k on")
    parser.add_argument("--methods", nargs="+", choices=LABELS, default=list(LABELS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="cpu: process time, for noisy machines")
    for field, default in vars(Options()).items():
        parser.add_argument(f"--{field.replace('_', '-')}", type=type(default), default=default)
    parser.add_argument("--quick", action="store_true", help="a few seconds at small sizes: does it run, is it right?")
    parser.add_argument("--output", type=Path, help="folder for attention.json and attention.md")
    return parser.parse_args()


def main():
    args = parse_arguments()
    options = Options(**{field: getattr(args, field) for field in vars(Options())})
    if args.quick:
        args.lengths, args.rounds = [256, 512], 2
        options = replace(options, block_size=16, top_k=2, chunk_size=128, window=128)
    torch.set_num_threads(args.threads)
    dtypes = [getattr(torch, name) for name in args.dtypes]
    report = {
        "environment": describe(),
        "settings": {"clock": args.clock, "rounds": args.rounds, **vars(options)},
        "checks": check(options, dtypes, args.methods),
        "results": [],
    }
    methods = methods_of(options, args.methods)
    for dtype in dtypes:
        for pass_name in args.passes:
            for length in args.lengths:
                heads = args.heads or max(2, min(8, 32768 // length))
                name = str(dtype).removeprefix("torch.")
                place = {"dtype": name, "pass": pass_name, "length": length, "heads": heads}
                result = measure(methods, options, place, dtype, args.rounds, CLOCKS[args.clock])
                report["results"].append(result)
                if args.output:  # after every line: a long run that is cut short leaves what it has
                    args.output.mkdir(parents=True, exist_ok=True)
                    (args.output / "attention.json").write_text(json.dumps(report, indent=1))
                    (args.output / "attention.md").write_text(markdown(report))
    print(markdown(report))


if __name__ == "__main__":
    main()
