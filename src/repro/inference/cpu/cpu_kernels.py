"""The loops of `repro.inference.cpu.cpu_engine`, compiled: what in a network is no matrix product.

Arrays are float32 unless they hold nodes; or they hold a bfloat16's bits as uint16, which are
computed with as float32 and rounded where they are stored. Each loop fills the arrays that it is
given last; those that end in `_back` take a gradient and give those of what went in.
"""

import math

import numpy as np
from numba import njit, types
from numba.extending import overload

# Sums may be reordered, which lets them be vectorised; NaN and infinity stay what they are.
_compiled = njit(
    nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz", "arcp"}
)
_inlined = njit(inline="always")  # compiled as a part of what calls it
# Elementwise, without sums: so a number is the same wherever it stands in its row.
_exact = njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})


@_inlined
def _to_nearest(bits):
    # A float32's bits, their upper half now the nearest bfloat16's; halfway, the even one's.
    last = (bits >> np.uint32(16)) & np.uint32(1)
    return np.uint32(bits + np.uint32(0x7FFF) + last)


def wide(x):
    """The float32 of a number as it is stored. Compiled code alone can call it."""


def narrow(x, out):
    """A float32 as an array stores it, to the nearest even. Compiled code alone can call it."""


@overload(wide, inline="always")
def _wide(x):
    if isinstance(x, types.Integer):
        return lambda x: np.uint32(np.uint32(x) << np.uint32(16)).view(np.float32)
    return lambda x: x


@overload(narrow, inline="always")
def _narrow(x, out):
    if not isinstance(out.dtype, types.Integer):
        return lambda x, out: x

    return lambda x, out: np.uint16(_to_nearest(np.float32(x).view(np.uint32)) >> np.uint32(16))


# e^x is 2^n · e^r: `+ _WHOLE` leaves n in a number's lowest bits, and |r| ≤ ½ ln 2 takes eight
# terms. The parts of ln 2 add up to more of it than a float32 holds; the first has zeros at its
# end, so that n times it is exact. `np.exp` would be a call for each number.
_PER_LOG, _WHOLE = np.float32(1 / math.log(2)), np.float32(1.5 * 2**23)
_LOG, _LOG_REST = np.float32(0.693359375), np.float32(math.log(2) - 0.693359375)
_TERMS = tuple(np.float32(1 / math.factorial(n)) for n in range(8))


@_exact
def exp(x):
    """e^x within a relative 1e-7; 0 below −87."""
    x = np.float32(-87.3) if x < np.float32(-87.3) else x
    x = np.float32(89) if x > np.float32(89) else x
    shifted = x * _PER_LOG + _WHOLE
    n = shifted - _WHOLE
    rest = x - n * _LOG - n * _LOG_REST
    found = _TERMS[7]
    for term in (6, 5, 4, 3, 2, 1, 0):
        found = found * rest + _TERMS[term]
    half = np.int32((np.float32(shifted).view(np.int32) + 126) << 23).view(np.float32)
    return found * np.float32(2) * half  # 2^n is infinite for the largest n


@_exact
def round_off(x):
    """Round float32 to what a bfloat16 can hold, in place."""
    bits = x.view(np.uint32)
    for i in range(bits.shape[0]):
        for j in range(bits.shape[1]):
            bits[i, j] = _to_nearest(bits[i, j]) & np.uint32(0xFFFF0000)


@_exact
def glow(gate, up, a, b, out):
    """x · σ(ax + bx³) · up, of x in the gate; b = 0: of any x."""
    for i in range(gate.shape[0]):
        for j in range(gate.shape[1]):
            x = wide(gate[i, j])
            z = a * x if b == 0 else x * (a + b * x * x)
            out[i, j] = narrow(x / (np.float32(1) + exp(-z)) * wide(up[i, j]), out)


@_exact
def glow_back(gate, up, a, b, grad, to_gate, to_up):
    """Back through `glow`."""
    for i in range(gate.shape[0]):
        for j in range(gate.shape[1]):
            x, along = wide(gate[i, j]), wide(grad[i, j])
            z = a * x if b == 0 else x * (a + b * x * x)
            steep = a if b == 0 else a + np.float32(3) * b * x * x
            share = np.float32(1) / (np.float32(1) + exp(-z))
            to_up[i, j] = narrow(along * x * share, to_up)
            slope = share * (np.float32(1) + x * (np.float32(1) - share) * steep)
            to_gate[i, j] = narrow(along * wide(up[i, j]) * slope, to_gate)


