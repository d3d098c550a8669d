# SPDX-License-Identifier: Apache-2.0
"""The benchmarks for a GPU: stages of parts, each a process of its own that is begun again where it left off.

A kernel that reads where it must not makes its whole process useless, and one that hangs keeps it. Then the part is
begun again: it goes on after what it was at, which is named in the results. The seconds are kept to: what there is no
time for is left out, and a part that is not done in time is ended.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# The seconds that each part of a stage is given where no others are asked for; some need less, and leave more to those
# after them. What matters most comes first.
STAGES = {
    "first": {"compile": 60, "check": 90, "kernels": 40, "cudnn": 20, "tools": 60},
    "second": {"tune": 60},
    "third": {"operator": 120, "decode": 30, "tests": 100, "step": 60, "flex": 40, "planner": 30},
}
# Of all seconds, so many are kept for the report.
REPORT = 12
# A part that is over its time has so many seconds more to finish what it is at.
_GRACE = 6
# What a part ends with that went through, with all well or not.
WENT_THROUGH = (0, 3)
_ROOT = Path(__file__).parents[1]


def main() -> None:
    """Run what was asked for, and the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = ["all", *STAGES, *(part for parts in STAGES.values() for part in parts), "report"]
    parser.add_argument("what", nargs="*", metavar="STAGE or PART", help=f"of {', '.join(known)}; default: all")
    parser.add_argument("--seconds", type=float, help="for everything; default: what the parts are said to take")
    parser.add_argument("--output", type=Path, default=Path("outputs/gpu"), help="folder of the results")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes on a CPU: does the program itself run?")
    arguments = parser.parse_args()
    if unknown := set(arguments.what) - set(known):
        parser.error(f"{', '.join(sorted(unknown))}: neither a stage nor a part; one of {', '.join(known)}")
    if importlib.util.find_spec("torch") is None:
        sys.exit(f"{sys.executable} has no torch, which all parts need: put a python3 that has it first on PATH")
    arguments.output.mkdir(parents=True, exist_ok=True)
    parts = parts_of(arguments.what or ["all"])
    # A report alone needs no GPU: on a slow machine it may take as long as everything.
    seconds = arguments.seconds or REPORT + sum((parts or parts_of(["all"])).values())
    options = ["--dry-run"] if arguments.dry_run else []
    with logged(arguments.output / "gpu.log"):
        right = run_all(parts, seconds, arguments.output, options)
    sys.exit(0 if right else 1)


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Append to a file what this process and those that it starts print, and print it."""
    log = subprocess.Popen(["tee", "-a", path], stdin=subprocess.PIPE, start_new_session=True)
    kept = [os.dup(number) for number in (1, 2)]
    for number in (1, 2):
        os.dup2(log.stdin.fileno(), number)
    try:
        yield
    finally:
        sys.stdout.flush()
        for number, before in zip((1, 2), kept, strict=True):
            os.dup2(before, number)
        log.communicate()


def parts_of(what: list[str]) -> dict[str, float]:
    """The parts that are asked for and their seconds; "report" is none, and comes after them anyhow."""
    known = {part: seconds for parts in STAGES.values() for part, seconds in parts.items()}
    stages = {"all": known, "report": {}, **STAGES}
    return {part: known[part] for name in what for part in stages.get(name, [name])}


def run_all(parts: dict[str, float], seconds: float, output: Path, options: list[str]) -> bool:
    """Run parts one after the other, and the report; whether all went well."""
    end, right, waiting = time.monotonic() + seconds, True, dict(parts)
    leave_out(output, dict.fromkeys(parts))
    for part in parts:
        own, left = allowance(waiting, end - REPORT - time.monotonic())
        del waiting[part]
        if own < 1:
            print(f"no time left for part {part}", flush=True)
            leave_out(output, {part: "no time left"})
            continue
        print(f"== {part}: {own:.0f} of {left:.0f} seconds", flush=True)
        right &= run_part(part, own, own + min(_GRACE, left - own), output, options)
    left = max(REPORT, end - time.monotonic())
    return run_part("report", left, left, output, options) and right


def allowance(waiting: dict[str, float], left: float) -> tuple[float, float]:
    """The seconds of the first of those parts that wait, and all that are left.

    Where more are left than all of them ask for, each gets so many times more; where fewer, the first ones get theirs.
    """
    first = next(iter(waiting.values()))
    return min(left, first * max(1.0, left / sum(waiting.values()))), left


def run_part(part: str, seconds: float, guard: float, output: Path, options: list[str]) -> bool:
    """Run a part, again and again until it went through or its time is up; whether all went well.

    Args:
        part: its name.
        seconds: after which it begins nothing new.
        guard: after so many it is ended.
        output: folder of the results.
        options: for its process.
    """
    started = time.monotonic()
    run = f"{time.time():.3f}"
    while True:
        command = command_of(part, run, started + seconds, output, options)
        code = run_process(command, started + guard - time.monotonic())
        if code in WENT_THROUGH:
            return code == 0
        print(f"part {part} ended with exit code {code}", flush=True)
        # What it was at when it ended will be left out: without that it would end there again.
        if time.monotonic() > started + seconds or not was_at(output, run):
            leave_out(output, {part: f"ended with exit code {code} before it was done: see gpu.log"})
            return False


def leave_out(output: Path, reasons: dict[str, str | None]) -> None:
    """Note in the results why parts were left out, in place of what is noted of them; None for those that were not."""
    path = output / "gpu.json"
    data = json.loads(path.read_text()) if path.exists() else {}
    before = data.get("parts", {}).get("left_out", [])
    items = [item for item in before if item["part"] not in reasons]
    items += [{"part": part, "reason": reason} for part, reason in reasons.items() if reason is not None]
    if items != before:
        draft = path.with_suffix(".draft")
        draft.write_text(json.dumps({**data, "parts": {"left_out": items}}, indent=1) + "\n")
        os.replace(draft, path)


def command_of(part: str, run: str, until: float, output: Path, options: list[str]) -> list[str]:
    """What runs a part, as one of the processes of this run, until a time of `time.monotonic()`."""
    command = [sys.executable, "-m", "suite.part", part, "--run", run, "--until", str(until)]
    return [*command, "--output", str(output), *options]


def run_process(command: list[str], seconds: float) -> int:
    """Run a command in a session of its own, which all that it has started ends with; its exit code.

    What it starts may be in a process group of its own, but not in another session.
    """
    process = subprocess.Popen(command, cwd=_ROOT, start_new_session=True)
    try:
        return process.wait(max(0.0, seconds))
    except subprocess.TimeoutExpired:
        # The signal makes it show where it is.
        process.terminate()
        try:
            return process.wait(3)
        except subprocess.TimeoutExpired:
            return -signal.SIGKILL
    finally:
        end_session(process.pid)
        process.wait()


def end_session(session: int) -> None:
    """Kill all of its processes."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(ProcessLookupError):
            if os.getsid(int(name)) == session:
                os.kill(int(name), signal.SIGKILL)


def was_at(output: Path, run: str) -> bool:
    """Whether the results of this run say what it was at."""
    path = output / "gpu.json"
    at = json.loads(path.read_text()).get("at", {}) if path.exists() else {}
    return at.get("run") == run and bool(at["places"])


if __name__ == "__main__":
    main()
