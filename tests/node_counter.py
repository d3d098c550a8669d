# SPDX-License-Identifier: Apache-2.0
"""What `torch.compile` makes of a function, for tests."""

from __future__ import annotations

from collections import Counter

import torch

__all__ = ["NodeCounter"]


class NodeCounter:
    """A backend of `torch.compile` that runs graphs as they are and counts them, and our operators in them."""

    def __init__(self):
        self.operators = Counter()
        self.graphs = 0

    def __call__(self, graph, example_inputs):
        self.graphs += 1
        for node in graph.graph.nodes:
            if getattr(node.target, "namespace", "").startswith("hylora"):
                self.operators[node.target._opname] += 1
        return torch._dynamo.lookup_backend("aot_eager")(graph, example_inputs)
