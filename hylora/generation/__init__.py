# SPDX-License-Identifier: Apache-2.0
"""Generation with span-expanded attention: a cache for `generate`."""

from hylora.generation.cache import SpanCache, bytes_held
from hylora.generation.layers import SpanLayer

__all__ = ["SpanCache", "SpanLayer", "bytes_held"]
