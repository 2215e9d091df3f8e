"""One step of the transformer for a few rows on one CPU core, compiled by numba: nothing but the weights is read from
memory, each once, and four streams of them at a time, which a core follows faster than one or two."""

import math

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload
from torch import Tensor

from decoding.compiled import OPTIONS
from decoding.int8_dots import LANES, four_dots, to_int16

ZERO, HALF, ONE = np.float32(0), np.float32(0.5), np.float32(1)
LOG2_E, LN2_HIGH, LN2_LOW = np.float32(1.44269504), np.float32(0.693359375), np.float32(-2.12194440e-4)
C1, C2, C3 = np.float32(1.9875691500e-4), np.float32(1.3981999507e-3), np.float32(8.3334519073e-3)
C4, C5 = np.float32(4.1665795894e-2), np.float32(1.6666665459e-1)
SMALLEST, LARGEST = np.float32(-87), np.float32(88)
GELU_LINEAR, GELU_CUBIC = np.float32(2 * math.sqrt(2 / math.pi)), np.float32(0.044715)


def arrays_of(weights: tuple, copied: bool = False) -> tuple:
    """Named tuples of tensors as the same of NumPy arrays, which share their memory; or copies, which are read a little
    faster, because NumPy asks the system for large pages and PyTorch does not."""
    if isinstance(weights, tuple):
        return type(weights)(*[arrays_of(value, copied) for value in weights])
    if not isinstance(weights, Tensor):
        return weights
    return weights.numpy().copy() if copied else weights.numpy()


@intrinsic
def float_of_bits(_context, bits):
    """The float32 that has the bits of an int32."""
    def code(_context, builder, _signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), code


@njit(inline="always", **OPTIONS)
def exponential(x):
    """e^x within 2 units in the last place, without branches (Cephes' expf)."""
    x = min(max(x, SMALLEST), LARGEST)
    power = np.floor(x * LOG2_E + HALF)
    r = x - power * LN2_HIGH - power * LN2_LOW
    y = ((((C1 * r + C2) * r + C3) * r + C4) * r + C5) * r + HALF
    return (y * r * r + r + ONE) * float_of_bits(np.int32(np.int32(np.int32(power) + np.int32(127)) << np.int32(23)))


def factors(weight, x):
    """x (A, inputs) float32 as a product with `weight` takes it, and what to multiply each row's results by (A,)."""


def dots(weight, first, apart, x):
    """Dot products of x (inputs,) with rows first, first + apart, first + 2 apart and first + 3 apart of `weight`
    (outputs, inputs), which are read side by side: four float32."""


@overload(factors)
def _factors(weight, x):
    return (lambda weight, x: to_int16(x)) if weight.dtype == types.int8 else (
        lambda weight, x: (x, np.ones(len(x), np.float32)))


@overload(dots, jit_options=OPTIONS | {"forceinline": True})
def _dots(weight, first, apart, x):
    def floats(weight, first, apart, x):
        a, b, c, d = ZERO, ZERO, ZERO, ZERO
        for i in range(len(x)):
            a += weight[first, i] * x[i]
            b += weight[first + apart, i] * x[i]
            c += weight[first + 2 * apart, i] * x[i]
            d += weight[first + 3 * apart, i] * x[i]
        return a, b, c, d

    def integers(weight, first, apart, x):
        whole = len(x) // LANES * LANES
        a, b, c, d = four_dots(weight, first, apart, x, whole)
        for i in range(whole, len(x)):
            a += np.float32(weight[first, i]) * np.float32(x[i])
            b += np.float32(weight[first + apart, i]) * np.float32(x[i])
            c += np.float32(weight[first + 2 * apart, i]) * np.float32(x[i])
            d += np.float32(weight[first + 3 * apart, i]) * np.float32(x[i])
        return a, b, c, d

    return integers if weight.dtype == types.int8 else floats


@njit(**OPTIONS)
def product(matrix, layer, x, y):
    """x (A, inputs) -> y (A, outputs)."""
    weight, scale, bias = matrix.weight[layer], matrix.scale[layer], matrix.bias[layer]
    part = weight.shape[0] // 4
    given, worth = factors(weight, x)
    for a in range(part):
        b, c, d = a + part, a + 2 * part, a + 3 * part
        for row in range(len(x)):
            first, second, third, fourth = dots(weight, a, part, given[row])
            y[row, a] = first * worth[row] * scale[a] + bias[a]
            y[row, b] = second * worth[row] * scale[b] + bias[b]
            y[row, c] = third * worth[row] * scale[c] + bias[c]
            y[row, d] = fourth * worth[row] * scale[d] + bias[d]
    for o in range(4 * part, weight.shape[0]):
        for row in range(len(x)):
            y[row, o] = dots(weight, o, 0, given[row])[0] * worth[row] * scale[o] + bias[o]


