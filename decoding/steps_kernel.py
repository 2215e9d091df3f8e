"""Whole steps, from logits to logits, of a few rows on one CPU core, compiled by numba."""

import numpy as np
from numba import njit

from decoding.compiled import OPTIONS
from decoding.draw_kernel import draw
from decoding.kernel import step


@njit(**OPTIONS)
def take_steps(weights, attention, code_table, sampling, rows, first, last, most):
    """Draws and reads up to `most` steps of rows `first` to `last` - 1, until one of them has ended.

    `rows`: the arrays of `Rows`; `code_table` (n_codebooks, codes, D): the embeddings; `sampling`: as of `draw`.
    """
    steps, bounds, frames, done = (
        rows.steps[first:last], rows.bounds[first:last], rows.frames[first:last], rows.done[first:last])
    late, recent, uniform, codes = (
        rows.late[first:last], rows.recent[first:last], rows.uniform[first:last], rows.codes[first:last])
    positions, hidden, logits, states = (
        rows.positions[first:last], rows.hidden[first:last], rows.logits[first:last], rows.states[first:last])
    x, limit, n_states = np.empty(hidden.shape, np.float32), rows.keys.shape[3] - 1, states.shape[1]
    for _ in range(most):
        draw(sampling, steps, bounds, frames, done, late, recent, uniform, codes, logits)
        if done.all() and n_states == 0:
            return
        for row in range(len(x)):
            x[row] = 0
            for k in range(codes.shape[1]):
                x[row] += code_table[k, codes[row, k, min(steps[row] - 1, limit)]]
        step(weights, attention, x, positions, rows.keys, rows.values, first, hidden, logits)
        for row in range(len(x)):
            if n_states > 0:
                states[row, min(steps[row], n_states - 1)] = hidden[row]
            positions[row] = min(positions[row] + 1, limit)
        if done.any():
            return
