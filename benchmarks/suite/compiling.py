# SPDX-License-Identifier: Apache-2.0
"""Compile Triton's kernels without running them: ahead of time, in many processes, for a GPU that need not be there.

The kernels' own Python callers run on CPU tensors; Triton is told that the device is the target and compiles each
launch with the argument types and the specialisation of a real call. What it makes lies in Triton's cache, where real
calls in other processes find it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

if __name__ == "__main__":
    os.environ["TRITON_INTERPRET"] = "0"  # read when triton is imported: the interpreter compiles nothing

import torch
import triton
from triton.backends.compiler import GPUTarget

from hylora_kernels import SequenceLayout
from hylora_kernels.decode import DecodeState
from hylora_kernels.options import SpanOptions
from hylora_kernels.saved import Saved
from hylora_kernels.scoring import Scoring
from hylora_kernels.triton_backend import launch, own_chunks, select_blocks, span_backward, span_decode, span_forward
from hylora_kernels.triton_backend.launch import capability, forced

from .candidates import CANDIDATES
from .results import Results
from .sizes import Sizes, sizes_for
from .timing import Budget

_ROOT = Path(__file__).parents[2]
_PROCESSES = 16


class CompilingFailed(Exception):
    """A process that was to compile failed: the last line of what it said, which names the error, and then all."""


@dataclass(frozen=True)
class Resources:
    """What a compiled kernel takes: registers per thread, bytes of stack per thread, bytes of shared memory."""

    kernel: str
    num_warps: int
    num_stages: int
    registers: int
    stack: int
    shared: int


class _Driver:
    """As much of a GPU's driver as compiling asks for."""

    def __init__(self, arch: int):
        self.target = GPUTarget("cuda", arch, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> str:
        return f"sm_{self.target.arch}"  # what is compiled is kept by device

    def get_current_stream(self, device: str) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


@contextmanager
def compiling_for(arch: int) -> Iterator[list]:
    """Within, launches compile for the architecture and run nothing; gives the list of what was compiled.

    Triton keeps the target as its device: the process is good for nothing but compiling afterwards.
    """
    compiled = []
    run = triton.JITFunction.run

    def compile_only(function, *args, warmup, **options):
        compiled.append(run(function, *args, warmup=True, **options))
        return compiled[-1]

    version = divmod(arch, 10)
    triton.runtime.driver.set_active(_Driver(arch))
    with (
        mock.patch.object(triton.JITFunction, "run", compile_only),
        mock.patch.object(launch, "capability", lambda device: version),
        mock.patch("torch.empty", _empty(torch.empty)),
    ):
        yield compiled


def _empty(empty: Callable) -> Callable:
    """`torch.empty`, but of whole numbers zeros: what was not computed is not to be read as an index."""

    def allocate(*shape, dtype: torch.dtype | None = None, **options) -> torch.Tensor:
        fresh = empty(*shape, dtype=dtype, **options)
        return fresh if fresh.is_floating_point() else fresh.zero_()

    return allocate


def resources(kernel: Any) -> Resources:
    """Read off the machine code of a compiled kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        tool = triton.knobs.nvidia.cuobjdump.path
        usage = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = {name: int(number) for name, number in re.findall(r"\b(REG|STACK|SHARED):(\d+)", usage)}
    about = kernel.metadata
    sizes = (found["REG"], found["STACK"], about.shared)
    return Resources(about.name.strip("_"), about.num_warps, about.num_stages, *sizes)


def compile_calls(
    arch: int,
    heads: tuple[int, int],
    lengths: Sequence[int],
    capacities: Sequence[int],
    head_dim: int,
    dtype: torch.dtype,
    options: SpanOptions,
    softcap: float | None = None,
) -> list[Any]:
    """Compile all kernels that training steps and decoding steps of this kind launch.

    Args:
        arch: ten times the compute capability.
        heads: query heads and KV heads.
        lengths: tokens. The choice of blocks is launched differently by length and compiled for all; the rest is
            compiled for the first, of more chunks than a run of readers has.
        capacities: tokens that a decoding step's cache can hold, by which it is launched differently.
        head_dim: D.
        dtype: of queries, keys and values.
        options: of the attention.
        softcap: bound of the scores.

    Returns:
        What Triton compiled, once each.
    """

    def tensors(length: int) -> list[torch.Tensor]:
        shapes = ((1, length, count, head_dim) for count in (heads[0], *2 * heads[1:], heads[0]))
        return [torch.empty(shape, dtype=dtype).transpose(1, 2) for shape in shapes]

    scoring = Scoring(0.1, softcap)
    with compiling_for(arch) as compiled:
        for number, length in enumerate(lengths):
            layout, (*inputs, grad) = SequenceLayout.dense(1, length), tensors(length)
            if number == 0:
                saved = Saved(*inputs, *span_forward(*inputs, layout, options, scoring))
                span_backward(grad, saved, layout, options, scoring)
            else:
                select_blocks(*inputs, layout, options, scoring.scale)
        for capacity in capacities:
            state = DecodeState(1, *heads, head_dim, capacity, options, dtype=dtype)
            span_decode(*tensors(1)[:3], SequenceLayout.dense(1, 1), state.tensors(), options, scoring)
    return list({kernel.hash: kernel for kernel in compiled}.values())


@contextmanager
def own_chunks_given() -> Iterator[None]:
    """Within, own chunks are computed by a library, which for compiling need not compute anything."""
    library = own_chunks.Library(
        "cpu",
        lambda query, *_: (torch.empty_like(query), torch.empty(query.shape[:3])),
        lambda grad, *inputs: tuple(map(torch.empty_like, inputs[:3])),
    )
    with mock.patch.dict(own_chunks.LIBRARIES, nothing=library), own_chunks.forced("nothing"):
        yield


def compile_all(sizes: Sizes, results: Results, budget: Budget) -> bool:
    """Compile what the other parts will launch, each kind of call in a process of its own, several at a time.

    Returns:
        Whether nothing failed; what is not done in time is left out, as is what fails.
    """
    section = results.start("compile", lines=[])
    began = time.monotonic()
    with ThreadPoolExecutor(min(_PROCESSES, os.cpu_count() or 1)) as pool:
        running = {pool.submit(_compile_in_process, job, sizes, budget): job for job in jobs(sizes)}
        for done in as_completed(running):
            job = running[done]
            with section.attempt(**job):
                kernels = done.result()
                if kernels is None:
                    section.leave_out("no time left", **job)
                else:
                    section.add("lines", {**job, "kernels": kernels})
                    print(*job.values(), f"{len(kernels)} kernels", flush=True)
    section["seconds"] = time.monotonic() - began
    results.save()
    return not section.failed


def jobs(sizes: Sizes) -> list[dict[str, Any]]:
    """What there is to compile: every kind of call that is checked or timed, and the launches that tuning tries."""
    major, minor = capability(torch.device(sizes.options.device))
    dtype = sizes.to_dict()["dtype"]
    pairs = {"float32": sizes.few_heads, dtype: dict.fromkeys((*sizes.heads, *sizes.few_heads))}
    calls = [
        {"arch": 10 * major + minor, "heads": heads, "selection": selection, "dtype": name}
        for name in reversed(pairs)
        for heads in pairs[name]
        for selection in ("chunk", "token")
    ]
    return [*calls, *({**calls[0], "candidate": number} for number in range(max(map(len, CANDIDATES.values()))))]


def lengths_of(sizes: Sizes) -> tuple[list[int], list[int]]:
    """The lengths at which blocks are chosen, and the capacities of the caches of decoding steps."""
    # The first is long enough for lists of readers to be cut, as those of longer sequences are.
    checked = [sizes.real_length, sizes.check_length]
    capacities = [sizes.decode_tokens(length)[1] for length in sizes.cache_lengths]
    return list(dict.fromkeys((*checked, sizes.kernel_length, *sizes.lengths))), [*checked, *capacities]


def _compile_in_process(job: dict[str, Any], sizes: Sizes, budget: Budget) -> list[dict[str, Any]] | None:
    """Run this file for one job; the resources of its kernels, or None where there is no time left.

    Raises:
        CompilingFailed: it ended otherwise than well.
    """
    dry = ["--dry-run"] if sizes.options.device == "cpu" else []
    command = [sys.executable, "-m", "suite.compiling", json.dumps(job), *dry]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    )
    try:
        said, complaints = process.communicate(timeout=max(0.1, budget.left))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return None
    if process.returncode:
        lines = [line.strip() for line in complaints.splitlines() if line.strip()]
        last = lines[-1] if lines else f"exit code {process.returncode}"
        raise CompilingFailed(f"{last}\n{complaints}")
    return [json.loads(line) for line in said.splitlines() if line.startswith("{")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", type=json.loads)
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes, for an H100 that is not there")
    arguments = parser.parse_args()
    sizes = sizes_for("cpu" if arguments.dry_run else "cuda", quick=arguments.dry_run)
    job, options = arguments.job, sizes.options
    span = SpanOptions(**(options.span if job["selection"] == "chunk" else options.recall))
    number = job.get("candidate")
    tried = {name: launches[number] for name, launches in CANDIDATES.items() if number in range(len(launches))}
    kind = (job["arch"], job["heads"], *lengths_of(sizes), options.head_dim, getattr(torch, job["dtype"]), span)
    with forced(**tried):
        compiled = compile_calls(*kind)
        if number is None and job["dtype"] != "float32":
            with own_chunks_given():
                compiled += compile_calls(*kind)
    for kernel in {kernel.hash: kernel for kernel in compiled}.values():
        print(json.dumps(asdict(resources(kernel))), flush=True)


if __name__ == "__main__":
    main()
