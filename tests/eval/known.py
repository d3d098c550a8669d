# SPDX-License-Identifier: Apache-2.0
"""A language model whose probabilities a test chooses."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import nn


class KnownModel(nn.Module):
    """A language model whose log-probabilities are a function of the tokens: `table(ids) -> [B, L, V]`."""

    def __init__(self, table, vocabulary):
        super().__init__()
        self.config = SimpleNamespace(get_text_config=lambda: None)
        self.embedding = nn.Embedding(vocabulary, 1)
        self.head = nn.Linear(vocabulary, vocabulary, bias=False)
        self.head.weight.data = torch.eye(vocabulary)
        self.table = table
        self.calls = []

    def get_input_embeddings(self):
        return self.embedding

    def get_output_embeddings(self):
        return self.head

    def get_decoder(self):
        return self.decode

    def decode(self, input_ids, attention_mask=None, use_cache=False):
        assert not use_cache
        self.calls.append(tuple(input_ids.shape))
        return SimpleNamespace(last_hidden_state=self.table(input_ids))

    def forward(self, input_ids, use_cache=False):
        return SimpleNamespace(logits=self.head(self.table(input_ids)))
