# SPDX-License-Identifier: Apache-2.0
"""The whole story in miniature: a small hybrid, text every Python installation carries, and a recall task."""
