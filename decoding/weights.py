"""The weights of a trained GPT-2, Qwen3 or Llama as one description: matrices of all layers in one tensor; queries,
keys and values in one product, gate and up projection in one."""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

INT8_MAX = 127


PRECISIONS = ["fp32", "int8"]
"""Of the matrices, for a `Decoder`."""


class Matrix(NamedTuple):
    """Of every layer: y = scale * (weight @ x) + bias."""

    weight: Tensor
    """(layers, outputs, inputs) float32 or int8"""
    scale: Tensor
    """(layers, outputs)"""
    bias: Tensor
    """(layers, outputs)"""


class Attention(NamedTuple):
    """What happens between the products of attention."""

    head_norms: Tensor
    cos: Tensor
    sin: Tensor
    eps: float
    n_heads: int
    n_kv_heads: int


class Weights(NamedTuple):
    """A decoder-only transformer with heads for codes. What a kind of backbone does not have, has no rows.

    Norms are LayerNorm where they have a bias, else RMSNorm (arXiv 1910.07467); the feed-forward part is GELU, or
    SwiGLU (arXiv 2002.05202) where `up` has twice the inputs of `down`.
    """

    qkv: Matrix
    out: Matrix
    up: Matrix
    down: Matrix
    heads: Matrix
    """One layer: all codebooks' heads below one another."""
    norms: Tensor
    """(2 layers + 1, D): before attention and before the feed-forward part of every layer, then the last"""
    norm_biases: Tensor
    """(2 layers + 1, D), or (0, D) for RMSNorm"""
    head_norms: Tensor
    """(layers, 2, head size) RMSNorm of queries and keys (Qwen3), or (0, 2, head size)"""
    positions: Tensor
    """(positions, D) learned, or (0, D)"""
    cos: Tensor
    """(positions, head size) of rotary positions (arXiv 2104.09864), or (0, head size)"""
    sin: Tensor
    eps: float
    n_heads: int
    n_kv_heads: int

    @property
    def attention(self) -> Attention:
        """The part of it that attention needs."""
        return Attention(self.head_norms, self.cos, self.sin, self.eps, self.n_heads, self.n_kv_heads)


@torch.no_grad()
def read_weights(body: "PreTrainedModel", heads: list[Tensor]) -> Weights:
    """A copy of the weights of a GPT2Model, Qwen3Model or LlamaModel and of heads (V, D), on their device."""
    read = _gpt2 if body.config.model_type == "gpt2" else _rotary
    return read(body, _matrix([torch.cat(heads)], [None]))


def quantized(weights: Weights) -> Weights:
    """The matrices in int8, one scale for each output; activations stay as they are."""
    return weights._replace(**{name: _quantized(getattr(weights, name)) for name in MATRICES})


def restored(weights: Weights) -> Weights:
    """What int8 matrices stand for, in float32."""
    return weights._replace(**{name: _restored(getattr(weights, name)) for name in MATRICES})


MATRICES = ["qkv", "out", "up", "down", "heads"]


def weight_bytes(weights: Weights) -> int:
    """What one step reads of the matrices."""
    return sum(getattr(weights, name).weight.nbytes for name in MATRICES)


def matrix_inputs(network: nn.Module) -> dict[str, int]:
    """Names of the weights of a network's linear layers, which are those that a `Decoder` of it keeps as matrices, and
    which of their two dimensions is the layer's inputs."""
    from transformers.pytorch_utils import Conv1D  # here, for the library takes seconds to load

    return {f"{name}.weight": 0 if isinstance(module, Conv1D) else 1
            for name, module in network.named_modules() if isinstance(module, Conv1D | nn.Linear)}


def to_int8(weight: Tensor, inputs: int) -> tuple[Tensor, Tensor]:
    """A matrix as int8 and the scale of each output, of size 1 in the dimension `inputs`, so that int8 times scale is
    the matrix; of what that is, the same int8."""
    scale = weight.abs().amax(inputs, keepdim=True).clamp(min=1e-12) / INT8_MAX
    return (weight / scale).round().to(torch.int8), scale


