# SPDX-License-Identifier: Apache-2.0
"""Time span-expanded attention against its rivals on this machine.

The methods are first checked against the reference backend, output and gradients; a red check stops the run. Then they
take turns: one round times each of them once, and ratios are formed within a round, so that a machine that slows down
slows all of them. Reported are medians over rounds, with the smallest and largest ratio.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from environment import describe
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from hylora_kernels import shifted_sparse_attention, sliding_window_attention, span_attention

RATIOS = [("full", "se"), ("sw", "se"), ("s2", "se"), ("se", "nomem")]
LABELS = {"full": "Full", "se": "SE-Attn", "nomem": "NoMem", "sw": "SW", "s2": "S2"}
# Relative error (Frobenius norm) at which a method counts as wrong.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}


def wall() -> float:
    """Seconds, once the device has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


CLOCKS = {"wall": wall, "cpu": time.process_time}


@dataclass(frozen=True)
class Options:
    """What is timed."""

    block_size: int = 32
    top_k: int = 8
    chunk_size: int = 2048
    window: int = 4096
    group: float = 0.25
    head_dim: int = 64
    device: str = "cpu"


def full_attention(query: Tensor, key: Tensor, value: Tensor, backend: str) -> Tensor:
    """Full causal attention by torch itself, or a window over everything for the reference."""
    if backend == "reference":
        return sliding_window_attention(query, key, value, window=query.shape[2], backend=backend)
    return scaled_dot_product_attention(query, key, value, is_causal=True)


def methods(options: Options, retrieval: str = "relevance") -> dict:
    """Each method as a function of query, key, value and backend."""
    span = {"block_size": options.block_size, "top_k": options.top_k, "chunk_size": options.chunk_size}
    return {
        "full": full_attention,
        "se": lambda q, k, v, backend: span_attention(q, k, v, **span, retrieval=retrieval, backend=backend),
        "nomem": lambda q, k, v, backend: span_attention(q, k, v, **span, retrieval="none", backend=backend),
        "sw": lambda q, k, v, backend: sliding_window_attention(q, k, v, window=options.window, backend=backend),
        "s2": lambda q, k, v, backend: shifted_sparse_attention(q, k, v, group=options.group, backend=backend),
    }


def inputs(heads: int, length: int, options: Options, dtype: torch.dtype) -> list[Tensor]:
    """Query, key, value and output gradient, standard normal, batch of one."""
    generator = torch.Generator().manual_seed(0)
    shape = (1, heads, length, options.head_dim)
    return [torch.randn(shape, generator=generator).to(options.device, dtype) for _ in range(4)]


def forward_backward(method, query, key, value, grad, backend="torch") -> list[Tensor]:
    """Output and gradients."""
    leaves = [x.detach().requires_grad_() for x in (query, key, value)]
    output = method(*leaves, backend)
    return [output.detach(), *torch.autograd.grad(output, leaves, grad)]


@torch.no_grad()
def forward(method, query, key, value, grad, backend="torch") -> Tensor:
    """Output alone."""
    return method(query, key, value, backend)


PASSES = {"forward": forward, "forward+backward": forward_backward}


def check(options: Options, dtypes: list[torch.dtype]) -> list[dict]:
    """Compare every method with the reference in float64, at the options timed and an odd length.

    Raises:
        SystemExit: an error is above its tolerance.
    """
    length = 2 * options.chunk_size + 37
    report = []
    for dtype in [torch.float64, *dtypes]:
        # In float64 the choice of blocks is checked too; below, near ties may fall otherwise, so it is fixed.
        table = methods(options, "relevance" if dtype == torch.float64 else "random")
        tensors = inputs(2, length, options, dtype)
        for name, method in table.items():
            expected = forward_backward(method, *(x.double() for x in tensors), backend="reference")
            actual = forward_backward(method, *tensors)
            errors = [float((a.double() - e).norm() / e.norm()) for a, e in zip(actual, expected, strict=True)]
            report.append({"method": name, "dtype": _name(dtype), "length": length, "error": max(errors)})
            print(f"check {LABELS[name]:8} {_name(dtype):9} relative error {max(errors):.1e}", flush=True)
            if not max(errors) <= TOLERANCE[dtype]:
                raise SystemExit(f"{LABELS[name]} is wrong in {_name(dtype)}; nothing was timed")
    return report


