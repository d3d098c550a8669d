# SPDX-License-Identifier: Apache-2.0
"""Models that transformers does not have, made known to its Auto classes."""
