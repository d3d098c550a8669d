# SPDX-License-Identifier: Apache-2.0
"""What the kernels are to reach on one H200, beside what a run measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

FULL = ("full", "cudnn", "fa2", "fa3")
_LONG = (32768, 65536, 131072)


class Target(NamedTuple):
    """One figure: the passes it is asked of, its bounds by length, and which of `_QUANTITIES` it is."""

    what: str
    passes: tuple[str, ...]
    bounds: dict[int, float]
    at_least: bool
    quantity: str


_BOTH = ("forward", "forward+backward")
TARGETS = (
    Target("SDPA flash / SE-Attn", _BOTH, {32768: 12, 65536: 22, 131072: 45}, True, "over flash"),
    Target("fastest full attention / SE-Attn", _BOTH, {32768: 7, 65536: 14, 131072: 28}, True, "over fastest"),
    Target("SDPA flash / SE-Attn recall", ("forward+backward",), {65536: 8, 131072: 16}, True, "recall over flash"),
    Target("SE-Attn / sliding window", _BOTH, dict.fromkeys((16384, *_LONG), 0.5), False, "of window"),
    Target("SE-Attn / NoMem", _BOTH, dict.fromkeys((16384, *_LONG), 1.3), False, "of NoMem"),
    Target("share of the matmul rate", ("forward",), dict.fromkeys(_LONG, 0.55), True, "matmul"),
    Target("share of the matmul rate", ("backward",), dict.fromkeys(_LONG, 0.45), True, "matmul"),
    Target("peak memory / that of SDPA flash", ("forward+backward",), dict.fromkeys(_LONG, 1.2), False, "memory"),
    Target("full / SE-Attn, attention of a decode step", ("decode",), {131072: 8}, True, "decode"),
)


class Verdict(NamedTuple):
    """A target at one point, and what was measured there."""

    what: str
    heads: str
    pass_name: str
    length: int
    bound: str
    measured: float
    met: bool


def verdicts(data: dict[str, Any]) -> Iterator[Verdict]:
    """Every target at every point that was measured."""
    points = by_place(data.get("operator", {}).get("points", []))
    steps = by_place(data.get("decode", {}).get("points", []))
    for target in TARGETS:
        places = steps if target.quantity == "decode" else points
        for (heads, pass_name, length), methods in places.items():
            if pass_name not in target.passes or length not in target.bounds:
                continue
            measured = _QUANTITIES[target.quantity](methods)
            if measured is not None:
                bound = target.bounds[length]
                met = measured >= bound if target.at_least else measured <= bound
                sign = "at least" if target.at_least else "at most"
                yield Verdict(target.what, heads, pass_name, length, f"{sign} {bound:g}", measured, met)


def by_place(points: list[dict]) -> dict[tuple[str, str, int], dict[str, dict]]:
    """Points that ran by heads, pass and length, and there by method."""
    places: dict[tuple[str, str, int], dict[str, dict]] = {}
    for point in points:
        if point["error"] is None:
            place = ("/".join(map(str, point["heads"])), point["pass"], point["length"])
            places.setdefault(place, {}).setdefault(point["contender"], point)
    return places


def _ratio(slow: tuple[str, ...], fast: str):
    """The shortest time of some methods over that of another."""

    def of(methods: dict[str, dict]) -> float | None:
        times = [methods[name]["time"]["median"] for name in slow if name in methods]
        return min(times) / methods[fast]["time"]["median"] if times and fast in methods else None

    return of


def _memory(methods: dict[str, dict]) -> float | None:
    """Of the inputs and all that a pass takes beyond them."""
    if not {"se", "full"} <= set(methods):
        return None
    own, full = (methods[name]["peak_bytes"] + methods[name]["input_bytes"] for name in ("se", "full"))
    return own / full


_QUANTITIES = {
    "over flash": _ratio(("full",), "se"),
    "over fastest": _ratio(FULL, "se"),
    "recall over flash": _ratio(("full",), "se_recall"),
    "of window": _ratio(("se",), "sw"),
    "of NoMem": _ratio(("se",), "nomem"),
    "matmul": lambda methods: methods.get("se", {}).get("matmul_fraction"),
    "memory": _memory,
    "decode": _ratio(FULL, "se"),
}
