# SPDX-License-Identifier: Apache-2.0
"""`hylora env`: what is installed, what hardware is there, and what will be used."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

__all__ = ["env", "environment"]

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
_OPTIONAL = {
    "mamba_ssm": ("mamba-ssm", "fused Mamba scans; without it transformers runs its slow torch scan"),
    "causal_conv1d": ("causal-conv1d", "fused short convolutions; mamba-ssm needs it for training"),
    "flash_attn": ("flash-attn", "attn_implementation='flash_attention_2'"),
    "bitsandbytes": ("bitsandbytes", "8-bit optimizers"),
    "trackio": ("trackio", "tracking.trackers=[trackio]"),
    "tensorboard": ("tensorboard", "tracking.trackers=[tensorboard]"),
    "wandb": ("wandb", "tracking.trackers=[wandb]"),
    "matplotlib": ("matplotlib", "pictures of the demo and of evaluations"),
    "lm_eval": ("lm-eval", "hylora eval harness"),
    "wonderwords": ("wonderwords", "the words of hylora eval ruler"),
}


def environment() -> dict[str, str]:
    """Versions and hardware as plain strings, for result files."""
    values = {name: _version(name) for name in _PACKAGES}
    values["python"] = platform.python_version()
    values["platform"] = platform.platform()
    values["processor"] = _processor()
    values["threads"] = str(torch.get_num_threads())
    values["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return values


def env() -> None:
    """Show versions, devices, and which kernels and backends will be used and why."""
    console = Console()
    table = Table("", "", title="Environment", title_justify="left", show_header=False)
    for name, value in environment().items():
        table.add_row(name, value)
    console.print(table)

    table = Table("part", "will be used", "why", title="What will be used", title_justify="left")
    for row in _choices():
        table.add_row(*row)
    console.print(table)

    table = Table("package", "version", "what it gives", title="Optional packages", title_justify="left")
    for module, (package, purpose) in _OPTIONAL.items():
        version = _version(package) if importlib.util.find_spec(module) else "-"
        # Brackets would be read as markup.
        table.add_row(package, version, escape(purpose))
    console.print(table)


def _choices() -> list[tuple[str, str, str]]:
    cuda = torch.cuda.is_available()
    triton, *scans = (importlib.util.find_spec(name) for name in ("triton", "mamba_ssm", "causal_conv1d"))
    if not cuda:
        span = rivals = ("torch", "flash kernels of torch, merged by log-sum-exp")
    else:
        rivals = ("flash", "flash kernels in half precision; float32 takes a plain softmax over a chunk (torch)")
        span = ("triton", "its own kernels, for what they take; else as sw_attn") if triton else rivals
    if not all(scans):
        scan = ("transformers' torch scan", "mamba-ssm and causal-conv1d are not both installed")
    elif cuda:
        scan = ("mamba-ssm", "mamba-ssm and causal-conv1d are installed")
    else:
        scan = ("none works", "mamba-ssm is installed and needs CUDA: uninstall it to run on a CPU")
    bf16 = cuda and torch.cuda.is_bf16_supported()
    return [
        ("device", "cuda", "torch.cuda.is_available()") if cuda else ("device", "cpu", "no CUDA device is visible"),
        ("se_attn", *span),
        ("sw_attn, s2_attn", *rivals),
        ("state-space layers", *scan),
        ("mixed precision", "bf16", "the device supports it")
        if bf16
        else ("mixed precision", "none", "training.mixed_precision=auto takes bf16 only on CUDA devices that have it"),
    ]


def _version(package: str) -> str:
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
