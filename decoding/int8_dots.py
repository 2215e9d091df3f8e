"""Products of int8 weights with a vector in 16 bits: as fast as the weights can be read, where the processor multiplies
such numbers in pairs (x86: `vpmaddwd`, or `vpdpwssd`, which LLVM makes of the pattern below). Float32 needs three
instructions for what is half of one here."""

from collections.abc import Callable

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from decoding.compiled import OPTIONS

LANES = 32
"""Products that are made at once; half as many sums."""
WEIGHT_LEVELS, LEVELS, SUM_LEVELS = 127, 32767, 2**31 - 1
INTEGER, HALF, BYTE = ir.IntType(32), ir.IntType(16), ir.IntType(8)
PRODUCTS, SUMS = ir.VectorType(INTEGER, LANES), ir.VectorType(INTEGER, LANES // 2)
FLOATS = ir.VectorType(ir.FloatType(), LANES // 2)


def _vector(builder: ir.IRBuilder, pointer: ir.Value, start: ir.Value, kind: ir.Type) -> ir.Value:
    """LANES integers from `start` on, in 32 bits each."""
    place = builder.bitcast(builder.gep(pointer, [start]), ir.VectorType(kind, LANES).as_pointer())
    return builder.sext(builder.load(place, align=kind.width // 8), PRODUCTS)


def _folded(builder: ir.IRBuilder, add: Callable, width: int, a: ir.Value, b: ir.Value | None = None) -> ir.Value:
    """Every second block of `width` lanes of vector a (and then of b) added to the block before it."""
    blocks = [[i for i in range(a.type.count * (1 if b is None else 2)) if i // width % 2 == half] for half in (0, 1)]
    return add(*(builder.shuffle_vector(a, b or ir.Constant(a.type, ir.Undefined),
                                        ir.Constant(ir.VectorType(INTEGER, len(lanes)), lanes)) for lanes in blocks))


@intrinsic
def four_dots(_context, weight, first, apart, vector, count):
    """Of rows first, first + apart, first + 2 apart and first + 3 apart of `weight` (outputs, inputs) int8, the dot
    products with `vector` (inputs,) int16 over the first `count` inputs, a multiple of LANES: four float32."""
    def code(context, builder, signature, arguments):
        weights = context.make_array(signature.args[0])(context, builder, arguments[0])
        values = context.make_array(signature.args[3])(context, builder, arguments[3])
        _, first, apart, _, count = arguments
        inputs = cgutils.unpack_tuple(builder, weights.shape)[1]
        rows = [builder.mul(inputs, builder.add(first, builder.mul(apart, context.get_constant(types.intp, i))))
                for i in range(4)]
        sums = [cgutils.alloca_once_value(builder, ir.Constant(SUMS, [0] * (LANES // 2))) for _ in rows]
        zero, step = (context.get_constant(types.intp, value) for value in (0, LANES))
        with cgutils.for_range_slice(builder, zero, count, step, count.type) as (i, _):
            x = _vector(builder, values.data, i, HALF)
            for row, total in zip(rows, sums, strict=True):
                w = _vector(builder, weights.data, builder.add(row, i), BYTE)
                pairs = _folded(builder, builder.add, 1, builder.mul(w, x))
                builder.store(builder.add(builder.load(total), pairs), total)
        # as float, since a sum over all lanes may be too large for 32 bits
        a, b, c, d = (builder.sitofp(builder.load(total), FLOATS) for total in sums)
        a_b, c_d = (_folded(builder, builder.fadd, LANES // 4, *two) for two in ((a, b), (c, d)))
        four, width = _folded(builder, builder.fadd, LANES // 8, a_b, c_d), LANES // 16
        while width:
            four, width = _folded(builder, builder.fadd, width, four), width // 2
        results = [builder.extract_element(four, ir.Constant(INTEGER, i)) for i in range(4)]
        return context.make_tuple(builder, signature.return_type, results)

    return types.UniTuple(types.float32, 4)(weight, types.intp, types.intp, vector, types.intp), code


@njit(**OPTIONS)
def to_int16(x):
    """x (A, inputs) float32 as int16, and what one level of each row is worth (A,). So many levels that no sum of
    LANES' products overflows."""
    most = min(LEVELS, SUM_LEVELS // (WEIGHT_LEVELS * 2 * (x.shape[1] // LANES + 1)))
    levels, worth = np.zeros(x.shape, np.int16), np.zeros(len(x), np.float32)
    for row in range(len(x)):
        largest = np.float32(0)
        for value in x[row]:
            largest = max(largest, abs(value))
        if largest > 0:
            factor = np.float32(most) / largest
            worth[row] = largest / np.float32(most)
            for i in range(x.shape[1]):
                levels[row, i] = np.int16(np.rint(x[row, i] * factor))
    return levels, worth
