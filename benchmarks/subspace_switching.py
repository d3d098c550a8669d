# SPDX-License-Identifier: Apache-2.0
"""Compare the time to change the level of a network in use with that of a forward pass.

The thesis holds that computing a compressed network is negligible beside a forward pass (sections 3.2.1 and 3.2.6), as
its cost does not depend on the size of images. Here a change to the strongest level and one back, which are counted as
two, take turns with forward passes at either end.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from pathlib import Path

import torch
from environment import describe

from vision_extras.metrics.runtime import interleaved
from vision_extras.models import ModelRecipe, build_network
from vision_extras.subspaces import CompressibleSubspace
from vision_extras.subspaces.deployment import Deployed
from vision_extras.subspaces.kinds import COMPRESSIONS

# Networks, with the side of their images in pixels.
_CASES = {"resnet20": 32, "resnet18": 224}


def subspace_of(name: str, kind: str, compression: str) -> CompressibleSubspace:
    """An untrained subspace, whose times are those of a trained one."""
    network = build_network(ModelRecipe(name=name), 3, 1000, torch.Generator().manual_seed(0))
    norm = "instance" if compression == "width" else "group"
    subspace = getattr(CompressibleSubspace, kind)(network, COMPRESSIONS[compression](), norm=norm)
    # So that ranges of what layers are given are known, and passes take the time to quantise that.
    subspace.position.activations = True
    with torch.no_grad():
        subspace.train()(torch.randn(2, 3, _CASES[name], _CASES[name]))
    return subspace.eval()


def compare(subspace: CompressibleSubspace, images: torch.Tensor, rounds: int) -> dict[str, object]:
    """Medians and quartiles over rounds of the ratio of a change to a pass at the weakest and the strongest level."""
    ends = {name: getattr(subspace.compression, name) for name in ("weakest", "strongest")}
    changed, passed = Deployed(subspace), {name: Deployed(subspace) for name in ends}
    passed["strongest"].switch(ends["strongest"])

    def change() -> None:
        changed.switch(ends["strongest"])
        changed.switch(ends["weakest"])

    works = {"change": change} | {name: lambda name=name: passed[name](images) for name in ends}
    seconds = interleaved(works, rounds)
    found: dict[str, object] = {"seconds": {name: statistics.median(times) for name, times in seconds.items()}}
    found["seconds"]["change"] /= 2
    for name in ends:
        ratios = [both / 2 / one for both, one in zip(seconds["change"], seconds[name], strict=True)]
        found[f"over_{name}"] = statistics.median(ratios)
        found[f"over_{name}_quartiles"] = statistics.quantiles(ratios, n=4)[::2]
    return found


def main() -> None:
    """Write the comparison as JSON, and print its ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--compressions", nargs="+", default=list(COMPRESSIONS), choices=list(COMPRESSIONS))
    parser.add_argument("--networks", nargs="+", default=list(_CASES), choices=list(_CASES))
    parser.add_argument("--output", type=Path, default=Path("docs/benchmarks/subspace_switching_cpu.json"))
    options = parser.parse_args()
    results = []
    for name in options.networks:
        for compression in options.compressions:
            for kind in ("line", "point"):
                subspace = subspace_of(name, kind, compression)
                for batch_size in (1, 32):
                    images = torch.randn(batch_size, 3, _CASES[name], _CASES[name])
                    case = {
                        "network": name,
                        "side": _CASES[name],
                        "compression": compression,
                        "kind": kind,
                        "batch_size": batch_size,
                    }
                    found = compare(subspace, images, options.rounds)
                    results.append(case | found)
                    print(*case.values(), *(f"{end} {found[f'over_{end}']:.3f}" for end in ("weakest", "strongest")))
    environment = {**describe(), "load": os.getloadavg()[1]}
    options.output.write_text(json.dumps({"environment": environment, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
