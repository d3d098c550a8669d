# SPDX-License-Identifier: Apache-2.0
"""Every kernel a time or two, for tools that watch a process: sanitizers and readers of hardware counters."""

from __future__ import annotations

import argparse

import torch

from hylora_kernels import span_attention

from .runs import output_and_gradients, random_tensors
from .sizes import sizes_for
from .stages import decode_step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real", action="store_true", help="at a length of the benchmarks, not at the smallest")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes on a CPU")
    arguments = parser.parse_args()
    sizes = sizes_for("cpu" if arguments.dry_run else "cuda", quick=arguments.dry_run)
    options = sizes.options
    # Such as are compiled ahead: under a tool nothing is to wait for the compiler.
    few = sizes.few_heads[-1], sizes.check_length
    heads, length = (sizes.heads[0], sizes.lengths[-1]) if arguments.real else few
    for chosen in (options.span, options.recall):
        tensors = random_tensors(*heads, length, options.head_dim, sizes.dtype, options.device)
        output_and_gradients(lambda *x, chosen=chosen: span_attention(*x, **chosen, backend="triton"), tensors)
        decode_step(*tensors[:3], chosen)()
    if options.device == "cuda":
        torch.cuda.synchronize()
    print("every kernel ran", flush=True)


if __name__ == "__main__":
    main()
