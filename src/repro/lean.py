"""A LLaMA on a CPU: each distinct beginning of its texts is computed once, and little else.

With a few million parameters most of the time goes into what surrounds the matrix products: many
short operations, padding, keys and values copied from row to row; with a hundred million a quarter
still does. Here texts form a tree, whose nodes are tokens after their parents. A node attends to
its own beginning, so nothing is padded and nothing moved, and after the last layer's keys and
values only nodes whose logits are wanted go on.
The weights are those of the network itself. Tests hold every result against transformers' own.
"""

from collections.abc import Sequence
from itertools import chain

import numpy as np
import torch
from torch.autograd import Function
from torch.nn.functional import linear
from transformers import LlamaForCausalLM, PreTrainedModel

from repro import loops
from repro.kvcache import BUDGET

SMALL = 20_000_000  # parameters up to which many rows at a time count for more than their memory
STATES = 10  # of the usual size that a layer has in memory at a time
CHUNK = 512  # nodes that pass the widest layers together: their states stay in a near cache


# --- what is no matrix product, forwards and backwards -----------------------------------------


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
        loops.normalise(_array(x), _array(weight), ctx.epsilon, out.numpy())
        return out

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        to_x, to_weight = torch.empty_like(x), torch.zeros_like(weight)
        given = _array(x), _array(weight), ctx.epsilon, _array(grad.contiguous())
        loops.normalise_back(*given, to_x.numpy(), to_weight.numpy())
        return to_x, to_weight, None


class _Glow(Function):
    @staticmethod
    def forward(ctx, gate, up):
        ctx.save_for_backward(gate, up)
        out = torch.empty_like(gate)
        loops.glow(_array(gate), _array(up), out.numpy())
        return out

    @staticmethod
    def backward(ctx, grad):
        back = [torch.empty_like(tensor) for tensor in ctx.saved_tensors]
        given = [_array(tensor) for tensor in (*ctx.saved_tensors, grad.contiguous())]
        loops.glow_back(*given, *(b.numpy() for b in back))
        return tuple(back)


class _Turn(Function):
    @staticmethod
    def forward(ctx, x, depth, cos, sin):
        ctx.given, out = (depth, cos, sin), torch.empty_like(x)
        loops.turn(_array(x), depth, cos, sin, np.float32(1), out.numpy())
        return out

    @staticmethod
    def backward(ctx, grad):
        out = torch.empty_like(grad)
        loops.turn(_array(grad.contiguous()), *ctx.given, np.float32(-1), out.numpy())
        return out, None, None, None


class _Attend(Function):
    @staticmethod
    def forward(ctx, q, keys, values, nodes, tree):
        ctx.save_for_backward(q, keys, values)
        ctx.where, out = (nodes, tree.path, tree.depth), torch.empty_like(q)
        loops.attend(_array(q), _array(keys), _array(values), *ctx.where, out.numpy())
        return out

    @staticmethod
    def backward(ctx, grad):
        given = [_array(tensor) for tensor in ctx.saved_tensors]
        back = [torch.zeros_like(tensor) for tensor in ctx.saved_tensors]
        loops.attend_back(*given, *ctx.where, _array(grad.contiguous()), *(b.numpy() for b in back))
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
        loops.follow(parents, start, self.path, self.depth)
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
    size = loops.plant(tokens, lengths, np.array(order, np.int64), parents, rows)
    return tokens[:size], parents[:size], rows


# --- the network --------------------------------------------------------------------------------


class Lean:
    """Computes logits of a tree's nodes with the weights of a network, as they are at the time."""

    def __init__(self, network: LlamaForCausalLM):
        """Take a network that `fits`."""
        self.network, self.layers = network, network.model.layers
        config = network.config
        self.small = network.num_parameters() <= SMALL
        self.heads, self.shared = config.num_attention_heads, config.num_key_value_heads
        places = torch.arange(config.max_position_embeddings)
        angles = network.model.rotary_emb(torch.zeros(1), places[None])
        half = self.layers[0].self_attn.head_dim // 2
        self.angles = [_array(part[0, :, :half].contiguous()) for part in angles]

    def rows_within(self, longest: int, draws: int, limit: int, budget: int = BUDGET) -> int:
        """Return how many samples of `limit` tokens fit into a budget in bytes, at least one.

        Prompts of at most `longest` tokens have `draws` samples each. Of a node its keys and
        values and its beginning are kept, of a prompt's nodes all states at a time.
        """
        config, attention = self.network.config, self.layers[0].self_attn
        node = 2 * len(self.layers) * self.shared * attention.head_dim + longest + limit
        states = STATES * config.hidden_size
        sample = limit * node + states + 2 * config.vocab_size
        return max(1, int(budget / 4 / (sample + longest * (node + states) / draws)))

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
        tree = Tree(loops.deepest(parents.numpy()), len(parents))
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
    """Keys and values of the nodes of a tree, layer by layer."""

    def __init__(self, layers: int, room: int):
        """Take the most nodes there will be; memory is touched only where a node is put."""
        self.kept, self.room = [None] * layers, room

    def put(self, layer: int, nodes: np.ndarray, *new: torch.Tensor) -> list[torch.Tensor]:
        """Keep keys and values of new nodes and return those of all, (room, heads, size)."""
        if self.kept[layer] is None:
            self.kept[layer] = [tensor.new_empty(self.room, *tensor.shape[1:]) for tensor in new]
        for tensor, part in zip(self.kept[layer], new, strict=True):
            tensor[nodes[0] : nodes[-1] + 1] = part
        return self.kept[layer]


@torch.no_grad()
def fits(network: PreTrainedModel) -> bool:
    """Tell whether a network is a LLaMA in float32 on a CPU that `Lean` computes exactly.

    It is tried on two short texts, because a configuration can say more than is known here.
    """
    kinds = {(p.dtype, p.device.type) for p in network.parameters()}
    if type(network) is not LlamaForCausalLM or kinds != {(torch.float32, "cpu")}:
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
