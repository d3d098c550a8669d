# SPDX-License-Identifier: Apache-2.0
"""Find better launches of the Triton kernels on this GPU.

For each kernel the search starts from the launch that is kept and goes from neighbour to neighbour (tile sizes and
warps halved or doubled, one stage more or less) while that gains more than noise. A launch that fails, or whose
results are not those of the kept one, is passed over. With --write the best are written into the kernels' files; what
was found elsewhere can be written with --take FILE, also what computes own chunks best, which `gpu.sh tune` finds.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when triton is imported

from suite.best import GAIN, best_launches
from suite.markdown import lines_of, table
from suite.results import describe_error
from suite.sizes import sizes_for
from suite.stages import stages
from suite.timing import Budget
from suite.tuning import StageClock, forced_launch, place_of

from hylora_kernels.triton_backend import launch as launches
from hylora_kernels.triton_backend.launch import Launch

FOLDER = Path(launches.__file__).parent / "launches"
# Largest and smallest value of each field; all but the stages are powers of two.
_BOUNDS = {"block_m": (16, 512), "block_n": (16, 512), "num_warps": (2, 8), "num_stages": (1, 5)}


def tune(arguments: argparse.Namespace) -> list[dict]:
    """Tune kernels one after the other; each gets an equal share of the time that is left."""
    sizes = sizes_for(arguments.device, arguments.quick)
    options = replace(sizes.options, head_dim=arguments.head_dim or sizes.options.head_dim)
    dtype = getattr(torch, arguments.dtype) if arguments.dtype else sizes.dtype
    device = torch.device(arguments.device)
    length = arguments.length or sizes.lengths[0]
    runs = stages(options, sizes.heads[arguments.grouped], length, dtype, arguments.selection)
    budget, found = Budget(arguments.seconds), []
    names = arguments.kernels or list(runs)
    for number, name in enumerate(names):
        share = Budget(budget.left / (len(names) - number))
        stage = runs[name]
        place = place_of(stage, device)
        start = launches.launch_for(name, stage.head_dim, stage.dtype, device)
        clock = StageClock(stage, device, 1 if arguments.quick else 15)
        times = climb(start, partial(timed, clock, name), lambda share=share: share.spent)
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


def timed(clock: StageClock, kernel: str, launch: Launch) -> float | None:
    """Seconds under a launch, or None where it fails: too much shared memory, too many registers, a compiler's bug."""
    try:
        return clock.seconds(forced_launch(kernel, launch), f"{kernel} as {tuple(launch)}")
    except Exception as error:
        print(f"{tuple(launch)}: {describe_error(error)}", flush=True)
        return None


def neighbours(launch: Launch) -> Iterator[Launch]:
    """Launches that differ in one step of one field."""
    for field, (least, most) in _BOUNDS.items():
        value = getattr(launch, field)
        steps = (value - 1, value + 1) if field == "num_stages" else (value // 2, value * 2)
        for step in steps:
            if least <= step <= most:
                yield launch._replace(**{field: step})


def climb(
    start: Launch, seconds_of: Callable[[Launch], float | None], spent: Callable[[], bool]
) -> dict[Launch, float]:
    """Go from a launch to its best neighbour until none is better, or the time is spent.

    Args:
        start: where to begin.
        seconds_of: a launch's time, or None where it fails or is wrong.
        spent: whether to stop.

    Returns:
        All times, the best launch first.
    """
    tried = {start: seconds_of(start)}
    if tried[start] is None:
        raise ValueError(f"the kept launch {start} fails or is wrong")
    best, before = start, None
    while best != before:
        before = best
        for launch in neighbours(before):
            if launch in tried or spent():
                continue
            tried[launch] = seconds = seconds_of(launch)
            if seconds is not None and seconds < tried[best] * (1 - GAIN):
                best = launch
    times = {launch: seconds for launch, seconds in tried.items() if seconds is not None}
    return dict(sorted(times.items(), key=lambda item: (item[0] != best, item[1])))


def keep(folder: Path, kernel: str, place: tuple[str, str, str], launch: dict[str, Any]) -> None:
    """Write a launch into its kernel's file, or into that of own chunks what computes them.

    Args:
        folder: of the files.
        kernel: its name, or "own_chunks".
        place: architecture ("sm_90"), width of numbers ("half") and head dimension ("128").
        launch: to keep, field by field.
    """
    path = folder / f"{kernel}.json"
    content = json.loads(path.read_text()) if path.exists() else {}
    architecture, width, head_dim = place
    content.setdefault(architecture, {}).setdefault(width, {})[head_dim] = launch
    content[architecture][width] = dict(sorted(content[architecture][width].items(), key=lambda item: int(item[0])))
    # One launch to a line.
    text = re.sub(
        r"\{\s+([^{}]+?)\s+\}", lambda found: "{" + " ".join(found[1].split()) + "}", json.dumps(content, indent=2)
    )
    path.write_text(text + "\n")


def taken(path: Path) -> list[dict]:
    """What an earlier search found, or the best of the launches that `gpu.sh tune` tried."""
    found = json.loads(path.read_text())
    return found if isinstance(found, list) else list(best_launches(lines_of(found, "tune", "points")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernels", nargs="+", help="names of the files of launches; default: all")
    parser.add_argument("--seconds", type=float, default=300, help="for all kernels together")
    parser.add_argument("--length", type=int)
    parser.add_argument("--head-dim", type=int)
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--grouped", action="store_true", help="the heads with fewer KV heads")
    parser.add_argument("--selection", choices=["chunk", "token"], default="chunk")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run?")
    parser.add_argument("--output", type=Path, help="write what is found to this file")
    parser.add_argument("--take", type=Path, help="do not search: take an earlier --output, or gpu.json")
    parser.add_argument("--write", action="store_true", help="write the best into the kernels' files")
    arguments = parser.parse_args()
    found = taken(arguments.take) if arguments.take else tune(arguments)
    print("Written:" if arguments.write else "With --write would be written:")
    if not found:
        print("nothing")
    for item in found:
        print(f"{item['kernel']}.json: {', '.join(item['place'])}: {json.dumps(item['launch'])}")
        if arguments.write:
            keep(FOLDER, item["kernel"], tuple(item["place"]), item["launch"])


if __name__ == "__main__":
    main()
