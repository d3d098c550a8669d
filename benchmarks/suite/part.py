# SPDX-License-Identifier: Apache-2.0
"""One part of the benchmarks for a GPU, in this process; benchmarks/gpu.sh runs them all."""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import importlib.util
import os
import signal
import sys
import time
from pathlib import Path

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when triton is imported

from .report import markdown
from .results import Results
from .sizes import Sizes, sizes_for
from .timing import Budget

# Where each part is: imported by itself, so that one that cannot be leaves the others.
PARTS = {
    "compile": ("compiling", "compile_all"),
    "check": ("kernel_checks", "check_kernels"),
    "kernels": ("kernel_times", "time_kernels"),
    "cudnn": ("foreign", "ask_all"),
    "tools": ("tools", "run_tools"),
    "tune": ("tuning", "try_candidates"),
    "operator": ("operators", "measure_operators"),
    "flex": ("operators", "measure_flex"),
    "decode": ("decoding", "measure_decoding"),
    "tests": ("testing", "run_tests"),
    "step": ("steps", "measure_steps"),
    "planner": ("steps", "compare_plans"),
}
# What a part starts as a process of its own has its own limit.
_PATIENT = ("compile", "tools", "tests")
# What takes longer hangs: so many seconds, and more where timing takes longer, but at most half of those left.
_PATIENCE = dict.fromkeys(("operator", "flex", "step", "planner"), 150.0)
_DEFAULT_PATIENCE = 45.0


def run(part: str, sizes: Sizes, results: Results, budget: Budget) -> bool:
    """Run one part; whether all went well."""
    if part == "report":
        return report(results)
    module, function = PARTS[part]
    try:
        return getattr(importlib.import_module(f"suite.{module}"), function)(sizes, results, budget)
    except Exception:
        with results.start(f"{part} failure").attempt():
            raise
        return False


def patience_of(part: str, left: float) -> float | None:
    """Seconds after which what a part is at counts as hanging, of those left; None for no end.

    Whatever hangs leaves at least half of them for the rest.
    """
    return None if part in _PATIENT else min(_PATIENCE.get(part, _DEFAULT_PATIENCE), max(0.1, left / 2))


def report(results: Results) -> bool:
    """Write the page, and the pictures where matplotlib is installed."""
    page = markdown(results.data)
    (results.folder / "gpu.md").write_text(page)
    print(page)
    if importlib.util.find_spec("matplotlib") is None:
        print("no pictures: matplotlib is not installed")
    else:
        from .plots import draw_all

        print("pictures:", ", ".join(draw_all(results.data, results.folder)) or "nothing to draw")
    return True


def tell_of_compiling() -> None:
    """Print what is compiled in this process: it was to be done before, in many."""
    if importlib.util.find_spec("triton") is None:
        return
    import triton

    def tell(*, src, times, cache_hit, **more) -> None:
        if not cache_hit:
            print(f"compiled here: {src.name} in {times.total / 1e6:.1f} s", flush=True)

    triton.knobs.compilation.listener = tell


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=[*PARTS, "report"])
    parser.add_argument("--output", type=Path, required=True, help="folder of the results")
    parser.add_argument("--run", default="", help="the same for processes that take up each other's work")
    parser.add_argument("--until", type=float, required=True, help="time.monotonic() after which nothing new is begun")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes on a CPU")
    arguments = parser.parse_args()
    if not (arguments.dry_run or arguments.part == "report" or torch.cuda.is_available()):
        parser.error("there is no CUDA device; --dry-run tries the program on a CPU")
    tell_of_compiling()
    # A crash, or the signal that time is up, shows where it found the program.
    faulthandler.enable()
    faulthandler.register(signal.SIGTERM, chain=True)
    device = "cpu" if arguments.dry_run else "cuda"
    budget = Budget(arguments.until - time.monotonic())
    results = Results(arguments.output, arguments.run, patience_of(arguments.part, budget.left))
    right = run(arguments.part, sizes_for(device, quick=arguments.dry_run), results, budget)
    sys.stdout.flush()
    os._exit(0 if right else 3)  # without waiting for what a device may still be at


if __name__ == "__main__":
    main()
