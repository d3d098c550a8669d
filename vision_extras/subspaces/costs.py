# SPDX-License-Identifier: Apache-2.0
"""What a subspace takes at each of its levels (section 3.5.3; tables 3.2 and 3.4 to 3.6)."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from vision_extras.metrics.flops import inference_flops, on_meta
from vision_extras.metrics.runtime import interleaved
from vision_extras.subspaces.compression import compressible
from vision_extras.subspaces.curve import level_name
from vision_extras.subspaces.subspace import CompressibleSubspace

__all__ = ["costs"]

_ROUNDS = 31


def costs(
    subspace: CompressibleSubspace, levels: Sequence[float], shape: tuple[int, int, int]
) -> dict[str, dict[str, float | None]]:
    """What one image's pass forward takes at some levels, and what the network's weights take.

    Weights are those of all convolutions and linear layers, compressed or not, without biases and norms, as in the
    thesis's tables; but table 3.6 has those that are not compressed in few bits too.

    Args:
        subspace: it stays where it is.
        levels: of its compression, from the weakest to the strongest.
        shape: of the image, [C, H, W].

    Returns:
        By `level_name`:

        - `sparsity`: share of the weights that are zero or gone.
        - `parameters`: numbers that are neither, with biases and norms.
        - `bytes`: of the weights that are neither: 4 each, or an eighth for each bit where they are compressed.
        - `stored_bytes`: of all tensors as `save_level` writes them.
        - `operations`: as `inference_flops` has them, two for what the thesis counts as one; for sparsities those of
          weights that are not zero, None where they cannot be counted.
        - For widths `seconds` on the CPU, the median of rounds in which the levels take turns, and `relative_seconds`,
          the median of the rounds' ratios to the first level.
    """
    kind = subspace.compression.name
    total = sum(weight.numel() for weight in _weights(subspace.network, ()).values())
    quantized = _weights(subspace.network, subspace.keep) if kind == "bits" else {}
    compressed = sum(weight.numel() for weight in quantized.values())
    found, narrower = {}, {}
    for level in levels:
        network = subspace.export(level).eval()
        weights = _weights(network, ())
        nonzero = {key: int(weight.count_nonzero()) for key, weight in weights.items()} if kind == "sparsity" else {}
        gone = sum(weights[key].numel() - count for key, count in nonzero.items())
        left = sum(weight.numel() for weight in weights.values()) - gone
        size = 4 * left - (4 - level / 8) * compressed if kind == "bits" else 4 * left
        shares = {key: count / weights[key].numel() for key, count in nonzero.items()}
        found[level_name(level)] = {
            "sparsity": (total - left) / total,
            "parameters": sum(parameter.numel() for parameter in network.parameters()) - gone,
            "bytes": size,
            "stored_bytes": subspace.level_size(level),
            "operations": _operations(network, shape, shares),
        }
        if kind == "width":
            narrower[level_name(level)] = network
    for name, times in _runtimes(narrower, shape).items():
        found[name] |= times
    return found


def _weights(network: nn.Module, keep: Sequence[str] | None) -> dict[str, Tensor]:
    return {name: layer.weight.detach() for name, layer in compressible(network, keep).items()}


def _operations(network: nn.Module, shape: tuple[int, int, int], shares: Mapping[str, float]) -> int | None:
    try:
        return inference_flops(on_meta(network), shape, shares)
    except ValueError:
        return None


def _runtimes(networks: Mapping[str, nn.Module], shape: tuple[int, int, int]) -> dict[str, dict[str, float]]:
    image = torch.zeros(1, *shape)
    works = {name: partial(network.cpu(), image) for name, network in networks.items()}
    with torch.inference_mode():
        seconds = interleaved(works, _ROUNDS)
    first = next(iter(seconds.values()), [])
    return {
        name: {
            "seconds": statistics.median(times),
            "relative_seconds": statistics.median(one / other for one, other in zip(times, first, strict=True)),
        }
        for name, times in seconds.items()
    }
