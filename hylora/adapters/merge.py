# SPDX-License-Identifier: Apache-2.0
"""Bake an adapter into its model."""

from __future__ import annotations

import warnings

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import nn
from transformers import PreTrainedModel

from hylora.adapters.model import match_base_dtype
from hylora.adapters.quantization import is_quantized
from hylora.adapters.structure import base_model
from hylora.adapters.tied import tie_equal, untie_adapted

__all__ = ["merge_adapter"]


def merge_adapter(model: PeftModel) -> PreTrainedModel:
    """Merge the active adapter into the base model.

    Modules trained in full are rounded to the base's dtype, LoRA is added in float32 and rounded once. Weights that
    the base uses in several places, such as tied embeddings or Zamba2's shared blocks, stay one where the adapter
    changes all their uses alike, as `add_adapter` makes it do.

    Args:
        model: with an adapter; used up, as the model inside it is what becomes the merged one. Other adapters on it
            are dropped.

    Returns:
        A plain transformers model with the base's names and dtypes, whose outputs equal those of `model`.

    Raises:
        ValueError: `model` carries no adapter (a merged one does not), its base is quantised, or merging gives values
            that are not finite.
    """
    wrappers = [module for module in model.modules() if isinstance(module, (BaseTunerLayer, ModulesToSaveWrapper))]
    if not isinstance(model, PeftModel) or not wrappers:
        raise ValueError(
            f"merge_adapter needs a PeftModel with an adapter, but this {type(model).__name__} carries none; has it "
            "been merged already?"
        )
    base = base_model(model)
    if any(map(is_quantized, base.modules())):
        raise ValueError(
            "merge_adapter needs a base with ordinary weights, for rounding what is merged to the few bits of a "
            "quantized one gives another model; load the run with hylora.load(folder, dequantize=True), or use hylora "
            "export"
        )
    tied = base.config.tie_word_embeddings
    for wrapper in wrappers:
        if isinstance(wrapper, BaseTunerLayer) and wrapper.merged:
            # in place, one shared weight would hold every use's LoRA at once
            wrapper.unmerge()
    match_base_dtype(model)
    untie_adapted(base)
    merged = model.merge_and_unload(safe_merge=True)
    merged.disable_input_require_grads()
    head = merged.get_output_embeddings()
    if isinstance(head, nn.Linear):
        # PEFT builds a tied head with its sizes the wrong way round
        head.out_features, head.in_features = head.weight.shape
    # PEFT looks at the embeddings alone, and transformers at this field for every weight that is tied
    merged.config.tie_word_embeddings = tied
    if apart := tie_equal(merged):
        warnings.warn(
            f"{type(merged).__name__} shares weights between modules, but the adapter changes each use in its own "
            f"way, so {len(apart)} weights (such as {apart[0]}) are no longer shared. transformers 5 loads the saved "
            "model as it is; software that holds shared weights only once does not. An adapter made by "
            "hylora.add_adapter keeps them shared.",
            stacklevel=2,
        )
    return merged
