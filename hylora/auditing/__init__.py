# SPDX-License-Identifier: Apache-2.0
"""Does a model do what training and generation take for granted? Questions that are asked by running it."""
