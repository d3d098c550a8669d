# SPDX-License-Identifier: Apache-2.0
"""Generation with span-expanded attention: a cache for `generate`."""

from hylora.generation.cache import SpanCache, bytes_held

__all__ = ["SpanCache", "bytes_held"]