@_compiled
def normalise(x, weight, origin, epsilon, out):
    """RMS norm of each row; the weights count from `origin`."""
    for i in range(x.shape[0]):
        squares = np.float32(0)
        for j in range(x.shape[1]):
            squares += wide(x[i, j]) * wide(x[i, j])
        scale = np.float32(1) / np.sqrt(squares / np.float32(x.shape[1]) + epsilon)
        for j in range(x.shape[1]):
            out[i, j] = narrow((origin + wide(weight[j])) * (wide(x[i, j]) * scale), out)


@_compiled
def normalise_back(x, weight, origin, epsilon, grad, to_x, to_weight):
    """Back through `normalise`; both are float32, `to_weight` is added to."""
    size = np.float32(x.shape[1])
    for i in range(x.shape[0]):
        squares, along = np.float32(0), np.float32(0)
        for j in range(x.shape[1]):
            squares += wide(x[i, j]) * wide(x[i, j])
            along += (origin + wide(weight[j])) * wide(grad[i, j]) * wide(x[i, j])
        scale = np.float32(1) / np.sqrt(squares / size + epsilon)
        along *= scale * scale / size
        for j in range(x.shape[1]):
            own = (origin + wide(weight[j])) * wide(grad[i, j])
            to_x[i, j] = scale * (own - along * wide(x[i, j]))
            to_weight[j] += wide(grad[i, j]) * wide(x[i, j]) * scale


@_compiled
def turn(x, depth, cos, sin, direction, out):
    """Rotary positions as transformers has them: a head's first half against its second."""
    half = x.shape[2] // 2
    for i in range(x.shape[0]):
        c, s = cos[depth[i]], sin[depth[i]]
        for h in range(x.shape[1]):
            for j in range(half):
                a, b = wide(x[i, h, j]), wide(x[i, h, half + j])
                out[i, h, j] = narrow(a * c[j] - direction * b * s[j], out)
                out[i, h, half + j] = narrow(b * c[j] + direction * a * s[j], out)


# Of a node's beginning four rows are taken together: each pass over a head is so short that to
# enter it takes as long. `seen` fills up the last four with the node itself, whose share is 0.


@_inlined
def _dots(q, i, h, keys, g, seen, found):
    # Fills `found` with the product of one head of a query and each row, and returns the largest.
    top = np.float32(-np.inf)
    for a in range(0, len(seen), 4):
        k0, k1, k2, k3 = seen[a], seen[a + 1], seen[a + 2], seen[a + 3]
        d0 = d1 = d2 = d3 = np.float32(0)
        for j in range(q.shape[2]):
            x = wide(q[i, h, j])
            d0 += x * wide(keys[k0, g, j])
            d1 += x * wide(keys[k1, g, j])
            d2 += x * wide(keys[k2, g, j])
            d3 += x * wide(keys[k3, g, j])
        found[a], found[a + 1], found[a + 2], found[a + 3] = d0, d1, d2, d3
        top = max(top, max(max(d0, d1), max(d2, d3)))
    return top


@_inlined
def _add(out, values, g, seen, shares):
    # Adds to `out` (size,) each row's share of it.
    for a in range(0, len(seen), 4):
        v0, v1, v2, v3 = seen[a], seen[a + 1], seen[a + 2], seen[a + 3]
        s0, s1, s2, s3 = shares[a], shares[a + 1], shares[a + 2], shares[a + 3]
        for j in range(len(out)):
            half = s0 * wide(values[v0, g, j]) + s1 * wide(values[v1, g, j])
            out[j] += half + s2 * wide(values[v2, g, j]) + s3 * wide(values[v3, g, j])


