# SPDX-License-Identifier: Apache-2.0
"""Compare the ways in which a sparse network that stays as it is gives its features on a CPU.

A classifier is trained on features: of images that change, the network makes them anew in each pass (section 4.5), by
torch's convolutions or by products of sparse matrices; of images that stay, it makes them once, and the classifier has
them in all epochs. Weights are random, and the smallest of each layer are gone: times depend on nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from pathlib import Path

import torch
import torch.nn.functional as F
from environment import describe
from torch import nn

from vision_extras.masks import prunable
from vision_extras.metrics import find_head
from vision_extras.metrics.embeddings import penultimate
from vision_extras.metrics.runtime import interleaved
from vision_extras.models import ModelRecipe, build_network
from vision_extras.sparse.compression import compress
from vision_extras.transfer.products import SparseProducts

# Networks, with the side of their images in pixels and how many make a batch.
_CASES = {"resnet18_cifar": (32, 8), "resnet20": (32, 32), "resnet50": (64, 8)}


def compare(name: str, level: float, rounds: int) -> dict[str, object]:
    """Medians and quartiles over rounds of the dense network's time over that of each way."""
    side, batch_size = _CASES[name]
    network = build_network(ModelRecipe(name=name), 3, 100, torch.Generator().manual_seed(0)).eval()
    images, labels = torch.randn(batch_size, 3, side, side), torch.arange(batch_size)
    convolutions = {key: weight for key, weight in prunable(network).items() if weight.ndim > 2}
    compress(convolutions, level, "local")
    network.requires_grad_(False)
    head = find_head(network).requires_grad_(True)
    products, everywhere = SparseProducts(network), SparseProducts(network, least=0)
    with penultimate(network) as kept:
        network(images)
    features = kept[0]

    def learn(logits: torch.Tensor) -> None:
        F.cross_entropy(logits, labels).backward()
        head.zero_grad()

    def sparse(taken: SparseProducts) -> None:
        with taken.applied():
            learn(network(images))

    works = {
        "dense": lambda: learn(network(images)),
        "products": lambda: sparse(products),
        "products_everywhere": lambda: sparse(everywhere),
        "cached": lambda: learn(head(features)),
    }
    seconds = interleaved(works, rounds)
    found: dict[str, object] = {"network": name, "side": side, "batch_size": batch_size, "sparsity": level}
    found["convolutions"] = sum(isinstance(module, nn.Conv2d) for module in network.modules())
    found["as_products"] = {"products": len(products.convolutions), "everywhere": len(everywhere.convolutions)}
    found["seconds"] = {way: statistics.median(times) for way, times in seconds.items()}
    for way in ("products", "products_everywhere", "cached"):
        ratios = [dense / other for dense, other in zip(seconds["dense"], seconds[way], strict=True)]
        found[f"dense_over_{way}"] = statistics.median(ratios)
        found[f"dense_over_{way}_quartiles"] = statistics.quantiles(ratios, n=4)[::2]
    return found


def main() -> None:
    """Write the comparison as JSON, and print its ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--networks", nargs="+", default=list(_CASES), choices=list(_CASES))
    parser.add_argument("--levels", nargs="+", type=float, default=[0.8, 0.9, 0.95, 0.98])
    parser.add_argument("--output", type=Path, default=Path("docs/benchmarks/sparse_backbone_cpu.json"))
    options = parser.parse_args()
    results = []
    for name in options.networks:
        for level in options.levels:
            results.append(compare(name, level, options.rounds))
            ratios = {key: round(value, 2) for key, value in results[-1].items() if isinstance(value, float)}
            print(name, ratios, flush=True)
    found = {"environment": {**describe(), "load": os.getloadavg()[1]}, "rounds": options.rounds, "results": results}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
