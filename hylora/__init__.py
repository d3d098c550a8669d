# SPDX-License-Identifier: Apache-2.0
"""hylora: long contexts for hybrid (state-space + attention) language models.

Importing the package registers the attention plug-ins `se_attn`, `sw_attn` and `s2_attn` with transformers, and the
model `mamba2attn` with its Auto classes; models that do not ask for them by name are not touched. Neither torch nor
transformers is imported for it: see `hylora.registration`.
"""

from typing import TYPE_CHECKING

from hylora.lazy import lazy_exports
from hylora.quiet import quieten
from hylora.registration import register

if TYPE_CHECKING:
    from hylora.adapters.config import HyLoraConfig
    from hylora.adapters.merge import merge_adapter
    from hylora.adapters.model import add_adapter
    from hylora.adapters.report import print_trainable_parameters, trainable_groups
    from hylora.attention.config import SpanConfig
    from hylora.attention.switch import set_attention
    from hylora.auditing.audit import audit
    from hylora.generation.cache import SpanCache
    from hylora.generation.time_steps import bound_time_steps
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
    "audit",
    "bound_time_steps",
    "load",
    "merge_adapter",
    "print_trainable_parameters",
    "set_attention",
    "trainable_groups",
]

_EXPORTS = {
    "HyLoraConfig": "hylora.adapters.config",
    "RopeScaling": "hylora.rope",
    "RunManifest": "hylora.runs.manifest",
    "SpanCache": "hylora.generation.cache",
    "SpanConfig": "hylora.attention.config",
    "add_adapter": "hylora.adapters.model",
    "audit": "hylora.auditing.audit",
    "bound_time_steps": "hylora.generation.time_steps",
    "load": "hylora.runs.loading",
    "merge_adapter": "hylora.adapters.merge",
    "print_trainable_parameters": "hylora.adapters.report",
    "set_attention": "hylora.attention.switch",
    "trainable_groups": "hylora.adapters.report",
}
__getattr__, __dir__ = lazy_exports(__name__, _EXPORTS)

register()
quieten()
