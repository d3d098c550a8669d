# SPDX-License-Identifier: Apache-2.0
"""One part of the benchmarks for a GPU; benchmarks/gpu.sh runs them all.

Each part is a process of its own with a time budget. It adds its section to OUTPUT/gpu.json after every line, so that
a part that fails or is cut short leaves the others, and what it has. What is wrong or fails is named there, with the
traceback, and the rest goes on. The exit code is then 1, else 0.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib.util
import signal
import sys
from pathlib import Path

import torch
from suite.costs import measure_ceilings
from suite.decoding import measure_decoding
from suite.operators import PARTS, check_operators, measure_operators
from suite.report import markdown
from suite.results import Results
from suite.sizes import Sizes, sizes_for
from suite.steps import compare_plans, measure_steps
from suite.testing import run_tests
from suite.timing import Budget

ALL = (*PARTS, "decode", "step", "tests", "planner", "report")


def run(part: str, sizes: Sizes, results: Results, seconds: float) -> bool:
    """Run one part; whether all went well."""
    budget = Budget(seconds)
    if part == "tests":
        return run_tests(sizes.options.device, results, seconds)
    if part == "decode":
        return measure_decoding(sizes, results, budget)
    if part == "step":
        return measure_steps(sizes, results, budget)
    if part == "planner":
        return compare_plans(sizes, results, budget)
    if part == "report":
        return report(results)
    right = check_operators(part, sizes, results)
    if "ceilings" not in results.data:
        device = torch.device(sizes.options.device)
        results.start("ceilings", **measure_ceilings(device, sizes.dtype, sizes.side, sizes.copied))
    return measure_operators(part, sizes, results, budget) and right


def report(results: Results) -> bool:
    """Write the page, and the pictures where matplotlib is installed."""
    page = markdown(results.data)
    (results.folder / "gpu.md").write_text(page)
    print(page)
    if importlib.util.find_spec("matplotlib") is None:
        print("no pictures: matplotlib is not installed")
    else:
        from suite.plots import draw_all

        print("pictures:", ", ".join(draw_all(results.data, results.folder)) or "nothing to draw")
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=ALL)
    parser.add_argument("--output", type=Path, default=Path("outputs/gpu"), help="folder of the results")
    parser.add_argument("--seconds", type=float, default=600, help="after which nothing new is begun")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run, is it right?")
    arguments = parser.parse_args()
    # A crash, or the signal of gpu.sh that time is up, shows where it found the program.
    faulthandler.enable()
    faulthandler.register(signal.SIGTERM, chain=True)
    sizes, results, right = sizes_for(arguments.device, arguments.quick), Results(arguments.output), False
    try:
        right = run(arguments.part, sizes, results, arguments.seconds)
    except Exception:
        with results.start(f"{arguments.part} failure").attempt():
            raise
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
