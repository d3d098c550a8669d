# SPDX-License-Identifier: Apache-2.0
"""Finding objects in images, under the samplers of classification (chapter 4, section 4.3.2)."""

__all__ = ["average_precision", "coco", "collate", "detector", "recipe", "run", "scenes", "task"]
