# SPDX-License-Identifier: Apache-2.0
"""Find better launches of the Triton kernels on this GPU.

For each kernel the search starts from the launch that is kept and goes from neighbour to neighbour (tile sizes and
warps halved or doubled, one stage more or less) while that gains more than noise. A launch that fails, or whose
results are not those of the kept one, is passed over. With --write the best are written into the kernels' files; what
was found elsewhere can be written with --take FILE.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from dataclasses import replace
from pathlib import Path

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when triton is imported

from suite.report import table
from suite.sizes import sizes_for
from suite.stages import Stage, stages
from suite.timing import Budget, captured, cold_stopwatch
from suite.tuning import climb, keep

from hylora_kernels.triton_backend import launch as launches

FOLDER = Path(launches.__file__).parent / "launches"


def tune(arguments: argparse.Namespace) -> list[dict]:
    """Tune kernels one after the other; each gets an equal share of the time that is left."""
    sizes = sizes_for(arguments.device, arguments.quick)
    options = replace(sizes.options, head_dim=arguments.head_dim or sizes.options.head_dim)
    dtype = getattr(torch, arguments.dtype) if arguments.dtype else sizes.dtype
    device = torch.device(arguments.device)
    length = arguments.length or sizes.lengths[0]
    runs = stages(options, sizes.heads[arguments.grouped], length, dtype, arguments.selection)
    architecture = "sm_{}{}".format(*launches.capability(device))
    timed, budget, found = cold_stopwatch(device), Budget(arguments.seconds), []
    names = arguments.kernels or list(runs)
    for number, name in enumerate(names):
        share = Budget(budget.left / (len(names) - number))
        stage = runs[name]
        dtype = stage.dtype
        place = (architecture, "half" if dtype.itemsize == 2 else "single", _listed_head_dim(options.head_dim))
        start = launches.launch_for(name, options.head_dim, dtype, device)
        clock = _Clock(name, stage, timed, device, 1 if arguments.quick else 15)
        times = climb(start, clock, lambda share=share: share.spent)
        best = next(iter(times))
        found.append({"kernel": name, "place": place, "launch": best._asdict(), "seconds": times[best]})
        rows = [
            [*launch, f"{1e3 * seconds:.4g}", f"{times[start] / seconds:.3f}"] for launch, seconds in times.items()
        ]
        print(f"{name}, {place}, kept: {tuple(start)}")
        print(table((*start._fields, "ms", "times as fast"), rows[:8]), flush=True)
        if arguments.output:  # after every kernel: a run that is cut short leaves what it has
            arguments.output.write_text(json.dumps(found, indent=1) + "\n")
    return found


class _Clock:
    """Seconds of a computation under a launch of one of its kernels; the first launch gives the right results."""

    def __init__(self, kernel: str, stage: Stage, timed, device: torch.device, repetitions: int) -> None:
        self.kernel, self.stage, self.timed, self.device, self.repetitions = kernel, stage, timed, device, repetitions
        self.expected = None

    def __call__(self, launch: launches.Launch) -> float | None:
        with launches.forced(**{self.kernel: launch}):
            try:
                results = self.stage.run()
                if self.expected is None:
                    self.expected = results
                if not _alike(results, self.expected):
                    return None
                run = captured(self.stage.run, self.device) if self.stage.captured else self.stage.run
                return statistics.median(self.timed(run, self.device) for _ in range(self.repetitions))
            except Exception as error:  # too much shared memory, too many registers, a compiler's bug
                print(f"{self.kernel} {tuple(launch)}: {type(error).__name__}", flush=True)
                return None


def _alike(results, expected) -> bool:
    if isinstance(results, torch.Tensor):
        results, expected = (results,), (expected,)
    for a, e in zip(results, expected, strict=True):
        if not a.is_floating_point():
            # Sums in another order may rank near ties otherwise.
            if (a != e).double().mean() > 2e-3:
                return False
        elif not float((a.double() - e.double()).norm()) <= 1e-2 * float(e.double().norm()):
            return False
    return True


def _listed_head_dim(head_dim: int) -> str:
    """The head dimension under which the files list a launch."""
    return str(next(listed for listed in (64, 128, 256) if listed >= head_dim))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernels", nargs="+", help="names of the files of launches; default: all")
    parser.add_argument("--seconds", type=float, default=300, help="for all kernels together")
    parser.add_argument("--length", type=int)
    parser.add_argument("--head-dim", type=int)
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--grouped", action="store_true", help="the heads with fewer KV heads")
    parser.add_argument("--selection", choices=["chunk", "causal"], default="chunk")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run?")
    parser.add_argument("--output", type=Path, help="write what is found to this file")
    parser.add_argument("--take", type=Path, help="do not search: take what an earlier --output holds")
    parser.add_argument("--write", action="store_true", help="write the best into the kernels' files")
    arguments = parser.parse_args()
    found = json.loads(arguments.take.read_text()) if arguments.take else tune(arguments)
    if arguments.write:
        for item in found:
            keep(FOLDER, item["kernel"], tuple(item["place"]), launches.Launch(**item["launch"]))


if __name__ == "__main__":
    main()
