# SPDX-License-Identifier: Apache-2.0
"""The tests of the kernels on this device, in a process of their own."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

from .results import Results

_ROOT = Path(__file__).parents[2]


def run_tests(device: str, results: Results, seconds: float) -> bool:
    """Run `tests/kernels`: on a GPU all of them, those that need one and those written for the interpreter.

    Returns:
        Whether none failed; not having been able to run, or to finish, is no failure, but is written down.
    """
    section = results.start("tests", summary=None, failed=False)
    if missing := [name for name in ("pytest", "hypothesis") if importlib.util.find_spec(name) is None]:
        section["summary"] = f"not run: {' and '.join(missing)} not installed"
    else:
        kind = "not slow" if device == "cuda" else "not slow and not gpu"
        # A CPU's own tests are run by continuous integration; here a few show that they can be run.
        where = "tests/kernels" if device == "cuda" else "tests/kernels/test_layout.py"
        command = [sys.executable, "-m", "pytest", "-q", "-m", kind, "-p", "no:cacheprovider", where]
        command += ["--ignore", "tests/kernels/test_benchmark.py"]
        if importlib.util.find_spec("xdist") is not None and device == "cuda":
            command += ["-n", "8"]
        log = results.folder / "tests.txt"
        try:
            with log.open("w") as output:
                run = subprocess.run(command, cwd=_ROOT, stdout=output, stderr=subprocess.STDOUT, timeout=seconds)
            lines = log.read_text().strip().splitlines()
            section |= {"summary": lines[-1] if lines else "no output", "failed": run.returncode != 0}
        except subprocess.TimeoutExpired:
            section["summary"] = f"cut off after {seconds:.0f} seconds"
    results.save()
    print(f"tests: {section['summary']}", flush=True)
    return not section["failed"]
