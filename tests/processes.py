# SPDX-License-Identifier: Apache-2.0
"""Programs in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.pages import ROOT

__all__ = ["launch"]


def launch(processes: int, *arguments: Any, folder: Path = ROOT) -> None:
    """Run `python ARGUMENTS` in some processes that work together on the CPU, with a thread each; it must succeed.

    Args:
        processes: how many.
        *arguments: `-m` and a module, or a file, and its own arguments.
        folder: to run in. The source tree can be imported from anywhere.
    """
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    paths = os.pathsep.join([str(ROOT), *sys.path])
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": paths}
    call = [sys.executable, *(launcher if processes > 1 else []), *map(str, arguments)]
    done = subprocess.run(call, cwd=folder, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
