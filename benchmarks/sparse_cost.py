# SPDX-License-Identifier: Apache-2.0
"""Measure what sparse training adds to an update: AC/DC's masks, and the passes of CrAM and SAM.

    python benchmarks/sparse_cost.py

All kinds of updates take turns in each round, on one network each. Reported are ratios to an ordinary update within a
round, as medians with their quartiles.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from environment import describe
from torch import nn

from hylora.training.method import Method
from hylora.training.moment import Moment
from vision_extras.masks import Masks, prunable
from vision_extras.metrics.runtime import interleaved
from vision_extras.models import ModelRecipe, build_network
from vision_extras.sharpness import Sharpness
from vision_extras.sparse import CramRecipe
from vision_extras.sparse.cram import CompressionAware
from vision_extras.sparse.phased import Phased
from vision_extras.sparse.phases import Phase

# Networks, with the side of their images in pixels and how many make a batch; few images for many weights as well.
_CASES = {
    "small": ("resnet8", 14, 128),
    "narrow": ("resnet20", 32, 64),
    "wide": ("resnet18_cifar", 32, 64),
    "wide, few images": ("resnet18_cifar", 32, 16),
}
_STEPS = 1_000_000


class _Single:
    """All updates are of one epoch."""

    def epoch(self, step: int) -> int:
        return 0

    def first_step(self, epoch: int) -> int:
        return epoch * _STEPS


def _masks(network: nn.Module) -> Phased:
    weights = partial(prunable, network)
    return Phased(network, Masks(), weights, [Phase(0, 1, 0.9)], _Single())


def _cram(network: nn.Module, **options: object) -> CompressionAware:
    recipe = CramRecipe(update="cram", levels=(0.5, 0.7, 0.9), **options)
    return CompressionAware(network, partial(prunable, network), recipe, nn.ModuleDict())


KINDS: dict[str, Callable[[nn.Module], Method]] = {
    "dense": lambda network: Method(),
    "acdc_sparse": _masks,
    "sam": lambda network: Sharpness(network, 0.1),
    "cram": partial(_cram, plus=False),
    "cram_plus": _cram,
    "cram_plus_masks_kept": partial(_cram, mask_every=20),
}


def compare(case: str, rounds: int) -> dict[str, object]:
    """Ratios to an ordinary update for a network."""
    name, side, batch_size = _CASES[case]
    images, labels = torch.randn(batch_size, 3, side, side), torch.arange(batch_size) % 10
    works, masks = {}, None
    for kind, make in KINDS.items():
        network = build_network(ModelRecipe(name=name), 3, 10, torch.Generator().manual_seed(0)).train()
        method = make(network)
        works[kind] = partial(_update, network, method, images, labels, iter(range(1, _STEPS)))
        if kind == "acdc_sparse":
            method.begin(Moment(0, _STEPS, 0))
            masks = partial(_mask_work, network, method)
    works["acdc_masks_alone"] = masks
    seconds = interleaved(works, rounds)
    ratios = {
        kind: [taken / dense for taken, dense in zip(times, seconds["dense"], strict=True)]
        for kind, times in seconds.items()
    }
    return {
        "network": name,
        "side": side,
        "batch_size": batch_size,
        "seconds_dense": statistics.median(seconds["dense"]),
        "over_dense": {kind: statistics.median(values) for kind, values in ratios.items()},
        "quartiles": {kind: statistics.quantiles(values, n=4)[::2] for kind, values in ratios.items()},
    }


def _update(network: nn.Module, method: Method, images: torch.Tensor, labels: torch.Tensor, steps: object) -> None:
    """An update as the loop makes one, with SGD's own arithmetic left to torch."""
    moment = Moment(next(steps), _STEPS, 0)
    optimizer = _optimizer(network)
    method.begin(moment)

    def accumulate() -> torch.Tensor:
        loss = F.cross_entropy(network(images), labels)
        loss.backward()
        return loss.detach()

    method.gradients(accumulate)
    optimizer.step()
    method.end(moment)
    optimizer.zero_grad()


_optimizers: dict[nn.Module, torch.optim.Optimizer] = {}


def _optimizer(network: nn.Module) -> torch.optim.Optimizer:
    if network not in _optimizers:
        _optimizers[network] = torch.optim.SGD(network.parameters(), 1e-3, momentum=0.9, weight_decay=5e-4)
    return _optimizers[network]


def _mask_work(network: nn.Module, method: Method) -> None:
    """What masks add to an update: to its gradients, which weights stand for here, and to its weights."""
    weights = {name: weight.data for name, weight in prunable(network).items()}
    method._masks.apply(weights)
    method._masks.apply(weights)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--cases", nargs="+", default=list(_CASES), choices=list(_CASES))
    parser.add_argument("--output", type=Path, default=Path("docs/benchmarks/sparse_cost_cpu.json"))
    options = parser.parse_args()
    results = []
    for case in options.cases:
        results.append(compare(case, options.rounds))
        print(case, {kind: round(value, 3) for kind, value in results[-1]["over_dense"].items()}, flush=True)
    found = {"environment": {**describe(), "load": os.getloadavg()[1]}, "rounds": options.rounds, "results": results}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
