# SPDX-License-Identifier: Apache-2.0
"""The parts of the benchmarks: what is timed and checked, how, and what is written about it."""
