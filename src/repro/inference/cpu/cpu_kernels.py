"""Compiled kernels of the CPU engine: its operations but the matrix products, and their gradients.

Arrays of states are float32, or uint16 with the bits of bfloat16. The latter are widened to float32
when they are loaded, and rounded when they are stored. A kernel writes its results to its last
arguments. A kernel named `_backward` takes the gradient of a result and writes those of the inputs.
"""

import math

import numpy as np
from numba import njit, types
from numba.extending import overload

from repro.inference.compiled import keeps

# The compiler may reorder sums, so that it can vectorise them; NaN and infinity are kept.
IS_CACHED = keeps(__file__)  # between processes
_compiled = njit(
    nogil=True,
    cache=IS_CACHED,
    error_model="numpy",
    fastmath={"reassoc", "contract", "nsz", "arcp"},
)
_inlined = njit(inline="always")  # compiled as a part of its caller
# No sum may be reordered: a result does not depend on its place in a row.
_elementwise = njit(nogil=True, cache=IS_CACHED, error_model="numpy", fastmath={"contract"})


@_inlined
def _to_nearest(bits):
    """Return the bits of a float32 whose upper half is the nearest bfloat16, ties to even."""
    last = (bits >> np.uint32(16)) & np.uint32(1)
    return np.uint32(bits + np.uint32(0x7FFF) + last)


def load(x):
    """Return a stored number as float32. For compiled code only."""


def store(x, out):
    """Return a float32 as `out` stores it, rounded to nearest even. For compiled code only."""


@overload(load, inline="always")
def _load(x):
    if isinstance(x, types.Integer):
        return lambda x: np.uint32(np.uint32(x) << np.uint32(16)).view(np.float32)
    return lambda x: x


@overload(store, inline="always")
def _store(x, out):
    if not isinstance(out.dtype, types.Integer):
        return lambda x, out: x

    return lambda x, out: np.uint16(_to_nearest(np.float32(x).view(np.uint32)) >> np.uint32(16))


# e^x = 2^n · e^r with n = round(x / ln 2) and |r| ≤ ½ ln 2 (Cody and Waite's reduction):
# 1. x / ln 2 + 1.5 · 2^23 has n in its lowest bits, since a float32 of that size has no fraction;
# 2. r = x − n ln 2, with ln 2 in two parts: the first ends in zeros, so that n times it is exact;
# 3. e^r by eight terms of its Taylor series;
# 4. 2^n by writing n into the exponent.
# `np.exp` would be a function call for each number, and would not be vectorised.
_INVERSE_LN2, _ROUNDER = np.float32(1 / math.log(2)), np.float32(1.5 * 2**23)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(math.log(2) - 0.693359375)
_TAYLOR = tuple(np.float32(1 / math.factorial(n)) for n in range(8))


@_elementwise
def exp(x):
    """Return e^x within a relative 1e-7; 0 below −87."""
    x = np.float32(-87.3) if x < np.float32(-87.3) else x
    x = np.float32(89) if x > np.float32(89) else x
    shifted = x * _INVERSE_LN2 + _ROUNDER
    n = shifted - _ROUNDER
    rest = x - n * _LN2_HIGH - n * _LN2_LOW
    series = _TAYLOR[7]
    for term in (6, 5, 4, 3, 2, 1, 0):
        series = series * rest + _TAYLOR[term]
    half_power = np.int32((np.float32(shifted).view(np.int32) + 126) << 23).view(np.float32)
    return series * np.float32(2) * half_power  # 2^n would be infinite for the largest n


@_elementwise
def round_to_bfloat16(x):
    """Round float32 numbers to the nearest bfloat16, in place."""
    bits = x.view(np.uint32)
    for i in range(bits.shape[0]):
        for j in range(bits.shape[1]):
            bits[i, j] = _to_nearest(bits[i, j]) & np.uint32(0xFFFF0000)


@_elementwise
def gated_activation(gate, up, a, b, out):
    """Compute SwiGLU or GeGLU: x · σ(ax + bx³) · up, where x is the gate.

    If b is 0, x³ is left out, because it is infinite for large x.
    """
    for i in range(gate.shape[0]):
        for j in range(gate.shape[1]):
            x = load(gate[i, j])
            z = a * x if b == 0 else x * (a + b * x * x)
            out[i, j] = store(x / (np.float32(1) + exp(-z)) * load(up[i, j]), out)


