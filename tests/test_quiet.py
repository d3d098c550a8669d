# SPDX-License-Identifier: Apache-2.0
"""What others say: silenced where it means nothing, heard where it may."""

import logging
import warnings

import pytest

from hylora.quiet import quieten

FALLBACK = "`causal_conv1d_fn` is falling back to its reference PyTorch implementation because it is not installed."


def test_a_name_that_peft_uses_is_not_warned_of_and_others_are():
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        quieten()
        warnings.warn(
            "`is_gradient_checkpointing` is deprecated and will be removed in v6.", FutureWarning, stacklevel=1
        )
        warnings.warn("`gradient_checkpointing_enable` is deprecated", FutureWarning, stacklevel=1)
    assert [str(warning.message) for warning in heard] == ["`gradient_checkpointing_enable` is deprecated"]


@pytest.mark.parametrize("has_gpu", [False, True])
def test_kernels_for_gpus_are_advised_where_there_is_one(monkeypatch, has_gpu):
    monkeypatch.setattr("torch.cuda.is_available", lambda: has_gpu)
    quieten()
    logger, heard = logging.getLogger("transformers.integrations.hub_kernels"), []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())
    logger.addHandler(handler)
    try:
        logger.warning(FALLBACK)
        logger.warning("something else")
    finally:
        logger.removeHandler(handler)
    assert heard == [*([FALLBACK] if has_gpu else []), "something else"]
