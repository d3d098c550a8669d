# SPDX-License-Identifier: Apache-2.0
"""mamba-ssm's fused kernel in torch, since transformers has no code in its place."""

from __future__ import annotations

import torch
from torch.nn.functional import conv1d, linear, pad, silu, softplus


def fused(
    projected,
    conv_weight,
    conv_bias,
    dt_bias,
    A,
    D,
    rmsnorm_weight,
    rmsnorm_eps,
    outproj_weight,
    outproj_bias,
    headdim,
    ngroups,
    dt_limit,
    **kwargs,
):
    """What mamba-ssm's fused kernel computes, one token after the other."""
    heads = len(A)
    inner = heads * headdim
    channels, taps = conv_weight.shape
    gate, states, dt = projected.split([inner, channels, heads], dim=-1)
    states = pad(states.transpose(1, 2), (taps - 1, 0))
    states = silu(conv1d(states, conv_weight[:, None], conv_bias, groups=channels)).transpose(1, 2)
    x, B, C = states.split([inner, (channels - inner) // 2, (channels - inner) // 2], dim=-1)
    x = x.unflatten(-1, (heads, headdim))
    B, C = (part.unflatten(-1, (ngroups, -1)).repeat_interleave(heads // ngroups, dim=2) for part in (B, C))
    dt = softplus(dt + dt_bias).clamp(*dt_limit)

    memory = torch.zeros(*x[:, 0].shape, B.shape[-1])
    outputs = []
    for t in range(x.shape[1]):
        step = dt[:, t, :, None]
        memory = memory * (step * A[:, None]).exp()[..., None] + (step * x[:, t])[..., None] * B[:, t, :, None]
        outputs.append((memory * C[:, t, :, None]).sum(-1) + D[:, None] * x[:, t])
    y = torch.stack(outputs, dim=1).flatten(2) * silu(gate)
    groups = y.unflatten(-1, (ngroups, -1))
    y = (groups * torch.rsqrt(groups.pow(2).mean(-1, keepdim=True) + rmsnorm_eps)).flatten(2) * rmsnorm_weight
    return linear(y.to(outproj_weight.dtype), outproj_weight, outproj_bias)