@_elementwise
def gated_activation_backward(gate, up, a, b, grad, to_gate, to_up):
    """Compute the gradients of `gated_activation`: of the gate and of `up`."""
    for i in range(gate.shape[0]):
        for j in range(gate.shape[1]):
            x, g = load(gate[i, j]), load(grad[i, j])
            z = a * x if b == 0 else x * (a + b * x * x)
            z_slope = a if b == 0 else a + np.float32(3) * b * x * x
            sigmoid = np.float32(1) / (np.float32(1) + exp(-z))
            to_up[i, j] = store(g * x * sigmoid, to_up)
            slope = sigmoid * (np.float32(1) + x * (np.float32(1) - sigmoid) * z_slope)
            to_gate[i, j] = store(g * load(up[i, j]) * slope, to_gate)


@_compiled
def rms_norm(x, weight, offset, epsilon, out):
    """Compute the RMS norm of each row; `offset` is added to the weights."""
    for i in range(x.shape[0]):
        squares = np.float32(0)
        for j in range(x.shape[1]):
            squares += load(x[i, j]) * load(x[i, j])
        scale = np.float32(1) / np.sqrt(squares / np.float32(x.shape[1]) + epsilon)
        for j in range(x.shape[1]):
            out[i, j] = store((offset + load(weight[j])) * (load(x[i, j]) * scale), out)


@_compiled
def rms_norm_backward(x, weight, offset, epsilon, grad, to_x, to_weight):
    """Compute the float32 gradients of `rms_norm`; that of the weights is added to `to_weight`."""
    size = np.float32(x.shape[1])
    for i in range(x.shape[0]):
        squares, projection = np.float32(0), np.float32(0)
        for j in range(x.shape[1]):
            squares += load(x[i, j]) * load(x[i, j])
            projection += (offset + load(weight[j])) * load(grad[i, j]) * load(x[i, j])
        scale = np.float32(1) / np.sqrt(squares / size + epsilon)
        projection *= scale * scale / size
        for j in range(x.shape[1]):
            scaled = (offset + load(weight[j])) * load(grad[i, j])
            to_x[i, j] = scale * (scaled - projection * load(x[i, j]))
            to_weight[j] += load(grad[i, j]) * load(x[i, j]) * scale


@_compiled
def rotate(x, depth, cos, sin, direction, out):
    """Apply the rotary embedding: rotate pairs of numbers, one from each half of a head.

    `depth` is the position of each row. A `direction` of −1 rotates back, which is the gradient.
    """
    half = x.shape[2] // 2
    for i in range(x.shape[0]):
        c, s = cos[depth[i]], sin[depth[i]]
        for h in range(x.shape[1]):
            for j in range(half):
                a, b = load(x[i, h, j]), load(x[i, h, half + j])
                out[i, h, j] = store(a * c[j] - direction * b * s[j], out)
                out[i, h, half + j] = store(b * c[j] + direction * a * s[j], out)


# Attention over shared prefixes. The keys and values of a node are stored once, although many texts
# share the node. A query finds the nodes of its own prefix in `path`, and attends to them only:
# 1. `_query_key_products`: the products of the query with the keys of these nodes;
# 2. `_attention_weights`: the softmax of the products;
# 3. `_add_weighted`: the sum of the values of these nodes with these weights.
# Loops go over four nodes at a time, because a pass over the numbers of one head is so short that
# its start would take as long as the pass. So the number of nodes is rounded up to a multiple of
# four with copies of the query's own node, whose weight is 0.


@_inlined
def _query_key_products(q, i, h, keys, g, seen, products):
    """Write the product of head `h` of query `i` with each key `seen`; return the largest."""
    top = np.float32(-np.inf)
    for a in range(0, len(seen), 4):
        k0, k1, k2, k3 = seen[a], seen[a + 1], seen[a + 2], seen[a + 3]
        d0 = d1 = d2 = d3 = np.float32(0)
        for j in range(q.shape[2]):
            x = load(q[i, h, j])
            d0 += x * load(keys[k0, g, j])
            d1 += x * load(keys[k1, g, j])
            d2 += x * load(keys[k2, g, j])
            d3 += x * load(keys[k3, g, j])
        products[a], products[a + 1], products[a + 2], products[a + 3] = d0, d1, d2, d3
        top = max(top, max(max(d0, d1), max(d2, d3)))
    return top


