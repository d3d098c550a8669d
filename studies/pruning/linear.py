# SPDX-License-Identifier: Apache-2.0
"""When to prune a linear network that learns from a linear teacher (section 2.3, figures 2.14 and 2.15).

    python studies/pruning/linear.py

A student W2 W1 learns from labels W x + noise, where W has rank 3, by full-batch gradient descent. It is pruned after
each of many epochs, and trained on. How well the signal is learned before the noise is shows in its loss on labels
without noise, and in its singular values. All seeds and all moments of pruning are trained side by side, as one batch
of matrices: a branch begins as a copy of the dense network, when its moment comes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hylora.environment import environment
from hylora.files import write_atomically
from hylora.randomness import generator
from vision_extras.masks import smallest


@dataclass(frozen=True)
class Setting:
    """The experiment of section 2.3.1.

    Args:
        size: of inputs, hidden features, outputs, and the number of inputs.
        singular_values: of the teacher; all others are zero.
        lr: learning rate.
        loss: `sum` is equation 2.6, `mean` divides it by the number of inputs.
        epochs: steps of gradient descent.
        sparsity: of what is pruned, over both matrices together, by magnitude.
        at: epochs after which there is pruning.
        watched: those of them whose singular values are followed.
        every: epochs from one look to the next.
    """

    size: int = 100
    singular_values: tuple[float, ...] = (5.0, 3.5, 2.0)
    lr: float = 0.002
    loss: str = "sum"
    epochs: int = 10_000
    sparsity: float = 0.9
    at: tuple[int, ...] = ()
    watched: tuple[int, ...] = ()
    every: int = 100

    @property
    def rate(self) -> float:
        """What the gradient of the sum is multiplied by."""
        return self.lr / (self.size if self.loss == "mean" else 1)


class Problem(NamedTuple):
    """Inputs and labels in columns, [d, N]."""

    inputs: Tensor
    noisy: Tensor
    clean: Tensor


def problem(setting: Setting, draw: torch.Generator) -> Problem:
    """A teacher's data."""
    size = setting.size
    values = torch.zeros(size)
    values[: len(setting.singular_values)] = torch.tensor(setting.singular_values)
    left, right = (_haar(size, draw) for _ in range(2))
    inputs, noise = (torch.randn(size, size, generator=draw) / size**0.5 for _ in range(2))
    clean = left * values @ right.T @ inputs
    return Problem(inputs, clean + noise, clean)


def _haar(size: int, draw: torch.Generator) -> Tensor:
    """An orthogonal matrix, uniformly."""
    orthogonal, triangular = torch.linalg.qr(torch.randn(size, size, generator=draw))
    return orthogonal * triangular.diagonal().sign()


def first_weights(setting: Setting, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """W1 and W2 as `torch.nn.Linear` has them; the thesis does not say."""
    bound = setting.size**-0.5
    first, second = ((2 * torch.rand(setting.size, setting.size, generator=draw) - 1) * bound for _ in range(2))
    return first, second


def gradients(first: Tensor, second: Tensor, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Of `sum ||labels - second first inputs||^2` (equation 2.6), in both matrices; all are [..., d, d].

    Args:
        first, second: W1 and W2.
        inputs: X X^T.
        labels: Y X^T.
    """
    error = 2 * (second @ first @ inputs - labels)
    return second.mT @ error, error @ first.mT


def pruned(first: Tensor, second: Tensor, sparsity: float) -> tuple[Tensor, Tensor]:
    """Masks of W1 and W2, true where a weight stays: the smallest of both go."""
    gone = smallest({"first": first.abs(), "second": second.abs()}, sparsity, "global")
    return ~gone["first"], ~gone["second"]


def run(setting: Setting, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """What it came to for each seed: the dense network's course, and each pruned network's end."""
    draws = [generator("linear", seed) for seed in seeds]
    problems = [problem(setting, draw) for draw in draws]
    # [K, S, d, d] for K networks of S seeds: the dense ones first, and then one branch after another.
    shape = (1 + len(setting.at), len(seeds), setting.size, setting.size)
    first, second = torch.zeros(shape), torch.zeros(shape)
    for index, draw in enumerate(draws):
        first[0, index], second[0, index] = first_weights(setting, draw)
    kept_first, kept_second = torch.ones(shape), torch.ones(shape)
    inputs = torch.stack([p.inputs @ p.inputs.T for p in problems])
    labels = torch.stack([p.noisy @ p.inputs.T for p in problems])
    moments = sorted(setting.at)
    found: list[dict[str, Any]] = [{"seed": seed, "dense": [], "course": {}, "pruned": []} for seed in seeds]

    def losses(network: int, seed: int) -> dict[str, float]:
        student, data = second[network, seed] @ first[network, seed], problems[seed]
        outputs = student @ data.inputs
        return {
            "train": float((data.noisy - outputs).square().sum()),
            "test": float((data.clean - outputs).square().sum()),
        }

    def look(epoch: int) -> None:
        for index, own in enumerate(found):
            own["dense"].append({"epoch": epoch, **losses(0, index)})
            for at in setting.watched:
                network = 1 + moments.index(at) if at <= epoch else 0
                own["course"].setdefault(str(at), []).append([epoch, *_values(first, second, network, index)])

    active = 1
    for epoch in range(setting.epochs + 1):
        while active <= len(moments) and moments[active - 1] == epoch:
            for index in range(len(seeds)):
                masks = pruned(first[0, index], second[0, index], setting.sparsity)
                kept_first[active, index], kept_second[active, index] = masks
                first[active, index], second[active, index] = first[0, index] * masks[0], second[0, index] * masks[1]
            active += 1
        if epoch % setting.every == 0:
            look(epoch)
        if epoch < setting.epochs:
            step_first, step_second = gradients(first[:active], second[:active], inputs, labels)
            first[:active].sub_(step_first, alpha=setting.rate).mul_(kept_first[:active])
            second[:active].sub_(step_second, alpha=setting.rate).mul_(kept_second[:active])
    for index, own in enumerate(found):
        for network, at in enumerate(moments, start=1):
            values = _values(first, second, network, index)
            own["pruned"].append({"at": at, **losses(network, index), "singular_values": values})
    return found


def _values(first: Tensor, second: Tensor, network: int, seed: int, count: int = 8) -> list[float]:
    """The largest singular values of W2 W1."""
    values = torch.linalg.svdvals(second[network, seed] @ first[network, seed])[:count]
    return [round(value, 4) for value in values.tolist()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--loss", choices=("sum", "mean"), default="mean")
    parser.add_argument("--lr", type=float, default=0.005)
    parser.add_argument("--at", type=int, nargs="+", default=range(0, 10_001, 500), help="epochs to prune after")
    parser.add_argument("--results", type=Path, default=Path("studies/pruning/results/linear.json"))
    arguments = parser.parse_args()
    watched = (0, 1000, 3000, 5200, 7000, 9000, 10_000)  # figure 2.15
    at = tuple(sorted({*arguments.at, *watched}))
    setting = Setting(lr=arguments.lr, loss=arguments.loss, at=at, watched=watched)
    started = time.perf_counter()
    runs = run(setting, range(arguments.seeds))
    for other in runs[1:]:
        del other["course"]  # one is enough for a picture
    found = {"kind": "linear pruning", "setting": asdict(setting), "seconds": time.perf_counter() - started}
    found |= {"environment": environment(), "runs": runs}
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(arguments.results, json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
