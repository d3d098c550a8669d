# SPDX-License-Identifier: Apache-2.0
"""Versions and hardware."""

from __future__ import annotations

import importlib.metadata
import os
import platform

__all__ = ["environment", "version_of"]

_PACKAGES = (
    "hylora",
    "torch",
    "triton",
    "transformers",
    "peft",
    "accelerate",
    "datasets",
    "safetensors",
    "tokenizers",
)


def environment() -> dict[str, str]:
    """Versions and hardware as plain strings, for result files."""
    import torch

    values = {name: version_of(name) for name in _PACKAGES}
    values["python"] = platform.python_version()
    values["platform"] = platform.platform()
    values["processor"] = _processor()
    values["threads"] = str(torch.get_num_threads())
    values["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return values


def version_of(package: str) -> str:
    """The installed version of a package, in words where there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        return f"{names[0]} ({os.cpu_count()} cores)"
    except (OSError, IndexError):
        return f"{platform.processor() or platform.machine()} ({os.cpu_count()} cores)"
