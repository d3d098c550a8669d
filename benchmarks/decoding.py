# SPDX-License-Identifier: Apache-2.0
"""Time the attention of a decoding step on this machine, against full attention over the whole KV cache.

The step is first checked against the reference. Then the methods take turns, and ratios are formed within a round.
Full attention is called twice: as models call it, and with the query heads that share keys as the rows of one problem,
which no model does and is faster. Keys and values lie there once, for all methods.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import torch
from attention import CLOCKS
from environment import describe
from suite.markdown import table
from suite.timing import Clock, take_turns
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from hylora_kernels import span_attention
from hylora_kernels.decode import DecodeState, span_decode

RULE = {"selection": "token", "summary": "mean_std", "chunk_size": 2048}
METHODS = {
    "S=16, k=16": {**RULE, "block_size": 16, "top_k": 16},
    "S=32, k=8": {**RULE, "block_size": 32, "top_k": 8},
}
FULL = {"full": "full", "grouped": "full, grouped"}
# Room for the tokens that timed steps append.
ROOM = 64


def check(options: dict) -> float:
    """The largest error of steps around a chunk's start against the reference's rows in float64.

    Raises:
        SystemExit: it is above the tolerance of float32.
    """
    generator = torch.Generator().manual_seed(0)
    options = {**options, "chunk_size": 256}
    tokens = [torch.randn(2, heads, 520, 32, generator=generator) for heads in (4, 2, 2)]
    expected = span_attention(*(x.double() for x in tokens), **options, backend="reference")[:, :, 505:]
    state = DecodeState.from_prefill(*(x[:, :, :505] for x in tokens), **options)
    steps = (span_decode(*(x[:, :, at : at + 1] for x in tokens), state) for at in range(505, 520))
    error = float((torch.cat(list(steps), dim=2) - expected).abs().max())
    if error > 2e-5:
        raise SystemExit(f"decoding is wrong by {error:.1e} with {options}; nothing was timed")
    return error


def full(query: Tensor, state: DecodeState, grouped: bool) -> Tensor:
    """Full attention of the newest token over all that the state's cache holds."""
    key, value = (x[:, :, : state.held] for x in (state.key_cache, state.value_cache))
    if not grouped:
        return scaled_dot_product_attention(query, key, value, enable_gqa=True)
    return scaled_dot_product_attention(query.squeeze(2).unflatten(1, (key.shape[1], -1)), key, value)


@torch.no_grad()
def measure(batch: int, heads: int, kv_heads: int, head_dim: int, length: int, rounds: int, clock: Clock) -> dict:
    """Seconds of every method in every round, ratios and bytes."""
    generator = torch.Generator().manual_seed(length)
    # Half-way through a chunk: at its start there would be next to nothing of it to read.
    held = length - RULE["chunk_size"] // 2
    key = torch.randn(batch, kv_heads, held, head_dim, generator=generator)
    query = key[:, :1].expand(-1, heads, -1, -1)  # of which nothing but the shape matters
    states = {}
    for name, options in METHODS.items():
        states[name] = state = DecodeState.from_prefill(query, key, key, capacity=length + ROOM, **options)
        first = next(iter(states.values()))
        state.key_cache, state.value_cache = first.key_cache, first.value_cache
    del key, query
    token = [torch.randn(batch, count, 1, head_dim, generator=generator) for count in (heads, kv_heads, kv_heads)]
    runs: dict[str, Callable] = {name: partial(span_decode, *token, state) for name, state in states.items()}
    runs |= {name: partial(full, token[0], first, name == "grouped") for name in FULL}
    place = {"batch": batch, "heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, "length": length}
    points = take_turns(runs.__getitem__, runs, place, clock, torch.device("cpu"), rounds)
    sizes = {name: state.bytes_held()._asdict() for name, state in states.items()}
    return {**place, "points": [point.to_dict() for point in points], "bytes": sizes}


def markdown(results: list[dict]) -> str:
    """The results as a table: medians, and ratios within a round."""
    header = ["batch", "heads", "tokens", *(f"{label} [ms]" for label in FULL.values())]
    for name in METHODS:
        header += [f"{name} [ms]", *(f"{label} / step" for label in FULL.values()), "rest / KV"]
    rows = []
    for result in results:
        seconds = {point["contender"]: point["seconds"] for point in result["points"]}
        row = [result["batch"], f"{result['heads']} / {result['kv_heads']}", result["length"]]
        row += [f"{1e3 * median(seconds[name]):.0f}" for name in FULL]
        for name in METHODS:
            row.append(f"{1e3 * median(seconds[name]):.1f}")
            for slow in FULL:
                row.append(f"{median(a / b for a, b in zip(seconds[slow], seconds[name], strict=True)):.1f}")
            size = result["bytes"][name]
            row.append(f"{100 * size['rest'] / size['cache']:.1f} %")
        rows.append(row)
    return table(header, rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[8192, 16384, 32768, 65536, 131072])
    parser.add_argument("--shapes", nargs="+", default=["1x32x8", "8x8x2"], help="batch x query heads x KV heads")
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="cpu: process time, for noisy machines")
    parser.add_argument("--output", type=Path, help="the JSON file to write")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    errors = {name: check(options) for name, options in METHODS.items()}
    settings = {"dtype": "float32", "clock": args.clock, "rounds": args.rounds, "methods": METHODS, "errors": errors}
    report = {"environment": describe(), "settings": settings, "results": []}
    for shape in args.shapes:
        for length in args.lengths:
            sizes = (*map(int, shape.split("x")), args.head_dim, length)
            report["results"].append(measure(*sizes, args.rounds, CLOCKS[args.clock]))
            if args.output:  # after every line: a run that is cut short leaves what it has
                args.output.write_text(json.dumps(report, indent=1) + "\n")
    print(markdown(report["results"]))


if __name__ == "__main__":
    main()