@_inlined
def _add_weighted(out, values, g, seen, weights):
    """Add the weighted sum of the values of one head to `out`, (size,)."""
    for a in range(0, len(seen), 4):
        v0, v1, v2, v3 = seen[a], seen[a + 1], seen[a + 2], seen[a + 3]
        w0, w1, w2, w3 = weights[a], weights[a + 1], weights[a + 2], weights[a + 3]
        for j in range(len(out)):
            half = w0 * load(values[v0, g, j]) + w1 * load(values[v1, g, j])
            out[j] += half + w2 * load(values[v2, g, j]) + w3 * load(values[v3, g, j])


@_inlined
def _attention_weights(q, i, h, keys, g, scale, seen, count, weights):
    """Write the numerators of the softmax to `weights`; return their sum, the denominator."""
    total = np.float32(0)
    top = _query_key_products(q, i, h, keys, g, seen, weights)
    for a in range(count, len(seen)):
        weights[a] = -np.inf
    for a in range(len(seen)):
        weights[a] = exp((weights[a] - top) * scale)
        total += weights[a]
    return total


@_compiled
def attention(q, keys, values, nodes, path, depth, scale, window, out):
    """Compute the attention of each query to the last `window` nodes of its prefix.

    Args:
        q: (queries, heads, size).
        keys, values: (all nodes, key heads, size).
        nodes: (queries,), the node of each query, which is the last one that it attends to.
        path, depth: of `PrefixTree`.
        scale: of the products of queries and keys.
        window: the most nodes that a query attends to.
        out: (queries, heads, size).
    """
    group, room = q.shape[1] // keys.shape[1], path.shape[1] + 3
    rows, numbers = np.empty(room, np.uint64), np.empty(room, np.float32)
    mean = np.empty(q.shape[2], np.float32)
    for i in range(q.shape[0]):
        count = min(depth[nodes[i]] + 1, window)
        first, padded = depth[nodes[i]] + 1 - count, (count + 3) // 4 * 4
        seen, weights = rows[:padded], numbers[:padded]
        for a in range(padded):
            seen[a] = path[nodes[i], first + min(a, count - 1)]
        for h in range(q.shape[1]):
            total = _attention_weights(q, i, h, keys, h // group, scale, seen, count, weights)
            mean[:] = 0
            _add_weighted(mean, values, h // group, seen, weights)
            for j in range(q.shape[2]):
                out[i, h, j] = store(mean[j] / total, out)


@_compiled
def attention_backward(
    q, keys, values, nodes, path, depth, scale, window, grad, to_q, to_keys, to_values
):
    """Compute the float32 gradients of `attention`, and add them to the last three arrays."""
    group, room = q.shape[1] // keys.shape[1], path.shape[1] + 3
    rows, numbers = np.empty(room, np.uint64), np.empty((2, room), np.float32)
    for i in range(q.shape[0]):
        count = min(depth[nodes[i]] + 1, window)
        first, padded = depth[nodes[i]] + 1 - count, (count + 3) // 4 * 4
        seen, weights, slopes = rows[:padded], numbers[0, :padded], numbers[1, :padded]
        for a in range(padded):
            seen[a] = path[nodes[i], first + min(a, count - 1)]
        for h in range(q.shape[1]):
            g, mean = h // group, np.float32(0)
            # Compute the weights again, and the gradient of each weight: the product of the value
            # with the gradient of the result.
            total = _attention_weights(q, i, h, keys, g, scale, seen, count, weights)
            _query_key_products(grad, i, h, values, g, seen, slopes)
            for a in range(padded):
                weights[a] /= total
                mean += weights[a] * slopes[a]
            # Through the softmax: the gradient of a product is w (s − Σ w s).
            for a in range(padded):
                slopes[a] = weights[a] * (slopes[a] - mean) * scale
            _add_weighted(to_q[i, h], keys, g, seen, slopes)
            for a in range(count):
                weight, slope, row = weights[a], slopes[a], seen[a]
                for j in range(q.shape[2]):
                    to_values[row, g, j] += weight * load(grad[i, h, j])
                    to_keys[row, g, j] += slope * load(q[i, h, j])
