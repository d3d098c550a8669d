# SPDX-License-Identifier: Apache-2.0
"""What is possible: the products and bytes that each target of the GPU benchmark leaves no way around.

Rates are assumed, or those that a run measured. Prints the tables of docs/reference/roofline.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from suite.costs import Pairs, chunk_pairs, full_pairs, operations, span_pairs, traffic, window_pairs
from suite.markdown import table
from suite.methods import Options
from suite.targets import TARGETS

OPTIONS = Options(head_dim=128)
HEADS = ((30, 30), (32, 8))
LENGTHS = (16384, 32768, 65536, 131072)
_ITEM = 2  # bytes of a number in half precision
_SUMMARY_ITEMS = {"float32": 4, "bfloat16": 2}
# Matrix products of the backward pass over each pair: those that are needed; and those that are computed by kernels of
# which one gives the queries' gradient and another those of keys and values, each from scores of its own.
_NEEDED, _COMPUTED = 5, 7
# Kernels of a decode step, and seconds that each takes at the least when replayed from a graph, assumed.
_STEP_KERNELS, _LEAST = 4, 2.5e-6


@dataclass(frozen=True)
class Rates:
    """Of a device: floating-point operations of a bfloat16 product and bytes, both per second."""

    flops: float
    bytes: float


ASSUMED = {"H200": Rates(780e12, 4.2e12), "H100": Rates(780e12, 2.9e12)}
_span, _chunks, _window = span_pairs(OPTIONS), chunk_pairs(OPTIONS.chunk_size), window_pairs(OPTIONS.window)


def bound(what: str, pass_name: str, length: int) -> float:
    """The bound of a target."""
    return next(t for t in TARGETS if t.what == what and pass_name in t.passes).bounds[length]


def product_seconds(pass_name: str, heads: tuple[int, int], rates: Rates, pairs: Pairs, length: int) -> float:
    """Of a pass's matrix products."""
    return operations(pairs(length), heads[0], OPTIONS.head_dim, pass_name) / rates.flops


def byte_seconds(heads: tuple[int, int], rates: Rates, length: int) -> float:
    """Of a forward pass's inputs and outputs."""
    return traffic(*heads, length, OPTIONS.head_dim, _ITEM, "forward") / rates.bytes


def choice_seconds(heads: tuple[int, int], rates: Rates, length: int) -> float:
    """Of the choice of blocks, which reads queries, keys and values once; its products are few."""
    return (heads[0] + 2 * heads[1]) * length * OPTIONS.head_dim * _ITEM / rates.bytes


def over_chunks(shares: dict[str, float], heads: tuple[int, int], rates: Rates, length: int) -> float:
    """The least that SE-Attn takes over chunks alone, where both reach these shares of the matmul rate in passes."""
    own, all_pairs = (
        sum(product_seconds(name, heads, rates, pairs, length) / share for name, share in shares.items())
        for pairs in (_chunks, _span)
    )
    return (all_pairs + choice_seconds(heads, rates, length)) / own


def kernel_share(share: float, heads: tuple[int, int], rates: Rates, length: int) -> float:
    """The share that the attention's own kernel must reach for the forward pass, with the choice, to reach one."""
    products = product_seconds("forward", heads, rates, _span, length)
    return products / (products / share - choice_seconds(heads, rates, length))


def share_for(ratio: float, heads: tuple[int, int], rates: Rates, length: int) -> float:
    """The largest share of the matmul rate at which that ratio can be reached in the forward pass."""
    slack = ratio - _span(length) / _chunks(length)
    whole = product_seconds("forward", heads, rates, _chunks, length)
    return slack * whole / choice_seconds(heads, rates, length)


def decode_bytes(heads: tuple[int, int], length: int, summary_item: int) -> tuple[int, int]:
    """Bytes of a decode step half-way through a chunk: full attention's, and SE-Attn's with such summaries."""
    row = 2 * heads[1] * OPTIONS.head_dim * _ITEM
    tokens = length - OPTIONS.chunk_size // 2
    read = OPTIONS.chunk_size // 2 + OPTIONS.top_k * OPTIONS.block_size
    return tokens * row, read * row + tokens // OPTIONS.block_size * heads[1] * OPTIONS.head_dim * summary_item


