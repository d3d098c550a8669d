# SPDX-License-Identifier: Apache-2.0
"""What other programs see of the kernels, where these are installed: wrong accesses, races, hardware counters."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from typing import Any

from .results import Results
from .sizes import Sizes
from .timing import Budget

_SANITIZER = ("compute-sanitizer", "--error-exitcode", "9", "--print-limit", "20")
# The program, its options, whether the size is a real one. The clocks of a GPU are left as they are.
_TOOLS = {
    "by itself": ((), False),
    "memcheck": ((*_SANITIZER, "--tool", "memcheck"), False),
    "counters": (
        ("ncu", "--clock-control", "none", "--kernel-name", "regex:^_[a-z]", "--launch-count", "40")
        + ("--section", "SpeedOfLight", "--section", "Occupancy", "--section", "WarpStateStats"),
        True,
    ),
    "racecheck": ((*_SANITIZER, "--tool", "racecheck"), False),
}
# Where CUDA puts programs that are not on the path.
_FOLDERS = "/usr/local/cuda/bin"
_KEPT = 200  # lines


def run_tools(sizes: Sizes, results: Results, budget: Budget) -> bool:
    """Run every kernel under each tool that is there; all it says is printed, its last lines are kept.

    Returns:
        Whether no tool found anything wrong; one that is missing, or not done in time, is left out.
    """
    section = results.start("tools", lines=[])
    for place in section.todo(({"tool": name} for name in _TOOLS), budget):
        command, real = _TOOLS[place["tool"]]
        program = [*command[:1], *map(str, command[1:])]
        if command:
            found = shutil.which(command[0], path=os.pathsep.join((os.environ["PATH"], _FOLDERS)))
            if found is None:
                section.leave_out(f"{command[0]} is not installed", **place)
                continue
            program[0] = found
        own = [sys.executable, "-m", "suite.once", *(["--real"] if real else [])]
        own += ["--dry-run"] if sizes.options.device == "cpu" else []
        with section.attempt(**place):
            section.add("lines", {**place, **_watch([*program, *own], budget.left)})
    return not section.failed and all(line["exit_code"] in (0, None) for line in section["lines"])


def _watch(command: list[str], seconds: float) -> dict[str, Any]:
    """Run a program, print what it says, and keep the end of it."""
    # An allocation for each tensor, so that what is read beyond it is nobody's.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "process_group": 0}
    process = subprocess.Popen(command, env=environment, **pipe)
    try:
        said, _ = process.communicate(timeout=max(1.0, seconds))
        code = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        said, _ = process.communicate()
        code = None
    print(said, flush=True)
    return {"exit_code": code, "finished": code is not None, "said": said.splitlines()[-_KEPT:]}
