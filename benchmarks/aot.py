# SPDX-License-Identifier: Apache-2.0
"""Compile every Triton kernel with its shipped launches for GPUs that need not be there, and record what it takes.

Registers, the stack (where spilled registers go) and shared memory are read off the machine code.
"""

from __future__ import annotations

import argparse
import json
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

# Before Triton is imported: its interpreter compiles nothing.
os.environ["TRITON_INTERPRET"] = "0"

import torch
from environment import describe
from suite.compiling import Resources, compile_calls, resources
from suite.markdown import table

from hylora_kernels.options import SpanOptions

# What one program may have of it, in bytes.
SHARED_MEMORY = {80: 163 << 10, 90: 227 << 10}
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class Case:
    """One kind of call: for an architecture, a head dimension, a dtype and a kind of reader.

    Attributes:
        arch: 80 or 90, ten times the compute capability.
        head_dim: D.
        dtype: a key of `DTYPES`.
        readers: "shared" (a choice per chunk, blocks of 32, one query head per KV head) or "tokens" (a choice per
            token by two vectors of blocks of 16, four query heads).
    """

    arch: int
    head_dim: int
    dtype: str
    readers: str


def compile_case(case: Case) -> list[Resources]:
    """Compile all kernels that a training step and a decoding step of this kind launch."""
    if case.readers == "shared":
        heads, length, options = (2, 2), 512, SpanOptions(chunk_size=256)
    else:
        heads, length = (8, 2), 300
        options = SpanOptions(16, 16, 256, selection="token", summary="mean_std")
    compiled = compile_calls(case.arch, heads, [length], [512], case.head_dim, DTYPES[case.dtype], options)
    return sorted(map(resources, compiled), key=lambda r: (r.kernel, r.num_warps))


def too_much(case: Case, kernel: Resources) -> str | None:
    """What is wrong with a kernel: spills at head dimensions up to 128, or more shared memory than there is."""
    if kernel.stack and case.head_dim <= 128:
        return f"{kernel.kernel} spills {kernel.stack} bytes per thread in {case}"
    if kernel.shared > SHARED_MEMORY[case.arch]:
        return f"{kernel.kernel} takes {kernel.shared} bytes of shared memory in {case}"
    return None


def all_cases() -> list[Case]:
    """Every supported head dimension in bfloat16, and the other dtypes at two of them."""
    sizes = [("bfloat16", d) for d in (64, 80, 96, 128, 160, 256)]
    sizes += [(dtype, d) for dtype in ("float16", "float32") for d in (64, 128)]
    return [
        Case(arch, head_dim, dtype, readers)
        for arch in (80, 90)
        for dtype, head_dim in sizes
        for readers in ("shared", "tokens")
    ]


def markdown(report: dict) -> str:
    """The results as tables, one for each architecture and kind of reader."""
    lines = [
        "# What the kernels take",
        "",
        "Registers per thread / bytes of stack per thread (where spills go) / KiB of shared memory, of each kernel",
        "with the launch it ships with, compiled ahead of time; nothing was run. Shared: a choice per chunk, blocks",
        "of 32, one query head per KV head. Tokens: a choice per token by two vectors, blocks of 16, four query heads",
        "per KV head.",
    ]
    tables: dict[tuple, dict] = {}
    for entry in report["results"]:
        case, column = entry["case"], f"{entry['case']['dtype']} {entry['case']['head_dim']}"
        rows = tables.setdefault((case["arch"], case["readers"]), {})
        for r in entry["kernels"]:
            rows.setdefault(r["kernel"], {})[column] = f"{r['registers']} / {r['stack']} / {r['shared'] / 1024:.0f}"
    for (arch, readers), rows in tables.items():
        columns = list(dict.fromkeys(column for row in rows.values() for column in row))
        cells = ([f"`{name}`", *(row.get(column, "") for column in columns)] for name, row in sorted(rows.items()))
        lines += ["", f"## sm_{arch}, {readers}", "", table(("kernel", *columns), cells)]
    facts = [f"- {key}: {value}" for key, value in report["environment"].items()]
    return "\n".join([*lines, "", *facts, ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", type=int, nargs="+", choices=list(SHARED_MEMORY), default=list(SHARED_MEMORY))
    parser.add_argument("--head-dim", type=int, nargs="+", help="default: all")
    parser.add_argument("--dtype", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--output", type=Path, help="folder for aot.json and aot.md")
    args = parser.parse_args()
    cases = [
        case
        for case in all_cases()
        if case.arch in args.arch and case.dtype in args.dtype and case.head_dim in (args.head_dim or [case.head_dim])
    ]
    report = {"environment": describe(), "results": []}
    wrong = []
    with ProcessPoolExecutor(args.workers, mp_context=get_context("spawn")) as pool:
        for case, kernels in zip(cases, pool.map(compile_case, cases), strict=True):
            report["results"].append({"case": asdict(case), "kernels": [asdict(kernel) for kernel in kernels]})
            wrong += filter(None, (too_much(case, kernel) for kernel in kernels))
            print(f"{case}: {len(kernels)} kernels", flush=True)
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
        (args.output / "aot.json").write_text(json.dumps(report, indent=1) + "\n")
        (args.output / "aot.md").write_text(markdown(report))
    if wrong:
        raise SystemExit("\n".join(wrong))


if __name__ == "__main__":
    main()
