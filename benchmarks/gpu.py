# SPDX-License-Identifier: Apache-2.0
"""One part of the benchmarks for a GPU; benchmarks/gpu.sh runs them all.

Each part is a process of its own with a time budget. It adds its section to OUTPUT/gpu.json after every line, so that
a part that fails or is cut short leaves the others, and what it has. Exit code: 0; 1 if something is wrong; 3 if
span-expanded attention itself is, after which nothing should be timed.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

import torch
from suite.ceilings import measure_ceilings
from suite.decoding import measure_decoding
from suite.operators import ESSENTIAL, PARTS, check_operators, measure_operators, wrong_methods
from suite.planning import compare_plans
from suite.report import markdown
from suite.results import Results
from suite.sizes import Sizes, sizes_for
from suite.steps import measure_steps
from suite.testing import run_tests
from suite.timing import Budget

WRONG, HOPELESS = 1, 3


def run(part: str, sizes: Sizes, results: Results, seconds: float) -> int:
    """Run one part; its exit code."""
    budget = Budget(seconds)
    right = True
    if part == "tests":
        right = run_tests(sizes.options.device, results, seconds)
    elif part in PARTS:
        right = check_operators(part, sizes, results)
        if not wrong_methods(results).keys().isdisjoint(ESSENTIAL):
            return HOPELESS
        if "ceilings" not in results.data:
            device = torch.device(sizes.options.device)
            results.start("ceilings", measure_ceilings(device, sizes.dtype, sizes.side, sizes.copied))
        measure_operators(part, sizes, results, budget)
    elif part == "decode":
        right = measure_decoding(sizes, results, budget)
    elif part == "step":
        measure_steps(sizes, results, budget)
    elif part == "planner":
        compare_plans(sizes, results, budget)
    elif part == "report":
        report(results)
    return 0 if right else WRONG


def report(results: Results) -> None:
    """Write the page, and the pictures where matplotlib is installed."""
    page = markdown(results.data)
    (results.folder / "gpu.md").write_text(page)
    if importlib.util.find_spec("matplotlib") is None:
        print("no pictures: matplotlib is not installed")
    else:
        from suite.plots import draw_all

        print("pictures:", ", ".join(draw_all(results.data, results.folder)) or "nothing to draw")
    print(page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["tests", *PARTS, "decode", "step", "planner", "report"])
    parser.add_argument("--output", type=Path, default=Path("outputs/gpu"), help="folder of the results")
    parser.add_argument("--seconds", type=float, default=600, help="after which nothing new is begun")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run, is it right?")
    arguments = parser.parse_args()
    sizes = sizes_for(arguments.device, arguments.quick)
    sys.exit(run(arguments.part, sizes, Results(arguments.output), arguments.seconds))


if __name__ == "__main__":
    main()