@_inlined
def _weigh(q, i, h, keys, g, scale, seen, count, shares):
    # Fills `shares` with how much a query attends to each row, still to be divided by their sum.
    total = np.float32(0)
    top = _dots(q, i, h, keys, g, seen, shares)
    for a in range(count, len(seen)):
        shares[a] = -np.inf
    for a in range(len(seen)):
        shares[a] = exp((shares[a] - top) * scale)
        total += shares[a]
    return total


@_compiled
def attend(q, keys, values, nodes, path, depth, scale, window, out):
    """Attention of each query to its node's beginning: at most `window` nodes, itself included."""
    group, room = q.shape[1] // keys.shape[1], path.shape[1] + 3
    rows, weights = np.empty(room, np.uint64), np.empty(room, np.float32)
    mean = np.empty(q.shape[2], np.float32)
    for i in range(q.shape[0]):
        count = min(depth[nodes[i]] + 1, window)
        first, whole = depth[nodes[i]] + 1 - count, (count + 3) // 4 * 4
        seen, shares = rows[:whole], weights[:whole]
        for a in range(whole):
            seen[a] = path[nodes[i], first + min(a, count - 1)]
        for h in range(q.shape[1]):
            total = _weigh(q, i, h, keys, h // group, scale, seen, count, shares)
            mean[:] = 0
            _add(mean, values, h // group, seen, shares)
            for j in range(q.shape[2]):
                out[i, h, j] = narrow(mean[j] / total, out)


@_compiled
def attend_back(q, keys, values, nodes, path, depth, scale, window, grad, to_q, to_keys, to_values):
    """Back through `attend`; all three are float32 and added to."""
    group, room = q.shape[1] // keys.shape[1], path.shape[1] + 3
    rows, weights = np.empty(room, np.uint64), np.empty((2, room), np.float32)
    for i in range(q.shape[0]):
        count = min(depth[nodes[i]] + 1, window)
        first, whole = depth[nodes[i]] + 1 - count, (count + 3) // 4 * 4
        seen, shares, slopes = rows[:whole], weights[0, :whole], weights[1, :whole]
        for a in range(whole):
            seen[a] = path[nodes[i], first + min(a, count - 1)]
        for h in range(q.shape[1]):
            g, mean = h // group, np.float32(0)
            total = _weigh(q, i, h, keys, g, scale, seen, count, shares)
            _dots(grad, i, h, values, g, seen, slopes)
            for a in range(whole):
                shares[a] /= total
                mean += shares[a] * slopes[a]
            for a in range(whole):
                slopes[a] = shares[a] * (slopes[a] - mean) * scale
            _add(to_q[i, h], keys, g, seen, slopes)
            for a in range(count):
                share, slope, row = shares[a], slopes[a], seen[a]
                for j in range(q.shape[2]):
                    to_values[row, g, j] += share * wide(grad[i, h, j])
                    to_keys[row, g, j] += slope * wide(q[i, h, j])


@_compiled
def deepest(parents):
    """Tokens of the longest text of a tree."""
    depth, most = np.ones(len(parents), np.int64), 0
    for i in range(len(parents)):
        if parents[i] >= 0:
            depth[i] = depth[parents[i]] + 1
        most = max(most, depth[i])
    return most


@_compiled
def follow(parents, start, path, depth):
    """Depth of new nodes, and the nodes of their beginnings."""
    for i in range(len(parents)):
        node, parent = start + i, parents[i]
        depth[node] = depth[parent] + 1 if parent >= 0 else 0
        for j in range(depth[node]):
            path[node, j] = path[parent, j]
        path[node, depth[node]] = node


@_compiled
def plant(tokens, lengths, order, parents, rows):
    """Parents and rows of `repro.inference.cpu.cpu_engine.plant`, and the number of nodes."""
    # Over `tokens` the nodes' own are written: there are never more nodes than tokens read.
    size, start, before = 0, 0, 0
    for i in range(len(order)):
        row, last, same = rows[order[i]], -1, i > 0
        for j in range(lengths[i]):
            token = tokens[start + j]
            node = rows[before, j] if same else -1
            same = same and node >= 0 and tokens[node] == token
            if not same:
                node, size = size, size + 1
                tokens[node], parents[node] = token, last
            row[j], last = node, node
        start, before = start + lengths[i], order[i]
    return size
