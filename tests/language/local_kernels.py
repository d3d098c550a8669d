# SPDX-License-Identifier: Apache-2.0
"""A program that trains a tiny Bamba with kernels of a local repository, for test_hub_kernels.py.

The package `kernels` puts them in place of transformers' functions, as on a GPU; only here they are for the CPU.
"""

import inspect
import json
import sys

import torch
from torch import nn
from transformers.models.bamba import modeling_bamba as code

import hylora
from hylora import hub_kernels
from hylora.language import LanguageRecipe, assembly, train
from hylora.recurrence import deaf_packages, enclosed, wrapped_function
from hylora.runs import loading
from kernels import Mode, register_kernel_mapping
from tests.architectures.fused import fused
from tests.architectures.kernels import keep_apart

calls = []


class Repository:
    """Of one kernel, which keeps sequences apart and says for what it was chosen."""

    def __init__(self, name: str, mode: str) -> None:
        function = getattr(code, name)
        torch_code = enclosed(wrapped_function(function))["torch_function"].cell_contents
        kernel = keep_apart(name, fused if "split_conv1d" in name else torch_code)

        def forward(self, *args, **kwargs):
            calls.append((name, mode, torch.is_grad_enabled(), kwargs.get("seq_idx") is not None))
            return kernel(*args, **kwargs)

        forward.__signature__ = inspect.signature(type(function).forward)
        self.layer = type(name, (nn.Module,), {"forward": forward})

    def load(self):
        return self.layer


NAMES = {
    "causal_conv1d_fn": "causal_conv1d_fn",
    "mamba_chunk_scan_combined": "mamba2_chunk_scan",
    "mamba_split_conv1d_scan_combined": "mamba2_split_conv1d_scan_combined",
}
if __name__ == "__main__":
    for module in (hub_kernels, assembly, loading):
        module.check_hub_kernels = lambda device: None
    register_kernel_mapping(
        {
            hub_name: {
                "cpu": {
                    Mode.TRAINING: Repository(name, "training"),
                    Mode.INFERENCE: Repository(name, "inference"),
                }
            }
            for hub_name, name in NAMES.items()
        }
    )
    result = train(LanguageRecipe.load(sys.argv[1]))
    trained, calls[:] = list(calls), []
    model = hylora.load(result.folder, use_kernels=True)
    with torch.no_grad():
        model(torch.arange(12)[None], use_cache=False)
    print(
        json.dumps(
            {
                "trained": sorted(set(trained)),
                "loaded": sorted(set(calls)),
                "replaced": hub_kernels.replaced_by_kernels(model),
                "deaf": deaf_packages(model.config),
            }
        )
    )
