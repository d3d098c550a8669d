# SPDX-License-Identifier: Apache-2.0
"""What a benchmark ran on."""

from __future__ import annotations

import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import torch

# Whose versions matter to times, besides torch's; those that are not installed are not mentioned.
_PACKAGES = ("triton", "transformers", "peft", "mamba-ssm", "causal-conv1d", "flash-attn", "flash-attn-3", "fla-core")


def describe() -> dict:
    """Versions, processor, threads, time and commit, as a flat dictionary of strings and numbers."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        **{
            name: metadata.version(name) for name in _PACKAGES if next(metadata.Distribution.discover(name=name), None)
        },
        "gpu": "none",
        **_gpu(),
    }


def _gpu() -> dict:
    """The first GPU, where there is one."""
    if not torch.cuda.is_available():
        return {}
    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name,
        "compute capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory [GiB]": round(properties.total_memory / 2**30, 1),
        "L2 cache [MiB]": round(properties.L2_cache_size / 2**20, 1),
        "CUDA": torch.version.cuda,
        "cuDNN": torch.backends.cudnn.version(),
    }


def _commit() -> str:
    """The commit of the working tree, marked where files differ from it."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _processor() -> str:
    """The processor's model name."""
    try:
        named = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        return platform.processor()
    return named[1] if named else platform.machine()