def tables(devices: dict[str, Rates]) -> Iterator[str]:
    """All tables, each under its heading."""
    places = [(f"{name}, {heads[0]}/{heads[1]}", heads, rates) for name, rates in devices.items() for heads in HEADS]

    yield "### Pairs of a query and a key, for each head"
    millions = {"full": full_pairs, "SE-Attn": _span, "NoMem": _chunks, "sliding window": _window}
    yield _table(
        *((f"{name}, millions", ",.1f", lambda n, p=pairs: p(n) / 1e6) for name, pairs in millions.items()),
        ("full / SE-Attn", ".2f", lambda n: full_pairs(n) / _span(n)),
        ("SE-Attn / NoMem", ".3f", lambda n: _span(n) / _chunks(n)),
        ("SE-Attn / sliding window", ".3f", lambda n: _span(n) / _window(n)),
    )

    yield "### Rates that ratios ask for"

    def of(what: str) -> Callable[[int], float]:
        return lambda n: bound(what, "forward", n) * _span(n) / full_pairs(n)

    yield _table(
        ("SE-Attn's rate / flash's, at least", ".2f", of("SDPA flash / SE-Attn")),
        ("SE-Attn's rate / the fastest's, at least", ".2f", of("fastest full attention / SE-Attn")),
        (
            "SE-Attn's rate / the window's, at least",
            ".2f",
            lambda n: _span(n) / _window(n) / bound("SE-Attn / sliding window", "forward", n),
        ),
        (
            "share of the matmul rate that the backward's kernels compute at, at least",
            ".2f",
            lambda n: bound("share of the matmul rate", "backward", n) * _COMPUTED / _NEEDED,
        ),
    )

    yield "### Milliseconds of SE-Attn's forward pass, at the least"
    yield _table(
        *(
            (f"{name}: {what}", ".2f", lambda n, f=seconds: 1e3 * f(n))
            for name, *at in places
            for what, seconds in (
                ("products", partial(product_seconds, "forward", *at, _span)),
                ("inputs and outputs", partial(byte_seconds, *at)),
                ("the choice's bytes", partial(choice_seconds, *at)),
            )
        )
    )

    shares = {name: bound("share of the matmul rate", name, LENGTHS[-1]) for name in ("forward", "backward")}
    forward, backward = shares.values()
    most = bound("SE-Attn / NoMem", "forward", LENGTHS[-1])

    yield f"### Share of the attention's kernel, for {forward:g} of the whole forward pass"
    yield _table(*((name, ".2f", partial(kernel_share, forward, *at)) for name, *at in places))

    yield "### SE-Attn / NoMem, at the least"
    yield _table(
        *(
            (f"{name}: {what}", ".2f", value)
            for name, *at in places
            for what, value in (
                (f"forward at {forward:g} of the matmul rate", partial(over_chunks, {"forward": forward}, *at)),
                (f"forward and backward at {forward:g} and {backward:g}", partial(over_chunks, shares, *at)),
                (f"share up to which the forward pass can hold {most:g}", partial(share_for, most, *at)),
            )
        )
    )

    yield "### Decode step at 128k"
    names = ("MB, full / SE-Attn", "ratio", "full [us]", "SE-Attn's bytes [us]", "ratio with launches")
    yield table(
        ("", *names),
        (
            _decode_row(f"{name}, {dtype}", heads, rates, item)
            for name, heads, rates in places
            for dtype, item in _SUMMARY_ITEMS.items()
        ),
    )


def _table(*rows: tuple[str, str, Callable[[int], float]]) -> str:
    """A column for each length; a target that has no bound at one has nothing there."""

    def cell(form: str, value: Callable[[int], float], length: int) -> str:
        try:
            return format(value(length), form)
        except KeyError:
            return ""

    header = ("", *(f"{length // 1024}k" for length in LENGTHS))
    return table(header, ((name, *(cell(form, value, length) for length in LENGTHS)) for name, form, value in rows))


def _decode_row(name: str, heads: tuple[int, int], rates: Rates, summary_item: int) -> tuple[str, ...]:
    full, own = decode_bytes(heads, LENGTHS[-1], summary_item)
    seconds, ours = full / rates.bytes, own / rates.bytes
    whole = ours + _STEP_KERNELS * _LEAST
    times = (f"{1e6 * seconds:.0f}", f"{1e6 * ours:.1f}", f"{seconds / whole:.1f}")
    return name, f"{full / 1e6:,.0f} / {own / 1e6:.0f}", f"{full / own:.1f}", *times


def measured(path: Path) -> dict[str, Rates]:
    """The rates that a run measured."""
    data: dict[str, Any] = json.loads(path.read_text())
    matmul, copy = data["ceilings"]["matmul"], data["ceilings"]["copy"]
    return {data["environment"]["gpu"]: Rates(matmul["flops_per_second"], copy["bytes_per_second"])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="?", help="gpu.json of a run, whose rates are taken")
    arguments = parser.parse_args()
    print("\n\n".join(tables(measured(arguments.results) if arguments.results else ASSUMED)))


if __name__ == "__main__":
    main()
