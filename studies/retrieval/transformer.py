# SPDX-License-Identifier: Apache-2.0
"""A Transformer to be trained that can look facts up from the start: `transformer.py SEED FOLDER`.

From random weights a Transformer of this size had not learned to look facts up after 1,750 updates (a hybrid does
after some 900: its short convolutions see the token before). So it starts with an induction circuit: the first head of
layer 0 attends to the token before, by the biases of its queries and keys; the first head of layer 1 looks for what
that head has written, and writes what it finds. Everything is trained afterwards.
"""

import math
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

# Logit of the token before, and the slowest frequency that tells it from its neighbours (in radians per token).
PEAK, SLOWEST = 20.0, 0.1
# Factor on the initial embeddings, and the gain of the match of a key with itself.
EMBEDDING, MATCH = 12.0, 3.0


def look_back(attention: torch.nn.Module, theta: float) -> None:
    """Let the first head of a layer with biases attend to the token before."""
    half = attention.head_dim // 2
    frequencies = theta ** (-torch.arange(half) / half)
    used = frequencies > SLOWEST
    size = math.sqrt(PEAK / attention.scaling / int(used.sum()))
    for projection, distance in ((attention.q_proj, 0), (attention.k_proj, 1)):
        projection.weight[: 2 * half] = 0
        # Rotated by a token's position, the key's bias meets the query's one token later.
        projection.bias[:half] = size * used * torch.cos(distance * frequencies)
        projection.bias[half : 2 * half] = size * used * torch.sin(distance * frequencies)


def look_up(attention: torch.nn.Module, before: torch.nn.Module) -> None:
    """Let the first head of a layer look for the tokens after which the head that looks back has written its own."""
    size = attention.head_dim
    values, written = before.v_proj.weight[:size], before.o_proj.weight[:, :size]
    attention.q_proj.weight[:size] = MATCH * values
    attention.k_proj.weight[:size] = torch.linalg.pinv(written)


if __name__ == "__main__":
    seed, folder = int(sys.argv[1]), sys.argv[2]
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
    first, second, *_ = (layer.self_attn for layer in model.model.layers)
    with torch.no_grad():
        # A token must know itself beneath what layers write: at the common scale of weights it would hardly.
        model.model.embed_tokens.weight *= EMBEDDING
        look_back(first, config.rope_parameters["rope_theta"])
        look_up(second, first)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained("outputs/retrieval/tokenizer").save_pretrained(folder)
