# SPDX-License-Identifier: Apache-2.0
"""`hylora env`: what is installed, what hardware is there, and what will be used."""

from __future__ import annotations

import importlib.metadata
import importlib.util

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hylora.environment import environment, version_of

__all__ = ["env"]

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
        version = version_of(package) if importlib.util.find_spec(module) else "-"
        # Brackets would be read as markup.
        table.add_row(package, version, escape(purpose))
    console.print(table)


def _choices() -> list[tuple[str, str, str]]:
    import torch

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
