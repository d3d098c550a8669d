# SPDX-License-Identifier: Apache-2.0
"""A Transformer to be trained: `transformer.py SEED FOLDER`.

One head of its first layer starts by looking at the token before, which its queries and keys do by their biases alone.
The short convolutions of a hybrid see that token from the start; without this the Transformer had not learned to look
facts up after twice the hybrid's updates.
"""

import math
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

# Logit of the token before, and the slowest frequency that tells it from its neighbours (in radians per token).
PEAK, SLOWEST = 20.0, 0.1


def look_back(attention: torch.nn.Module, theta: float) -> None:
    """Let the first head of a layer with biases attend to the token before."""
    half = attention.head_dim // 2
    frequencies = theta ** (-torch.arange(half) / half)
    used = frequencies > SLOWEST
    size = math.sqrt(PEAK / attention.scaling / int(used.sum()))
    with torch.no_grad():
        for projection, distance in ((attention.q_proj, 0), (attention.k_proj, 1)):
            projection.weight[: 2 * half] = 0
            # Rotated by a token's position, the key's bias meets the query's one token later.
            projection.bias[:half] = size * used * torch.cos(distance * frequencies)
            projection.bias[half : 2 * half] = size * used * torch.sin(distance * frequencies)


if __name__ == "__main__":
    seed, folder = int(sys.argv[1]), sys.argv[2]
    tokenizer = AutoTokenizer.from_pretrained("outputs/retrieval/tokenizer")
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=2048,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=2,
        attention_bias=True,
        max_position_embeddings=64,
        initializer_range=0.08,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    model = AutoModelForCausalLM.from_config(config)
    look_back(model.model.layers[0].self_attn, config.rope_parameters["rope_theta"])
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
