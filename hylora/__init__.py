# SPDX-License-Identifier: Apache-2.0
"""hylora: long contexts for hybrid (state-space + attention) language models.

Importing the package registers the attention plug-ins `se_attn`, `sw_attn` and `s2_attn` with transformers, and the
model `mamba2attn` with its Auto classes; models that do not ask for them by name are not touched.
"""

from hylora.adapters import HyLoraConfig, add_adapter, merge_adapter, print_trainable_parameters, trainable_groups
from hylora.attention import SpanConfig, register_attention, set_attention
from hylora.generation import SpanCache
from hylora.models import register_models
from hylora.rope import RopeScaling
from hylora.runs.loading import load
from hylora.runs.manifest import RunManifest

__version__ = "0.1.0"

__all__ = [
    "HyLoraConfig",
    "RopeScaling",
    "RunManifest",
    "SpanCache",
    "SpanConfig",
    "__version__",
    "add_adapter",
    "load",
    "merge_adapter",
    "print_trainable_parameters",
    "set_attention",
    "trainable_groups",
]

register_attention()
register_models()
