"""The transformer in plain PyTorch, on any device, over a cache that stays in its place: many rows at once, or many
positions of a row."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from decoding import kernel
from decoding.weights import MATRICES, Weights

PACKED_FOR = 32  # rows


class Functional:
    """Steps and prefixes of all backbones with the given weights (float32).

    On a CPU with oneDNN, which is faster here than the BLAS behind `F.linear`, its own layout of the matrices is made
    once, unless they are to stay `plain`; and the attention of a step is the kernel's, PyTorch's being slow for single
    queries.
    """

    def __init__(self, weights: Weights, plain: bool = False):
        matrices = {name: getattr(weights, name) for name in MATRICES}
        self.gated = weights.up.weight.shape[1] == 2 * weights.down.weight.shape[2]
        self.packed = not plain and weights.norms.device.type == "cpu" and torch.backends.mkldnn.is_available()
        pack = partial(torch.ops.mkldnn._reorder_linear_weight, batch_size=PACKED_FOR) if self.packed else Tensor.detach
        self.products = {name: [(pack(weight), bias) for weight, bias in zip(matrix.weight, matrix.bias, strict=True)]
                         for name, matrix in matrices.items()}
        self.weights = weights._replace(**dict.fromkeys(MATRICES))  # the packed ones are all that is needed
        self.arrays = kernel.arrays_of(weights.attention) if weights.norms.device.type == "cpu" else None

    def step(self, x: Tensor, positions: Tensor, keys: Tensor, values: Tensor, visible: int) -> tuple[Tensor, Tensor]:
        """Embeddings x (A, D) at `positions` (A,) of the first A rows of the cache (layers, rows, kv heads, positions,
        head size), of which the first `visible` positions are looked at -> last states (A, D), logits (A, heads)."""
        rows, at = torch.arange(len(x), device=x.device), positions.unsqueeze(1)
        seen = (torch.arange(visible, device=x.device) <= at)[:, None, None]  # (A, 1, 1, visible)

        def attend(layer: int, qkv: Tensor) -> Tensor:
            if self.arrays is not None:
                attended = qkv.new_empty(len(x), 1, self.weights.n_heads * keys.shape[4])
                at_rows, to = (tensor.numpy() for tensor in (qkv[:, 0], attended[:, 0]))
                kernel.attend(self.arrays, layer, positions.numpy(), keys.numpy(), values.numpy(), 0, at_rows, to)
                return attended
            query, key, value = self._heads(layer, qkv, at)
            keys[layer][rows, :, positions], values[layer][rows, :, positions] = key[:, :, 0], value[:, :, 0]
            past = (cache[layer, : len(x), :, :visible] for cache in (keys, values))
            return F.scaled_dot_product_attention(query, *past, attn_mask=seen, enable_gqa=True).transpose(1, 2)

        hidden = self._states(x.unsqueeze(1), at, attend)[:, 0]
        return hidden, self._product("heads", 0, hidden)

    def prefix(
        self, x: Tensor, lengths: Tensor, rows: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Embeddings x (B, P, D), padded behind `lengths` (B,), into the first positions of `rows` (B,) of the cache ->
        the state (B, D) of the last position of each, logits (B, heads)."""
        P = x.shape[1]
        positions = torch.arange(P, device=x.device).expand(len(x), P)

        def attend(layer: int, qkv: Tensor) -> Tensor:
            query, key, value = self._heads(layer, qkv, positions)
            keys[layer, rows, :, :P], values[layer, rows, :, :P] = key, value
            return F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True).transpose(1, 2)

        hidden = self._states(x, positions, attend)
        hidden = hidden[torch.arange(len(x), device=x.device), lengths - 1]
        return hidden, self._product("heads", 0, hidden)

    def extend(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings x (T, D) of one text behind a cache (positions, 2, layers, kv heads, head size) of keys and values
        that grows -> the last state (D,), logits (heads,), what x adds to the cache (T, 2, layers, ...)."""
        T, P = x.shape[0], past.shape[0]  # len() would be a constant in a traced graph
        positions = P + torch.arange(T, device=x.device)
        seen = torch.arange(P + T, device=x.device) <= positions.unsqueeze(1)  # (T, P + T)
        added = []

        def attend(layer: int, qkv: Tensor) -> Tensor:
            query, key, value = self._heads(layer, qkv, positions.unsqueeze(0))
            new = torch.stack([key[0], value[0]]).transpose(1, 2)  # (2, T, kv heads, head size)
            added.append(new.transpose(0, 1))
            key, value = torch.cat([past[:, :, layer].transpose(0, 1), new], dim=1).transpose(1, 2).unsqueeze(1)
            return F.scaled_dot_product_attention(query, key, value, attn_mask=seen, enable_gqa=True).transpose(1, 2)

        hidden = self._states(x.unsqueeze(0), positions.unsqueeze(0), attend)[0, -1]
        return hidden, self._product("heads", 0, hidden), torch.stack(added, dim=2)

    def _states(self, x: Tensor, positions: Tensor, attend: Callable[..., Tensor]) -> Tensor:
        """x (B, T, D) at `positions` (B, T) -> (B, T, D)."""
        w = self.weights
        if len(w.positions):
            x = x + w.positions[positions]
        for layer in range(len(self.products["qkv"])):
            attended = attend(layer, self._product("qkv", layer, self._norm(x, 2 * layer)))
            x = x + self._product("out", layer, attended.reshape(*x.shape[:2], -1))
            raised = self._product("up", layer, self._norm(x, 2 * layer + 1))
            if self.gated:
                gate, raised = raised.chunk(2, dim=2)
                active = F.silu(gate) * raised
            else:
                active = F.gelu(raised, approximate="tanh")
            x = x + self._product("down", layer, active)
        return self._norm(x, -1)

    def _heads(self, layer: int, qkv: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The product (B, T, outputs) as queries, keys and values (B, heads, T, head size)."""
        w, size = self.weights, self.weights.cos.shape[1]
        counts = [w.n_heads, w.n_kv_heads, w.n_kv_heads]
        query, key, value = qkv.view(*qkv.shape[:2], -1, size).transpose(1, 2).split(counts, dim=1)
        if len(w.head_norms):
            query, key = (F.rms_norm(part, (size,), norm, w.eps)
                          for part, norm in zip((query, key), w.head_norms[layer], strict=True))
        if len(w.cos):
            cos, sin = (table[positions].unsqueeze(1) for table in (w.cos, w.sin))  # (B, 1, T, head size)
            query, key = (part * cos + _rotated(part) * sin for part in (query, key))
        return query, key, value

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
