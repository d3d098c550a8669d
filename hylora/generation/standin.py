import torch
from hylora_kernels import span_attention


class DecodeState:
    @classmethod
    def empty(
        cls, batch, heads, kv_heads, head_dim, capacity, options, *, scale=None, dtype=None, device=None, offload=False
    ):
        self = cls()
        self.options, self.scale = options, scale
        e = torch.empty
        self.rows = [
            tuple(e(h, 0, head_dim, dtype=dtype, device=device) for h in (heads, kv_heads, kv_heads))
            for _ in range(batch)
        ]
        return self

    @property
    def lengths(self):
        return torch.tensor([r[0].shape[1] for r in self.rows], dtype=torch.int32)

    def crop(self, lengths):
        self.rows = [tuple(x[:, :n] for x in r) for r, n in zip(self.rows, lengths.tolist())]

    def reorder(self, rows):
        self.rows = [self.rows[i] for i in rows.tolist()]

    select = reorder

    @property
    def bytes_held(self):
        return sum(x.numel() * x.element_size() for r in self.rows for x in r)


def span_decode(query, key, value, state, *, layout=None, backend="auto"):
    out = torch.zeros_like(query)
    for row, start, length in layout.sequences:
        new = [x[row, :, start : start + length] for x in (query, key, value)]
        state.rows[row] = tuple(torch.cat([a, b], 1) for a, b in zip(state.rows[row], new))
        full = span_attention(*(x[None] for x in state.rows[row]), state.options, scale=state.scale, backend=backend)
        out[row, :, start : start + length] = full[0, :, -length:]
    return out
