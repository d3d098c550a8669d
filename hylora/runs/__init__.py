# SPDX-License-Identifier: Apache-2.0
"""A run on disk: what its folder says of it, how it comes back, and how it leaves."""
