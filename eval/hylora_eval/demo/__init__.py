# SPDX-License-Identifier: Apache-2.0
"""The whole story in miniature: fine-tune the embedded model under several attentions, and compare them."""
