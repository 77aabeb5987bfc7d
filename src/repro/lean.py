"""A small LLaMA on a CPU: each distinct beginning of its texts is computed once, and little else.

With a few million parameters most of the time goes into what surrounds the matrix products: many
short operations, padding, keys and values copied from row to row. Here texts form a tree, whose
nodes are tokens after their parents. A node attends to its own beginning, so nothing is padded and
nothing moved, and after the last layer's keys and values only nodes whose logits are wanted go on.
The weights are those of the network itself. Tests hold every result against transformers' own.
"""

import math
from collections.abc import Sequence
from itertools import chain

import numpy as np
import torch
from numba import njit
from torch.autograd import Function
from torch.nn.functional import linear
from transformers import LlamaForCausalLM, PreTrainedModel

SMALL = 20_000_000  # parameters up to which this is faster than what it replaces
CHUNK = 512  # nodes that pass the widest layers together: their states stay in a near cache

# Sums may be reordered, which lets them be vectorised; NaN and infinity stay what they are.
_compiled = njit(
    nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz", "arcp"}
)

_inlined = njit(inline="always")  # compiled as a part of what calls it
# Elementwise, without sums: so a number is the same wherever it stands in its row.
_exact = njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})


# --- what is no matrix product, forwards and backwards -----------------------------------------


# e^x is 2^n · e^r: `+ _WHOLE` leaves n in a number's lowest bits, and |r| ≤ ½ ln 2 takes eight
# terms. The parts of ln 2 add up to more of it than a float32 holds; the first has zeros at its
# end, so that n times it is exact. `np.exp` would be a call for each number.
_PER_LOG, _WHOLE = np.float32(1 / math.log(2)), np.float32(1.5 * 2**23)
_LOG, _LOG_REST = np.float32(0.693359375), np.float32(math.log(2) - 0.693359375)
_TERMS = tuple(np.float32(1 / math.factorial(n)) for n in range(8))


@_exact
def _exp(x):
    # Within 1e-7 of e^x, relatively; 0 below −87.
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
def _glow(gate, up, out):
    for i in range(gate.shape[0]):
        for j in range(gate.shape[1]):
            x = gate[i, j]
            out[i, j] = x / (np.float32(1) + _exp(-x)) * up[i, j]


@_exact
def _glow_back(gate, up, grad, to_gate, to_up):
    for i in range(gate.shape[0]):
        for j in range(gate.shape[1]):
            x, share = gate[i, j], np.float32(1) / (np.float32(1) + _exp(-gate[i, j]))
            to_up[i, j] = grad[i, j] * x * share
            slope = share * (np.float32(1) + x * (np.float32(1) - share))
            to_gate[i, j] = grad[i, j] * up[i, j] * slope


@_compiled
def _normalise(x, weight, epsilon, out):
    for i in range(x.shape[0]):
        squares = np.float32(0)
        for j in range(x.shape[1]):
            squares += x[i, j] * x[i, j]
        scale = np.float32(1) / np.sqrt(squares / np.float32(x.shape[1]) + epsilon)
        for j in range(x.shape[1]):
            out[i, j] = weight[j] * (x[i, j] * scale)


@_compiled
def _normalise_back(x, weight, epsilon, grad, to_x, to_weight):
    size = np.float32(x.shape[1])
    for i in range(x.shape[0]):
        squares, along = np.float32(0), np.float32(0)
        for j in range(x.shape[1]):
            squares += x[i, j] * x[i, j]
            along += weight[j] * grad[i, j] * x[i, j]
        scale = np.float32(1) / np.sqrt(squares / size + epsilon)
        along *= scale * scale / size
        for j in range(x.shape[1]):
            to_x[i, j] = scale * (weight[j] * grad[i, j] - along * x[i, j])
            to_weight[j] += grad[i, j] * x[i, j] * scale


@_compiled
def _turn(x, depth, cos, sin, direction, out):
    # Rotary positions as transformers has them: the first half of a head against the second.
    half = x.shape[2] // 2
    for i in range(x.shape[0]):
        c, s = cos[depth[i]], sin[depth[i]]
        for h in range(x.shape[1]):
            a, b = x[i, h, :half], x[i, h, half:]
            for j in range(half):
                out[i, h, j] = a[j] * c[j] - direction * b[j] * s[j]
                out[i, h, half + j] = b[j] * c[j] + direction * a[j] * s[j]


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
            d0 += q[i, h, j] * keys[k0, g, j]
            d1 += q[i, h, j] * keys[k1, g, j]
            d2 += q[i, h, j] * keys[k2, g, j]
            d3 += q[i, h, j] * keys[k3, g, j]
        found[a], found[a + 1], found[a + 2], found[a + 3] = d0, d1, d2, d3
        top = max(top, max(max(d0, d1), max(d2, d3)))
    return top


