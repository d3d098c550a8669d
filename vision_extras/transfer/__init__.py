# SPDX-License-Identifier: Apache-2.0
"""Networks that are trained, taken over to other images (chapter 4 of the thesis on sparse networks)."""
