"""LLaMA, Qwen2 and Gemma 3 on a CPU; each prefix that texts share is computed once.

With a few million parameters most of the time goes into what surrounds the matrix products: many
short operations, padding, keys and values copied from row to row; with a hundred million a quarter
still does. Here texts form a tree, whose nodes are tokens after their parents. A node attends to
its own beginning, so nothing is padded and nothing moved, and after the last layer's keys and
values only nodes whose logits are wanted go on.

In bfloat16 every state is rounded where it is stored, as in transformers. Its products are
bfloat16's own where the processor has units for them; elsewhere they are computed in float32,
which is faster there and the same but for the order of its sums, and rounded.

The weights are those of the network itself. Tests hold every result against transformers' own.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain

import numpy as np
import torch
from torch.autograd import Function
from torch.nn.functional import linear
from transformers import PreTrainedModel

from repro.inference.cpu import architectures, cpu_kernels
from repro.inference.kv_cache import BUDGET
from repro.models import architecture, devices

STATES = 10  # of the usual size that a layer has in memory at a time
ROUNDING = 0.1  # of all logits, how far two ways to compute them in bfloat16 may be apart
CHUNK = 512  # nodes that pass the widest layers together: their states stay in a near cache


# --- what is no matrix product, forwards and backwards -----------------------------------------


def _array(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach()
    return (tensor.view(torch.uint16) if tensor.dtype is torch.bfloat16 else tensor).numpy()


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
    def forward(ctx, x, weight, origin, epsilon, dtype):
        ctx.save_for_backward(x, weight)
        ctx.given, out = (origin, epsilon), torch.empty_like(x, dtype=dtype)
        cpu_kernels.normalise(_array(x), _array(weight), origin, epsilon, _array(out))
        return out

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        to_x = torch.empty_like(x, dtype=torch.float32)
        to_weight = torch.zeros_like(weight, dtype=torch.float32)
        given = _array(x), _array(weight), *ctx.given, _array(grad.contiguous())
        cpu_kernels.normalise_back(*given, to_x.numpy(), to_weight.numpy())
        return to_x, to_weight, None, None, None


class _Glow(Function):
    @staticmethod
    def forward(ctx, gate, up, a, b):
        ctx.save_for_backward(gate, up)
        ctx.given, out = (a, b), torch.empty_like(gate)
        cpu_kernels.glow(_array(gate), _array(up), a, b, _array(out))
        return out

    @staticmethod
    def backward(ctx, grad):
        back = [torch.empty_like(tensor) for tensor in ctx.saved_tensors]
        given = map(_array, ctx.saved_tensors)
        cpu_kernels.glow_back(*given, *ctx.given, _array(grad.contiguous()), *map(_array, back))
        return *back, None, None


class _Turn(Function):
    @staticmethod
    def forward(ctx, x, depth, cos, sin, dtype):
        ctx.given, ctx.dtype = (depth, cos, sin), x.dtype
        out = torch.empty_like(x, dtype=dtype)
        cpu_kernels.turn(_array(x), depth, cos, sin, np.float32(1), _array(out))
        return out

    @staticmethod
    def backward(ctx, grad):
        out = torch.empty_like(grad, dtype=ctx.dtype)
        cpu_kernels.turn(_array(grad.contiguous()), *ctx.given, np.float32(-1), _array(out))
        return out, None, None, None, None


class _Attend(Function):
    @staticmethod
    def forward(ctx, q, keys, values, nodes, tree, scale, window):
        ctx.save_for_backward(q, keys, values)
        ctx.given, out = (nodes, tree.path, tree.depth, scale, window), torch.empty_like(q)
        cpu_kernels.attend(_array(q), _array(keys), _array(values), *ctx.given, _array(out))
        return out

    @staticmethod
    def backward(ctx, grad):
        given = [_array(tensor) for tensor in ctx.saved_tensors]
        back = [torch.zeros_like(tensor, dtype=torch.float32) for tensor in ctx.saved_tensors]
        cpu_kernels.attend_back(*given, *ctx.given, _array(grad.contiguous()), *map(_array, back))
        return *back, None, None, None, None


# --- products in bfloat16 -----------------------------------------------------------------------


class _Product(Function):
    """x · weightᵀ + bias for states in bfloat16.

    The weight is multiplied `as_used`: in bfloat16, or in float32 with the values of bfloat16. The
    sum is rounded once, after the bias is added.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, as_used):
        ctx.save_for_backward(x, as_used)
        ctx.biased, given = bias is not None, x.to(as_used.dtype)
        if bias is not None:
            bias = bias.to(x.dtype).to(as_used.dtype)
        return linear(given, as_used, bias).to(x.dtype)

    @staticmethod
    def backward(ctx, grad):
        x, as_used = ctx.saved_tensors
        to_x = (grad.to(as_used.dtype) @ as_used).to(grad.dtype)
        to_weight = grad.T.to(as_used.dtype) @ x.to(as_used.dtype)
        to_bias = grad.float().sum(0) if ctx.biased else None
        return to_x, to_weight, to_bias, None


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
        cpu_kernels.follow(parents, start, self.path, self.depth)
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
    size = cpu_kernels.plant(tokens, lengths, np.array(order, np.int64), parents, rows)
    return tokens[:size], parents[:size], rows


