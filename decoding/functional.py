"""The transformer in plain PyTorch, on any device, over a cache that stays in its place: many rows at once, or many
positions of a row."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from decoding.weights import MATRICES, Weights

PACKED_FOR = 32  # rows


class Functional:
    """Steps and prefixes of all backbones with the given weights (float32).

    On a CPU with oneDNN, which is faster here than the BLAS behind `F.linear`, its own layout of the matrices is made
    once.
    """

    def __init__(self, weights: Weights):
        matrices = {name: getattr(weights, name) for name in MATRICES}
        self.gated = weights.up.weight.shape[1] == 2 * weights.down.weight.shape[2]
        self.packed = weights.norms.device.type == "cpu" and torch.backends.mkldnn.is_available()
        pack = partial(torch.ops.mkldnn._reorder_linear_weight, batch_size=PACKED_FOR) if self.packed else Tensor.detach
        self.products = {name: [(pack(weight), bias) for weight, bias in zip(matrix.weight, matrix.bias, strict=True)]
                         for name, matrix in matrices.items()}
        self.weights = weights._replace(**dict.fromkeys(MATRICES))  # the packed ones are all that is needed

    def step(self, x: Tensor, positions: Tensor, keys: Tensor, values: Tensor, visible: int) -> tuple[Tensor, Tensor]:
        """Embeddings x (A, D) at `positions` (A,) of the first A rows of the cache (layers, rows, kv heads, positions,
        head size), of which the first `visible` positions are looked at -> last states (A, D), logits (A, heads)."""
        rows = torch.arange(len(x), device=x.device)
        seen = (torch.arange(visible, device=x.device) <= positions.unsqueeze(1))[:, None, None]  # (A, 1, 1, visible)

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            keys[layer][rows, :, positions], values[layer][rows, :, positions] = key[:, :, 0], value[:, :, 0]
            past = (cache[layer, : len(x), :, :visible] for cache in (keys, values))
            return F.scaled_dot_product_attention(query, *past, attn_mask=seen, enable_gqa=True)

        hidden = self._states(x.unsqueeze(1), positions.unsqueeze(1), attend)[:, 0]
        return hidden, self._product("heads", 0, hidden)

    def prefix(
        self, x: Tensor, lengths: Tensor, rows: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Embeddings x (B, P, D), padded behind `lengths` (B,), into the first positions of `rows` (B,) of the cache ->
        the state (B, D) of the last position of each, logits (B, heads)."""
        P = x.shape[1]
        positions = torch.arange(P, device=x.device).expand(len(x), P)

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            keys[layer, rows, :, :P], values[layer, rows, :, :P] = key, value
            return F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)

        hidden = self._states(x, positions, attend)
        hidden = hidden[torch.arange(len(x), device=x.device), lengths - 1]
        return hidden, self._product("heads", 0, hidden)

    def _states(self, x: Tensor, positions: Tensor, attend: Callable[..., Tensor]) -> Tensor:
        """x (B, T, D) at `positions` (B, T) -> (B, T, D)."""
        w = self.weights
        B, T, _ = x.shape
        if len(w.positions):
            x = x + w.positions[positions]
        if len(w.cos):
            cos, sin = (table[positions].unsqueeze(1) for table in (w.cos, w.sin))  # (B, 1, T, head size)
        size = w.cos.shape[1]
        for layer in range(len(self.products["qkv"])):
            qkv = self._product("qkv", layer, self._norm(x, 2 * layer)).view(B, T, -1, size).transpose(1, 2)
            query, key, value = qkv.split([w.n_heads, w.n_kv_heads, w.n_kv_heads], dim=1)  # (B, heads, T, head size)
            if len(w.head_norms):
                query, key = (F.rms_norm(part, (size,), norm, w.eps)
                              for part, norm in zip((query, key), w.head_norms[layer], strict=True))
            if len(w.cos):
                query, key = (part * cos + _rotated(part) * sin for part in (query, key))
            attended = attend(layer, query, key, value).transpose(1, 2).reshape(B, T, -1)
            x = x + self._product("out", layer, attended)
            raised = self._product("up", layer, self._norm(x, 2 * layer + 1))
            if self.gated:
                gate, raised = raised.chunk(2, dim=2)
                active = F.silu(gate) * raised
            else:
                active = F.gelu(raised, approximate="tanh")
            x = x + self._product("down", layer, active)
        return self._norm(x, -1)

    def _norm(self, x: Tensor, index: int) -> Tensor:
        w = self.weights
        if len(w.norm_biases):
            return F.layer_norm(x, x.shape[-1:], w.norms[index], w.norm_biases[index], w.eps)
        return F.rms_norm(x, x.shape[-1:], w.norms[index], w.eps)

    def _product(self, name: str, layer: int, x: Tensor) -> Tensor:
        weight, bias = self.products[name][layer]
        if self.packed:
            return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")
        return F.linear(x, weight, bias)


def _rotated(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)
