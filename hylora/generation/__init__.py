# SPDX-License-Identifier: Apache-2.0
"""Generation with span-expanded attention: a cache for `generate`."""

from hylora.generation.cache import SpanCache

__all__ = ["SpanCache"]
