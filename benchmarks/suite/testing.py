# SPDX-License-Identifier: Apache-2.0
"""The tests that need this device, in a process of their own; those of the kernels come first."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from threading import Timer

from . import told
from .results import Results, Section
from .sizes import Sizes
from .timing import Budget

_ROOT = Path(__file__).parents[2]
# As far as there is time, in this order.
_ORDER = ("triton_backend/test_backward", "triton_backend", "decode", "test_triton_span", "")


def run_tests(sizes: Sizes, results: Results, budget: Budget) -> bool:
    """Run the tests of `tests/kernels` that are marked as needing a GPU; what failed is written after each.

    Returns:
        Whether none failed; not having been able to run, or to finish, is no failure, but is written down.
    """
    section = results.start("tests", summary=None, passed=0, failures=[])
    if missing := [name for name in ("pytest", "hypothesis") if importlib.util.find_spec(name) is None]:
        section.leave_out(f"{' and '.join(missing)} not installed", part="tests")
    else:
        _run(sizes, section, budget)
    results.save()
    print(f"tests: {section['summary']}", flush=True)
    return not section["failures"]


def files() -> list[str]:
    """The files with tests that need a GPU, those of the kernels first: the others need not be read."""
    paths = sorted(_ROOT.glob("tests/kernels/**/test_*.py"))
    found = [path for path in paths if "pytest.mark.gpu" in path.read_text()]
    names = [str(path.relative_to(_ROOT)) for path in found]
    return sorted(names, key=lambda name: next(n for n, part in enumerate(_ORDER) if part in name))


def _run(sizes: Sizes, section: Section, budget: Budget) -> None:
    on_gpu = sizes.options.device == "cuda"
    # A CPU's own tests are run by continuous integration; here a few show that they can be run.
    chosen = ["-m", "gpu and not slow", *files()] if on_gpu else ["tests/kernels/test_layout.py"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", told.__name__, *chosen]
    if importlib.util.find_spec("xdist") is not None and on_gpu:
        command += ["-n", "8"]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "process_group": 0}
    process = subprocess.Popen(command, cwd=_ROOT, **pipe)
    ender = Timer(max(0.0, budget.left), lambda: os.killpg(process.pid, signal.SIGKILL))
    ender.start()
    last = "no output"
    for line in process.stdout:
        if told.MARK in line:
            test = json.loads(line.partition(told.MARK)[2])
            section["passed"] += test["outcome"] == "passed"
            if test["outcome"] == "failed":
                section.add("failures", test)
        elif line.strip():
            last = line.strip()
            print(last, flush=True)
    code = process.wait()
    cut_off = not ender.is_alive() and code < 0
    ender.cancel()
    if cut_off:
        last = f"{section['passed']} passed, {len(section['failures'])} failed, and then time was up"
    elif code not in (0, 1):
        section.add("failures", {"test": "pytest", "outcome": "failed", "why": f"exit code {code}: {last}"})
    section["summary"] = last