def measure(options: Options, length: int, heads: int, dtype: torch.dtype, pass_name: str, rounds: int, clock) -> dict:
    """Seconds of every method in every round, after one round to warm up."""
    run = PASSES[pass_name]
    table = methods(options)
    tensors = inputs(heads, length, options, dtype)
    seconds = {name: [] for name in table}
    for round_number in range(-1, rounds):
        for name, method in table.items():
            start = clock()
            run(method, *tensors)
            if round_number >= 0:
                seconds[name].append(clock() - start)
    ratios = {}
    for slow, fast in RATIOS:
        values = [a / b for a, b in zip(seconds[slow], seconds[fast], strict=True)]
        ratios[f"{slow}/{fast}"] = [statistics.median(values), min(values), max(values)]
    return {
        "dtype": _name(dtype),
        "pass": pass_name,
        "length": length,
        "heads": heads,
        "seconds": seconds,
        "ratios": ratios,
    }


def markdown(report: dict) -> str:
    """The results as a table."""
    ratio_names = [f"{LABELS[slow]} / {LABELS[fast]}" for slow, fast in RATIOS]
    method_names = [f"{label} [ms]" for label in LABELS.values()]
    header = ["dtype", "pass", "length", "heads", *method_names, *ratio_names]
    lines = [_row(header), _row(["---"] * len(header))]
    for result in report["results"]:
        times = [f"{1e3 * statistics.median(result['seconds'][name]):.0f}" for name in LABELS]
        ratios = ["{:.2f} ({:.2f}-{:.2f})".format(*result["ratios"][f"{slow}/{fast}"]) for slow, fast in RATIOS]
        lines.append(_row([result["dtype"], result["pass"], result["length"], result["heads"], *times, *ratios]))
    facts = "\n".join(f"- {key}: {value}" for key, value in {**report["environment"], **report["settings"]}.items())
    return "# Attention on this machine\n\nMedian over rounds; ratios within a round, with (smallest-largest).\n\n" + (
        "\n".join(lines) + "\n\n" + facts + "\n"
    )


def _row(cells) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 4096, 8192, 16384, 32768])
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "bfloat16"], default=["float32", "bfloat16"])
    parser.add_argument("--passes", nargs="+", choices=list(PASSES), default=list(PASSES))
    parser.add_argument("--heads", type=int, help="default: 8 up to 4k tokens, then fewer, down to 2 from 16k on")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="cpu: process time, for noisy machines")
    for field, default in vars(Options()).items():
        parser.add_argument(f"--{field.replace('_', '-')}", type=type(default), default=default)
    parser.add_argument("--quick", action="store_true", help="a few seconds at small sizes: does it run, is it right?")
    parser.add_argument("--output", type=Path, help="folder for attention.json and attention.md")
    return parser.parse_args()


def main():
    args = parse_arguments()
    options = Options(**{field: getattr(args, field) for field in vars(Options())})
    if args.quick:
        args.lengths, args.rounds = [256, 512], 2
        options = replace(options, block_size=16, top_k=2, chunk_size=128, window=128)
    torch.set_num_threads(args.threads)
    dtypes = [getattr(torch, name) for name in args.dtypes]
    report = {
        "environment": describe(),
        "settings": {"clock": args.clock, "rounds": args.rounds, **vars(options)},
        "checks": check(options, dtypes),
        "results": [],
    }
    for dtype in dtypes:
        for pass_name in args.passes:
            for length in args.lengths:
                heads = args.heads or max(2, min(8, 32768 // length))
                result = measure(options, length, heads, dtype, pass_name, args.rounds, CLOCKS[args.clock])
                report["results"].append(result)
                medians = {name: f"{values[0]:.2f}" for name, values in result["ratios"].items()}
                print(f"{result['dtype']} {pass_name} {length} tokens, {heads} heads: {medians}", flush=True)
                if args.output:  # after every line: a long run that is cut short leaves what it has
                    args.output.mkdir(parents=True, exist_ok=True)
                    (args.output / "attention.json").write_text(json.dumps(report, indent=1))
                    (args.output / "attention.md").write_text(markdown(report))
    print(markdown(report))


if __name__ == "__main__":
    main()