def _quantized(matrix: Matrix) -> Matrix:
    weight, scale = to_int8(matrix.weight, 2)
    return Matrix(weight, scale.squeeze(2), matrix.bias)


def _restored(matrix: Matrix) -> Matrix:
    return Matrix(matrix.weight * matrix.scale.unsqueeze(2), torch.ones_like(matrix.scale), matrix.bias)


def _matrix(weights: list[Tensor], biases: list[Tensor | None]) -> Matrix:
    """One (outputs, inputs) and its bias for each layer."""
    weight = torch.stack(weights).float().contiguous()
    bias = [torch.zeros(weight.shape[1], device=weight.device) if b is None else b.float() for b in biases]
    return Matrix(weight, torch.ones(weight.shape[:2], device=weight.device), torch.stack(bias))


def _gpt2(body: "PreTrainedModel", heads: Matrix) -> Weights:
    def matrix(layers: list) -> Matrix:
        return _matrix([layer.weight.T for layer in layers], [layer.bias for layer in layers])

    norms = [norm for block in body.h for norm in (block.ln_1, block.ln_2)] + [body.ln_f]
    n_heads, D = body.config.n_head, body.config.n_embd
    none = body.wpe.weight.new_zeros(0, D // n_heads)
    return Weights(
        qkv=matrix([block.attn.c_attn for block in body.h]), out=matrix([block.attn.c_proj for block in body.h]),
        up=matrix([block.mlp.c_fc for block in body.h]), down=matrix([block.mlp.c_proj for block in body.h]),
        heads=heads, norms=torch.stack([norm.weight for norm in norms]),
        norm_biases=torch.stack([norm.bias for norm in norms]), head_norms=none.new_zeros(0, 2, D // n_heads),
        positions=body.wpe.weight.clone(), cos=none, sin=none, eps=body.config.layer_norm_epsilon,
        n_heads=n_heads, n_kv_heads=n_heads,
    )


def _rotary(body: "PreTrainedModel", heads: Matrix) -> Weights:
    def matrix(rows: list[list]) -> Matrix:
        weights = [torch.cat([layer.weight for layer in row]) for row in rows]
        biases = [None if row[0].bias is None else torch.cat([layer.bias for layer in row]) for row in rows]
        return _matrix(weights, biases)

    config, layers = body.config, body.layers
    attention, mlp = [layer.self_attn for layer in layers], [layer.mlp for layer in layers]
    norms = [norm for layer in layers for norm in (layer.input_layernorm, layer.post_attention_layernorm)]
    norms = torch.stack([norm.weight for norm in [*norms, body.norm]])
    places = torch.arange(config.max_position_embeddings, device=norms.device).unsqueeze(0)
    cos, sin = body.rotary_emb(norms, places)  # (1, positions, head size)
    head_norms = norms.new_zeros(0, 2, config.head_dim)
    if config.model_type == "qwen3":
        head_norms = torch.stack([torch.stack([a.q_norm.weight, a.k_norm.weight]) for a in attention])
    return Weights(
        qkv=matrix([[a.q_proj, a.k_proj, a.v_proj] for a in attention]), out=matrix([[a.o_proj] for a in attention]),
        up=matrix([[m.gate_proj, m.up_proj] for m in mlp]), down=matrix([[m.down_proj] for m in mlp]),
        heads=heads, norms=norms, norm_biases=norms.new_zeros(0, norms.shape[1]), head_norms=head_norms,
        positions=norms.new_zeros(0, norms.shape[1]), cos=cos[0].contiguous(), sin=sin[0].contiguous(),
        eps=config.rms_norm_eps, n_heads=config.num_attention_heads, n_kv_heads=config.num_key_value_heads,
    )