# --- the network --------------------------------------------------------------------------------


class Lean:
    """Computes logits of a tree's nodes with the weights of a network, as they are at the time."""

    def __init__(
        self,
        network: PreTrainedModel,
        dtype: torch.dtype | None = None,
        native: bool | None = None,
    ):
        """Take a network that `fits`.

        Args:
            network: its weights may be float32 where the states are bfloat16, to train them.
            dtype: of the states, float32 or bfloat16; by default the network's own.
            native: whether bfloat16 is multiplied as it is; by default where that is fastest.
        """
        self.network, self.parts = network, architectures.parts(network)
        self.dtype, self.kept, self.angles = dtype or network.dtype, {}, {}
        if native is None and self.dtype is torch.bfloat16:
            native = devices.inference_dtype(network.device, self._shapes()) is torch.bfloat16
        self.native = bool(native)
        config = network.config
        # Of a small network many rows at a time count for more than their memory.
        self.small = network.num_parameters() <= devices.SMALL_MODEL
        self.heads, self.shared = config.num_attention_heads, config.num_key_value_heads

    def _shapes(self) -> set[tuple[int, ...]]:
        layer = self.parts.layers[0]
        each = layer.q, layer.k, layer.v, layer.o, layer.gate, layer.up, layer.down
        return {tuple(linear.weight.shape) for linear in each}

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the weights as the products take them, for as long as they do not change."""
        if self.dtype is torch.bfloat16:
            layers = (m for m in self.network.modules() if isinstance(m, torch.nn.Linear))
            self.kept = {w: self._as_used(w) for w in {layer.weight for layer in layers}}
        try:
            yield
        finally:
            self.kept = {}

    def rows_within(self, longest: int, draws: int, limit: int, budget: int = BUDGET) -> int:
        """Return how many samples of `limit` tokens fit into a budget in bytes, at least one.

        Prompts of at most `longest` tokens have `draws` samples each. Of a node its keys and
        values and its beginning are kept, of a prompt's nodes all states at a time.
        """
        config, layers = self.network.config, self.parts.layers
        item, size = self.dtype.itemsize, layers[0].k.out_features
        node = 2 * len(layers) * size * item + 4 * (longest + limit)
        states = STATES * config.hidden_size * item
        sample = limit * node + states + 8 * config.vocab_size
        return max(1, int(budget / (sample + longest * (node + states) / draws)))

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
        tree = Tree(cpu_kernels.deepest(parents.numpy()), len(parents))
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
            (wanted, vocabulary). Without a memory differentiable, in the dtype of the states; else
            float32, until the next call.
        """
        last = len(self.parts.layers) - 1
        for place, layer in enumerate(self.parts.layers):
            asked = wanted if place == last else None
            states = self._layer(place, layer, states, nodes, tree, asked, memory)
        states = self._norm(self.parts.norm, states)
        if memory is None:
            return self._linear(states, self.network.lm_head)
        return self._logits(states, self.network.lm_head.weight, memory)

    def _layer(self, place, layer, states, nodes, tree, wanted, memory):
        x = self._norm(layer.norm, states)
        keys = self._turned(x, layer, "k", nodes, tree)
        values = self._linear(x, layer.v).view_as(keys)
        if memory is not None:
            keys, values = memory.put(place, nodes, keys, values)
        if wanted is not None:
            states, x, nodes = states[wanted], x[wanted], nodes[wanted.numpy()]
        q = self._turned(x, layer, "q", nodes, tree)
        given = q, keys, values, nodes, tree, layer.scale, layer.window
        seen = _compute(_Attend, *given).flatten(1)
        states = self._added(states, seen, layer.o, layer.attended_norm)
        parts = [self._widen(layer, part) for part in states.split(CHUNK)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _widen(self, layer, states):
        x = self._norm(layer.wide_norm, states)
        gate, up = self._linear(x, layer.gate), self._linear(x, layer.up)
        wide = _compute(_Glow, gate, up, *self.parts.gate)
        return self._added(states, wide, layer.down, layer.widened_norm)

    def _norm(self, norm: architectures.Norm, states, dtype: torch.dtype | None = None):
        given = states, norm.module.weight, norm.origin, norm.epsilon
        return _compute(_Normalise, *given, dtype or self.dtype)

    def _turned(self, x, layer, name: str, nodes: np.ndarray, tree: Tree):
        heads, norm = (self.heads, layer.q_norm) if name == "q" else (self.shared, layer.k_norm)
        x = self._linear(x, getattr(layer, name))
        if norm is not None:
            x = self._norm(norm, x.view(len(x) * heads, -1), torch.float32)
        angles = self._angles(layer.kind, tree.path.shape[1])
        x, depth = x.view(len(nodes), heads, -1), tree.depth[nodes]
        return _compute(_Turn, x, depth, *angles, self.dtype)

    def _angles(self, kind: str, length: int) -> list[np.ndarray]:
        known = self.angles.get(kind)
        if known is None or len(known[0]) < length:
            known = self.angles[kind] = architectures.angles(self.network, kind, length)
        return known

    def _logits(self, x, weight: torch.nn.Parameter, memory: "Memory"):
        as_used, out = self._kept(weight), memory.logits(len(x), len(weight))
        if as_used.dtype is torch.bfloat16:
            return out.copy_(linear(x, as_used))
        torch.mm(x.float(), as_used.T, out=out)
        if self.dtype is torch.bfloat16:
            cpu_kernels.round_off(out.numpy())
        return out

    def _linear(self, x, layer: torch.nn.Linear):
        if self.dtype is torch.float32:
            return linear(x, layer.weight, layer.bias)
        return _compute(_Product, x, layer.weight, layer.bias, self._kept(layer.weight))

    def _added(self, states, x, layer: torch.nn.Linear, norm: architectures.Norm | None):
        if norm is not None:
            return states + self._norm(norm, self._linear(x, layer))
        if self.dtype is torch.float32 and layer.bias is None:
            return torch.addmm(states, x, layer.weight.T)
        return states + self._linear(x, layer)

    def _kept(self, weight: torch.nn.Parameter) -> torch.Tensor:
        as_used = self.kept.get(weight)
        return self._as_used(weight) if as_used is None else as_used

    def _as_used(self, weight: torch.nn.Parameter) -> torch.Tensor:
        rounded = weight.detach().to(self.dtype)
        return rounded if self.native else rounded.float()


class Memory:
    """Keys and values of the nodes of a tree, layer by layer, and the logits at hand."""

    def __init__(self, layers: int, room: int):
        """Take the most nodes there will be; memory is touched only where a node is put."""
        self.kept, self.room, self.buffer = [None] * layers, room, torch.empty(0, 0)

    def logits(self, rows: int, vocabulary: int) -> torch.Tensor:
        """Return room for logits, float32 (rows, vocabulary): the same again, so it is not searched
        for and zeroed by the system at every step.
        """
        if rows > len(self.buffer):
            self.buffer = torch.empty(rows, vocabulary)
        return self.buffer[:rows]

    def put(self, layer: int, nodes: np.ndarray, *new: torch.Tensor) -> list[torch.Tensor]:
        """Keep keys and values of new nodes and return those of all, (room, heads, size)."""
        if self.kept[layer] is None:
            self.kept[layer] = [tensor.new_empty(self.room, *tensor.shape[1:]) for tensor in new]
        for tensor, part in zip(self.kept[layer], new, strict=True):
            tensor[nodes[0] : nodes[-1] + 1] = part
        return self.kept[layer]


@torch.no_grad()
def fits(network: PreTrainedModel) -> bool:
    """Tell whether a network is one on a CPU, of one dtype, that `Lean` computes exactly.

    It is tried on two short texts, because a configuration can say more than is known here.
    """
    kinds, config = {(p.dtype, p.device.type) for p in network.parameters()}, network.config
    possible = {(torch.float32, "cpu")}, {(torch.bfloat16, "cpu")}
    if type(network) not in architectures.KNOWN or kinds not in possible:
        return False
    names = "attention_dropout", "attn_logit_softcapping", "final_logit_softcapping"
    biases = (name.split(".") for name, _ in network.named_parameters() if name.endswith("bias"))
    unknown = any(module not in architecture.PROJECTIONS for *_, module, _ in biases)
    if unknown or any(getattr(config, name, None) for name in names):  # no text below would show it
        return False
    # Tokens from the midst of the vocabulary: the first may be special, and theirs are states so
    # large that in bfloat16 transformers itself is a fifth off.
    a, b, c, d, e = (config.vocab_size // part for part in (2, 3, 5, 7, 11))
    texts = [[a, b, c, d, e], [a, b, d, e]]
    tokens, parents, rows = plant(texts)
    tree = Tree(8)
    lean = Lean(network)
    found = lean(lean.embed(torch.from_numpy(tokens)), tree.add(parents), tree).float()
    wanted = [network(torch.tensor([ids])).logits[0].float() for ids in texts]
    pairs = [(found[row[row >= 0]], own) for row, own in zip(rows, wanted, strict=True)]
    if lean.dtype is torch.bfloat16:
        return all((one - own).norm() <= ROUNDING * own.norm() for one, own in pairs)
    return all(torch.allclose(one, own, rtol=1e-3, atol=1e-4) for one, own in pairs)