@_inlined
def _add(out, i, h, values, g, seen, shares):
    for a in range(0, len(seen), 4):
        v0, v1, v2, v3 = seen[a], seen[a + 1], seen[a + 2], seen[a + 3]
        s0, s1, s2, s3 = shares[a], shares[a + 1], shares[a + 2], shares[a + 3]
        for j in range(out.shape[2]):
            half = s0 * values[v0, g, j] + s1 * values[v1, g, j]
            out[i, h, j] += half + s2 * values[v2, g, j] + s3 * values[v3, g, j]


@_inlined
def _weigh(q, i, h, keys, g, seen, count, shares):
    # Fills `shares` with how much a query attends to each row, still to be divided by their sum.
    scale, total = np.float32(q.shape[2]) ** np.float32(-0.5), np.float32(0)
    top = _dots(q, i, h, keys, g, seen, shares)
    for a in range(count, len(seen)):
        shares[a] = -np.inf
    for a in range(len(seen)):
        shares[a] = _exp((shares[a] - top) * scale)
        total += shares[a]
    return total


@_compiled
def _attend(q, keys, values, nodes, path, depth, out):
    group, room = q.shape[1] // keys.shape[1], path.shape[1] + 3
    rows, weights = np.empty(room, np.uint64), np.empty(room, np.float32)
    for i in range(q.shape[0]):
        count = depth[nodes[i]] + 1
        whole = (count + 3) // 4 * 4
        seen, shares = rows[:whole], weights[:whole]
        for a in range(whole):
            seen[a] = path[nodes[i], min(a, count - 1)]
        for h in range(q.shape[1]):
            total = _weigh(q, i, h, keys, h // group, seen, count, shares)
            for j in range(q.shape[2]):
                out[i, h, j] = 0
            _add(out, i, h, values, h // group, seen, shares)
            for j in range(q.shape[2]):
                out[i, h, j] /= total


@_compiled
def _attend_back(q, keys, values, nodes, path, depth, grad, to_q, to_keys, to_values):
    group, room = q.shape[1] // keys.shape[1], path.shape[1] + 3
    scale = np.float32(q.shape[2]) ** np.float32(-0.5)
    rows, weights = np.empty(room, np.uint64), np.empty((2, room), np.float32)
    for i in range(q.shape[0]):
        count = depth[nodes[i]] + 1
        whole = (count + 3) // 4 * 4
        seen, shares, slopes = rows[:whole], weights[0, :whole], weights[1, :whole]
        for a in range(whole):
            seen[a] = path[nodes[i], min(a, count - 1)]
        for h in range(q.shape[1]):
            g, mean = h // group, np.float32(0)
            total = _weigh(q, i, h, keys, g, seen, count, shares)
            _dots(grad, i, h, values, g, seen, slopes)
            for a in range(whole):
                shares[a] /= total
                mean += shares[a] * slopes[a]
            for a in range(whole):
                slopes[a] = shares[a] * (slopes[a] - mean) * scale
            _add(to_q, i, h, keys, g, seen, slopes)
            for a in range(count):
                share, slope, row = shares[a], slopes[a], seen[a]
                for j in range(q.shape[2]):
                    to_values[row, g, j] += share * grad[i, h, j]
                    to_keys[row, g, j] += slope * q[i, h, j]


@_compiled
def _follow(parents, start, path, depth):
    for i in range(len(parents)):
        node, parent = start + i, parents[i]
        depth[node] = depth[parent] + 1 if parent >= 0 else 0
        for j in range(depth[node]):
            path[node, j] = path[parent, j]
        path[node, depth[node]] = node


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().numpy()


# In each, `forward` leaves in `ctx` what `backward` needs. Where no gradient is wanted, `_Dropped`
# takes it: to go through `apply` takes longer than some of this does.


class _Dropped:
    def save_for_backward(self, *tensors):
        """Keep nothing."""


def _compute(function: type[Function], *given) -> torch.Tensor:
    if torch.is_grad_enabled():
        return function.apply(*given)
    return function.forward(_Dropped(), *given)


class _Normalise(Function):
    @staticmethod
    def forward(ctx, x, weight, epsilon):
        ctx.save_for_backward(x, weight)
        ctx.epsilon, out = np.float32(epsilon), torch.empty_like(x)
        _normalise(_array(x), _array(weight), ctx.epsilon, out.numpy())
        return out

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        to_x, to_weight = torch.empty_like(x), torch.zeros_like(weight)
        given = _array(x), _array(weight), ctx.epsilon, _array(grad.contiguous())
        _normalise_back(*given, to_x.numpy(), to_weight.numpy())
        return to_x, to_weight, None


class _Glow(Function):
    @staticmethod
    def forward(ctx, gate, up):
        ctx.save_for_backward(gate, up)
        out = torch.empty_like(gate)
        _glow(_array(gate), _array(up), out.numpy())
        return out

    @staticmethod
    def backward(ctx, grad):
        back = [torch.empty_like(tensor) for tensor in ctx.saved_tensors]
        given = [_array(tensor) for tensor in (*ctx.saved_tensors, grad.contiguous())]
        _glow_back(*given, *(b.numpy() for b in back))
        return tuple(back)


class _Turn(Function):
    @staticmethod
    def forward(ctx, x, depth, cos, sin):
        ctx.given, out = (depth, cos, sin), torch.empty_like(x)
        _turn(_array(x), depth, cos, sin, np.float32(1), out.numpy())
        return out

    @staticmethod
    def backward(ctx, grad):
        out = torch.empty_like(grad)
        _turn(_array(grad.contiguous()), *ctx.given, np.float32(-1), out.numpy())
        return out, None, None, None


class _Attend(Function):
    @staticmethod
    def forward(ctx, q, keys, values, nodes, tree):
        ctx.save_for_backward(q, keys, values)
        ctx.where, out = (nodes, tree.path, tree.depth), torch.empty_like(q)
        _attend(_array(q), _array(keys), _array(values), *ctx.where, out.numpy())
        return out

    @staticmethod
    def backward(ctx, grad):
        given = [_array(tensor) for tensor in ctx.saved_tensors]
        back = [torch.zeros_like(tensor) for tensor in ctx.saved_tensors]
        _attend_back(*given, *ctx.where, _array(grad.contiguous()), *(b.numpy() for b in back))
        return *back, None, None


# --- texts as a tree ----------------------------------------------------------------------------


class Tree:
    """The nodes of some texts, and for each the nodes of its own beginning.

    `depth` (nodes,) is a node's position in its text, and `path[node, :depth + 1]` (nodes, longest
    text) its beginning, itself included.
    """

    def __init__(self, deepest: int, room: int = 1024):
        """Take the tokens of the longest text there will be; room for nodes grows as needed."""
        self.size = 0
        self.path, self.depth = np.zeros((room, deepest), np.int32), np.zeros(room, np.int32)

    def add(self, parents: np.ndarray) -> np.ndarray:
        """Add nodes after their parents (−1: none, the first of a text) and return them."""
        start, self.size = self.size, self.size + len(parents)
        if self.size > len(self.depth):
            room = max(self.size, 2 * len(self.depth))
            self.path, self.depth = (_grown(array, room) for array in (self.path, self.depth))
        _follow(parents, start, self.path, self.depth)
        return np.arange(start, self.size)


def _grown(array: np.ndarray, room: int) -> np.ndarray:
    grown = np.zeros((room, *array.shape[1:]), array.dtype)
    grown[: len(array)] = array
    return grown


def plant(texts: Sequence[list[int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (token, parent) of each node of a tree of texts, and the nodes of each text.

    The last is (texts, longest), filled with −1.
    """
    order = sorted(range(len(texts)), key=texts.__getitem__)  # what begins alike comes together
    lengths = np.array([len(texts[i]) for i in order], np.int64)
    tokens = np.fromiter(chain.from_iterable(texts[i] for i in order), np.int64, lengths.sum())
    parents, rows = np.empty_like(tokens), np.full((len(texts), lengths.max(initial=0)), -1)
    size = _plant(tokens, lengths, np.array(order, np.int64), parents, rows)
    return tokens[:size], parents[:size], rows


@_compiled
def _plant(tokens, lengths, order, parents, rows):
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


# --- the network --------------------------------------------------------------------------------


class Lean:
    """Computes logits of a tree's nodes with the weights of a network, as they are at the time."""

    def __init__(self, network: LlamaForCausalLM):
        """Take a network that `fits`."""
        self.network, self.layers = network, network.model.layers
        config = network.config
        self.heads, self.shared = config.num_attention_heads, config.num_key_value_heads
        self.deepest = config.max_position_embeddings
        angles = network.model.rotary_emb(torch.zeros(1), torch.arange(self.deepest)[None])
        half = self.layers[0].self_attn.head_dim // 2
        self.angles = [_array(part[0, :, :half].contiguous()) for part in angles]

    def read(
        self,
        parents: torch.Tensor,
        logits_to_keep: torch.Tensor,
        input_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the logits of a whole tree, (wanted, vocabulary), differentiable.

        Args:
            parents: (nodes,), the parent of each node, −1 for none.
            logits_to_keep: (wanted,), the nodes whose logits are wanted.
            input_ids: (nodes,); or inputs_embeds: (nodes, size).
        """
        states = self.embed(input_ids) if inputs_embeds is None else inputs_embeds
        tree = Tree(self.deepest, len(parents))
        return self(states, tree.add(parents.numpy()), tree, logits_to_keep)

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return what the network reads of each token, (tokens, size)."""
        return self.network.get_input_embeddings()(tokens)

    def __call__(
        self,
        states: torch.Tensor,
        nodes: np.ndarray,
        tree: Tree,
        wanted: torch.Tensor | None = None,
        memory: "Memory | None" = None,
    ) -> torch.Tensor:
        """Return the logits after some nodes.

        Args:
            states: (new nodes, size), from `embed`.
            nodes: (new nodes,), of `tree`, which has them already.
            tree: of all texts.
            wanted: (wanted,), places among the new nodes; None: all.
            memory: holds keys and values of the nodes before, and takes those of the new ones;
                None where the tree has no other nodes.

        Returns:
            (wanted, vocabulary). Differentiable without a memory.
        """
        for place, layer in enumerate(self.layers):
            last = wanted if place == len(self.layers) - 1 else None
            states = self._layer(place, layer, states, nodes, tree, last, memory)
        return linear(self._norm(self.network.model.norm, states), self.network.lm_head.weight)

    def _layer(self, place, layer, states, nodes, tree, wanted, memory):
        attention, x = layer.self_attn, self._norm(layer.input_layernorm, states)
        keys = self._turned(linear(x, attention.k_proj.weight), self.shared, nodes, tree)
        values = linear(x, attention.v_proj.weight).view_as(keys)
        if memory is not None:
            keys, values = memory.put(place, nodes, keys, values)
        if wanted is not None:
            states, x, nodes = states[wanted], x[wanted], nodes[wanted.numpy()]
        q = self._turned(linear(x, attention.q_proj.weight), self.heads, nodes, tree)
        seen = _compute(_Attend, q, keys, values, nodes, tree).flatten(1)
        states = torch.addmm(states, seen, attention.o_proj.weight.T)
        parts = [self._widen(layer, part) for part in states.split(CHUNK)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _widen(self, layer, states):
        x, mlp = self._norm(layer.post_attention_layernorm, states), layer.mlp
        gate, up = linear(x, mlp.gate_proj.weight), linear(x, mlp.up_proj.weight)
        wide = _compute(_Glow, gate, up)
        return torch.addmm(states, wide, mlp.down_proj.weight.T)

    def _norm(self, norm, states):
        return _compute(_Normalise, states, norm.weight, norm.variance_epsilon)

    def _turned(self, x, heads: int, nodes: np.ndarray, tree: Tree):
        return _compute(_Turn, x.view(len(x), heads, -1), tree.depth[nodes], *self.angles)


class Memory:
    """Keys and values of all nodes of a tree, layer by layer; room grows as needed."""

    def __init__(self, layers: int):
        """Start empty."""
        self.kept = [None] * layers

    def put(self, layer: int, nodes: np.ndarray, *new: torch.Tensor) -> list[torch.Tensor]:
        """Keep keys and values of new nodes and return those of all, (room, heads, size)."""
        have, start, end = self.kept[layer], nodes[0], nodes[-1] + 1
        if have is None or end > len(have[0]):
            grown = [tensor.new_empty(2 * end, *tensor.shape[1:]) for tensor in new]
            for to, tensor in zip(grown, have or grown, strict=True):
                to[:start] = tensor[:start]
            self.kept[layer] = have = grown
        for tensor, part in zip(have, new, strict=True):
            tensor[start:end] = part
        return have


@torch.no_grad()
def fits(network: PreTrainedModel) -> bool:
    """Tell whether a network is a small LLaMA in float32 on a CPU that `Lean` computes exactly.

    It is tried on two short texts, because a configuration can say more than is known here.
    """
    kinds = {(p.dtype, p.device.type) for p in network.parameters()}
    small = sum(p.numel() for p in network.parameters()) <= SMALL
    if type(network) is not LlamaForCausalLM or kinds != {(torch.float32, "cpu")} or not small:
        return False
    biased = any("bias" in name for name, _ in network.named_parameters())
    if biased or network.config.attention_dropout:  # which no text below would show
        return False
    texts = [[1, 2, 3, 4, 5], [1, 2, 4, 5]]
    tokens, parents, rows = plant(texts)
    tree = Tree(8)
    lean = Lean(network)
    found = lean(lean.embed(torch.from_numpy(tokens)), tree.add(parents), tree)
    return all(
        torch.allclose(found[row], network(torch.tensor([ids])).logits[0], rtol=1e-3, atol=1e-4)
        for ids, row in zip(texts, (row[row >= 0] for row in rows), strict=True)
    )
