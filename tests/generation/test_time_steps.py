# SPDX-License-Identifier: Apache-2.0
"""Bounds on time steps hold step by step as in a whole pass."""

import pytest
import torch
from transformers import DynamicCache

import hylora
from hylora.auditing.comparison import Differs, Probe, logits
from hylora.auditing.properties import continued
from tests.architectures.zoo import ZOO

PROBE = Probe(vocabulary=96)


@pytest.mark.parametrize(
    ("model_type", "fields"),
    [
        ("bamba", {"time_step_limit": (0.5, 0.7)}),
        ("falcon_h1", {"time_step_limit": (0.5, 0.7), "ssm_multipliers": [1.0, 1.0, 1.0, 1.0, 2.0]}),
        ("nemotron_h", {"time_step_min": 0.5}),
        ("zamba2", {"time_step_min": 0.5}),
    ],
)
def test_single_steps_are_bounded_as_whole_passes_are(model_type, fields):
    model = ZOO[model_type].build(**fields)
    whole = logits(model, PROBE.tokens())
    with pytest.raises(Differs):
        continued(model, PROBE, DynamicCache(config=model.config), single=True)
    with hylora.bound_time_steps(model):
        torch.testing.assert_close(logits(model, PROBE.tokens()), whole)
        continued(model, PROBE, DynamicCache(config=model.config), single=True)
    with pytest.raises(Differs):
        continued(model, PROBE, DynamicCache(config=model.config), single=True)


def test_nothing_is_changed_where_there_is_no_bound():
    model = ZOO["bamba"].build()
    whole = logits(model, PROBE.tokens())
    with hylora.bound_time_steps(model):
        assert torch.equal(logits(model, PROBE.tokens()), whole)
