# SPDX-License-Identifier: Apache-2.0
"""hylora: long contexts for hybrid (state-space + attention) language models."""

__version__ = "0.1.0"
