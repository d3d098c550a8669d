# SPDX-License-Identifier: Apache-2.0
"""`hylora env`: what is installed, what hardware is there, and what will be used."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hylora.environment import environment, version_of

__all__ = ["env"]

_OPTIONAL = {
    "mamba_ssm": ("mamba-ssm", "fused Mamba scans; without it transformers runs its slow torch scan"),
    "causal_conv1d": ("causal-conv1d", "fused short convolutions; mamba-ssm needs it for training"),
    "fla": ("flash-linear-attention", "fused linear attention of Qwen3-Next and OLMo-hybrid"),
    "kernels": ("kernels", "model.use_kernels: prebuilt kernels of the Hub, without the three above"),
    "flash_attn": ("flash-attn", "attn_implementation='flash_attention_2'"),
    "bitsandbytes": ("bitsandbytes", "8-bit optimizers"),
    "trackio": ("trackio", "tracking.trackers=[trackio]"),
    "tensorboard": ("tensorboard", "tracking.trackers=[tensorboard]"),
    "wandb": ("wandb", "tracking.trackers=[wandb]"),
    "matplotlib": ("matplotlib", "pictures of the demo and of evaluations"),
    "lm_eval": ("lm-eval", "hylora eval harness"),
    "wonderwords": ("wonderwords", "the words of hylora eval ruler"),
}
# What runs in recurrent layers: module and package names, as transformers looks for them.
_LAYERS = {
    "Mamba-2 layers": ("mamba_ssm", "causal_conv1d"),
    "gated delta rule": ("fla", "causal_conv1d"),
    "short convolutions": ("causal_conv1d",),
}
# Repositories of the Hub with kernels for them.
_HUB = ("kernels-community/mamba-ssm", "kernels-community/fla")
_KINDS = ("kernels", "models")  # older versions of the package kept them as models


def env() -> None:
    """Show versions, devices, and which kernels and backends will be used and why."""
    console = Console()
    table = Table("", "", title="Environment", title_justify="left", show_header=False)
    for name, value in environment().items():
        table.add_row(name, value)
    console.print(table)

    table = Table("part", "will be used", "why", title="What will be used", title_justify="left")
    for row in _choices():
        # Brackets would be read as markup.
        table.add_row(*map(escape, row))
    console.print(table)

    table = Table("package", "version", "what it gives", title="Optional packages", title_justify="left")
    for module, (package, purpose) in _OPTIONAL.items():
        version = version_of(package) if importlib.util.find_spec(module) else "-"
        table.add_row(package, version, escape(purpose))
    console.print(table)


def _choices() -> list[tuple[str, str, str]]:
    import torch

    from hylora_kernels.devices import device_without_kernels

    cuda = torch.cuda.is_available()
    reason = device_without_kernels(torch.device("cuda")) if cuda else None
    if not cuda:
        span = rivals = ("torch", "flash kernels of torch, merged by log-sum-exp")
    elif reason is not None:
        span = rivals = ("torch", f"plain operations, slowly: {reason}")
    else:
        rivals = ("flash", "flash kernels in half precision; float32 takes a plain softmax over a chunk (torch)")
        triton = importlib.util.find_spec("triton")
        span = ("triton", "its own kernels, for what they take; else as sw_attn") if triton else rivals
    if span[0] == "triton":
        from hylora_kernels.triton_backend.own_chunks import described

        own_chunks = described(torch.device("cuda"))
    else:
        own_chunks = (span[0], "as all of se_attn; libraries compute them beside Triton's kernels alone")
    bf16 = cuda and torch.cuda.is_bf16_supported()
    return [
        ("device", "cuda", "torch.cuda.is_available()") if cuda else ("device", "cpu", "no GPU is visible to torch"),
        ("se_attn", *span),
        ("own chunks of se_attn", *own_chunks),
        ("sw_attn, s2_attn", *rivals),
        *(_layer_kernels(layers, *packages) for layers, packages in _LAYERS.items()),
        ("use_kernels", *_hub_kernels(cuda)),
        ("mixed precision", "bf16", "the device supports it")
        if bf16
        else ("mixed precision", "none", "training.mixed_precision=auto takes bf16 only on CUDA devices that have it"),
    ]


def _layer_kernels(layers: str, *modules: str) -> tuple[str, str, str]:
    """What runs in some layers without `use_kernels`. A package that is installed may still fail to load."""
    import torch

    names, failures = [_OPTIONAL[module][0] for module in modules], []
    for module, name in zip(modules, names, strict=True):
        try:
            importlib.import_module(module)
        except Exception as error:
            missing = importlib.util.find_spec(module) is None
            failures.append(f"{name} {'is not installed' if missing else f'cannot be loaded ({error})'}")
    if failures:
        return layers, "transformers' torch code", "; ".join(failures)
    if torch.cuda.is_available():
        return layers, names[0], f"{' and '.join(names)} can be loaded"
    return layers, "none works", f"{names[0]} is installed and needs CUDA: uninstall it to run on a CPU"


def _hub_kernels(cuda: bool) -> tuple[str, str]:
    """Whether kernels of the Hub can be had, and which lie here already."""
    from huggingface_hub.constants import HF_HUB_CACHE

    from hylora.hub_kernels import check_hub_kernels

    try:
        check_hub_kernels("cuda" if cuda else "cpu")
    except ValueError as error:
        return "refused", str(error)
    cache = Path(os.environ.get("KERNELS_CACHE") or HF_HUB_CACHE)
    cached = [name for name in _HUB if any((cache / f"{kind}--{name.replace('/', '--')}").is_dir() for kind in _KINDS)]
    return "kernels of the Hub", f"in the cache: {', '.join(cached) or 'none; the first use downloads them'}"