@njit(**OPTIONS)
def normalize(weights, index, x, y):
    """LayerNorm or RMSNorm of x (A, D) into y."""
    D, biased = x.shape[1], weights.norm_biases.shape[0] > 0
    for row in range(x.shape[0]):
        mean, square = ZERO, ZERO
        if biased:
            for i in range(D):
                mean += x[row, i]
            mean /= np.float32(D)
        for i in range(D):
            square += (x[row, i] - mean) * (x[row, i] - mean)
        factor = ONE / np.sqrt(square / np.float32(D) + np.float32(weights.eps))
        if biased:
            for i in range(D):
                y[row, i] = (x[row, i] - mean) * factor * weights.norms[index, i] + weights.norm_biases[index, i]
        else:
            for i in range(D):
                y[row, i] = x[row, i] * factor * weights.norms[index, i]


@njit(**OPTIONS)
def turn(attention, layer, which, position, vector, target):
    """A head's query (which 0) or key (1) into `target`, normalised and turned where the backbone does that."""
    size, factor = vector.shape[0], ONE
    if attention.head_norms.shape[0] > 0:
        square = ZERO
        for i in range(size):
            square += vector[i] * vector[i]
        factor = ONE / np.sqrt(square / np.float32(size) + np.float32(attention.eps))
        for i in range(size):
            vector[i] *= factor * attention.head_norms[layer, which, i]
    if attention.cos.shape[0] > 0:
        half, cos, sin = size // 2, attention.cos[position], attention.sin[position]
        for i in range(half):
            target[i] = vector[i] * cos[i] - vector[i + half] * sin[i]
            target[i + half] = vector[i + half] * cos[i + half] + vector[i] * sin[i + half]
    else:
        target[:] = vector


@njit(**OPTIONS)
def attend(attention, layer, positions, keys, values, first_row, qkv, y):
    """Queries, keys and values (A, outputs) of the new positions -> y (A, heads x head size); keys and values join
    the cache (layers, rows, kv heads, positions, head size), from `first_row` on."""
    size, shared = keys.shape[4], attention.n_heads // attention.n_kv_heads
    query, scores = np.empty(size, np.float32), np.empty(keys.shape[3], np.float32)
    factor = ONE / np.sqrt(np.float32(size))
    for row in range(qkv.shape[0]):
        position = positions[row]
        for g in range(attention.n_kv_heads):
            key, value = keys[layer, first_row + row, g], values[layer, first_row + row, g]
            first = (attention.n_heads + g) * size
            turn(attention, layer, 1, position, qkv[row, first : first + size], key[position])
            first += attention.n_kv_heads * size
            value[position] = qkv[row, first : first + size]
            for head in range(g * shared, (g + 1) * shared):
                turn(attention, layer, 0, position, qkv[row, head * size : (head + 1) * size], query)
                highest = np.float32(-np.inf)
                for j in range(position + 1):
                    score = ZERO
                    for i in range(size):
                        score += query[i] * key[j, i]
                    scores[j] = score * factor
                    highest = max(highest, scores[j])
                total, target = ZERO, y[row, head * size : (head + 1) * size]
                for j in range(position + 1):
                    scores[j] = exponential(scores[j] - highest)
                    total += scores[j]
                target[:] = ZERO
                for j in range(position + 1):
                    share = scores[j] / total
                    for i in range(size):
                        target[i] += share * value[j, i]


@njit(**OPTIONS)
def activate(x, y):
    """GELU (tanh) of x (A, width of y), or SwiGLU where x has twice that width."""
    width = y.shape[1]
    for row in range(x.shape[0]):
        if x.shape[1] == width:
            for i in range(width):
                a = x[row, i]
                y[row, i] = a / (ONE + exponential(-GELU_LINEAR * (a + GELU_CUBIC * a * a * a)))
        else:
            for i in range(width):
                a = x[row, i]
                y[row, i] = a / (ONE + exponential(-a)) * x[row, i + width]


@njit(**OPTIONS)
def add(x, y):
    """x += y."""
    for row in range(x.shape[0]):
        for i in range(x.shape[1]):
            x[row, i] += y[row, i]


@njit(**OPTIONS)
def step(weights, attention, x, positions, keys, values, first_row, hidden, logits):
    """Embeddings x (A, D), which are used up, at `positions` (A,) of A rows of the cache (layers, rows, kv heads,
    positions, head size), from `first_row` on -> the last states in `hidden` (A, D) and `logits` (A, heads)."""
    A, inner = x.shape[0], weights.down.weight.shape[2]
    qkv = np.empty((A, weights.qkv.weight.shape[1]), np.float32)
    heads = np.empty((A, weights.out.weight.shape[2]), np.float32)
    raised = np.empty((A, weights.up.weight.shape[1]), np.float32)
    active, change = np.empty((A, inner), np.float32), np.empty(x.shape, np.float32)
    if weights.positions.shape[0] > 0:
        for row in range(A):
            for i in range(x.shape[1]):
                x[row, i] += weights.positions[positions[row], i]
    for layer in range(weights.qkv.weight.shape[0]):
        normalize(weights, 2 * layer, x, change)
        product(weights.qkv, layer, change, qkv)
        attend(attention, layer, positions, keys, values, first_row, qkv, heads)
        product(weights.out, layer, heads, change)
        add(x, change)
        normalize(weights, 2 * layer + 1, x, change)
        product(weights.up, layer, change, raised)
        activate(raised, active)
        product(weights.down, layer, active, change)
        add(x, change)
    normalize(weights, weights.norms.shape[0] - 1, x, hidden)
    product(weights.heads, 0, hidden, logits)
