"""LLaMA, Qwen2 and Gemma 3 on a CPU, over trees of tokens that compute a shared prefix once.

With a few million parameters most of the time goes into what surrounds the matrix products: many
short operations, padding, keys and values copied from row to row. With a hundred million a quarter
of it still does. Here texts form a prefix tree (`repro.inference.cpu.prefix_tree`). A node attends
to its own prefix, so nothing is padded and nothing is moved. In the last layer only the nodes whose
logits are wanted go on after keys and values.

In bfloat16 every state is rounded where it is stored, as in transformers. The matrix products are
bfloat16's own where the processor is faster in them (`repro.models.devices`). Elsewhere they are
computed in float32 and rounded, which is the same but for the order of sums.

The weights are those of the network itself. Tests hold every result against transformers' own.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch.nn.functional import linear
from transformers import PreTrainedModel

from repro.inference.cpu import architectures, cpu_kernels
from repro.inference.cpu.cpu_functions import (
    Attention,
    BFloat16Linear,
    GatedActivation,
    RMSNorm,
    RotaryEmbedding,
    apply,
)
from repro.inference.cpu.prefix_tree import PrefixTree, longest_text, merge_prefixes
from repro.inference.cpu.tree_cache import TreeCache
from repro.inference.kv_cache import BUDGET
from repro.models import architecture, devices

STATES = 10  # states of the hidden size that a layer has in memory at a time
# Of the norm of a text's logits, how far ours may be from transformers'. Both are as far from exact
# ones: 2e-5 for Qwen2.5-Coder-0.5B in float32, whose states are large.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1}
MLP_ROWS = 512  # nodes that pass the MLP, the widest part, together: their states stay in a cache


class CpuEngine:
    """Computes the logits of a tree's nodes with the weights that a network has at the time."""

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
            native: whether bfloat16 is multiplied as it is; by default where that is faster.
        """
        self.network = network
        self.architecture = architectures.architecture_of(network)
        self.dtype = dtype or network.dtype
        self._prepared: dict[torch.nn.Parameter, torch.Tensor] = {}  # weights as multiplied
        self._rotary_tables: dict[str, list[np.ndarray]] = {}
        if native is None and self.dtype is torch.bfloat16:
            native = (
                devices.inference_dtype(network.device, _weight_shapes(self.architecture.layers[0]))
                is torch.bfloat16
            )
        self.native = bool(native)
        # A small model gains from many rows at a time, and has a process for each core.
        self.small = network.num_parameters() <= devices.SMALL_MODEL
        self.query_heads = network.config.num_attention_heads
        self.key_heads = network.config.num_key_value_heads

    @contextmanager
    def prepared_weights(self) -> Iterator[None]:
        """Convert the weights once, not at each product; they must not change meanwhile."""
        if self.dtype is torch.bfloat16:
            modules = (m for m in self.network.modules() if isinstance(m, torch.nn.Linear))
            weights = {module.weight for module in modules}
            self._prepared = {weight: self._prepare(weight) for weight in weights}
        try:
            yield
        finally:
            self._prepared = {}

    def rows_within(self, longest: int, draws: int, limit: int, budget: int = BUDGET) -> int:
        """Return how many samples of `limit` tokens fit into a budget in bytes, at least one.

        Prompts of at most `longest` tokens have `draws` samples each. Of every node keys, values
        and path are kept; of the nodes that are computed together, the states too.
        """
        config, layers = self.network.config, self.architecture.layers
        item, size = self.dtype.itemsize, layers[0].k.out_features
        node = 2 * len(layers) * size * item + 4 * (longest + limit)
        states = STATES * config.hidden_size * item
        sample = limit * node + states + 8 * config.vocab_size
        return max(1, int(budget / (sample + longest * (node + states) / draws)))

    def tree_logits(
        self,
        parents: torch.Tensor,
        logits_to_keep: torch.Tensor,
        input_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return logits of a whole tree, (wanted, vocabulary), differentiable.

        Args:
            parents: (nodes,), the parent of each node, −1 for none.
            logits_to_keep: (wanted,), the nodes whose logits are wanted.
            input_ids: (nodes,); or inputs_embeds: (nodes, size).
        """
        states = self.embed(input_ids) if inputs_embeds is None else inputs_embeds
        tree = PrefixTree(longest_text(parents.numpy()), len(parents))
        return self(states, tree.add(parents.numpy()), tree, logits_to_keep)

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the input embedding of each token, (tokens, size)."""
        return self.network.get_input_embeddings()(tokens)

    def __call__(
        self,
        states: torch.Tensor,
        nodes: np.ndarray,
        tree: PrefixTree,
        wanted: torch.Tensor | None = None,
        cache: TreeCache | None = None,
    ) -> torch.Tensor:
        """Return the logits after some nodes.

        Args:
            states: (new nodes, size), from `embed`.
            nodes: (new nodes,), of `tree`, which has them already.
            tree: of all texts.
            wanted: (wanted,), places among the new nodes; None: all.
            cache: holds keys and values of the nodes before, and takes those of the new ones;
                None where the tree has no other nodes.

        Returns:
            (wanted, vocabulary). Without a cache differentiable, in the dtype of the states; with
            one in the dtype that is multiplied, valid until the next call.
        """
        last = len(self.architecture.layers) - 1
        for place, layer in enumerate(self.architecture.layers):
            outputs = wanted if place == last else None
            states = self._layer(place, layer, states, nodes, tree, outputs, cache)
        states = self._norm(self.architecture.norm, states)
        if cache is None:
            return self._linear(states, self.network.lm_head)
        return self._logits(states, self.network.lm_head.weight, cache)

    def _layer(self, place, layer, states, nodes, tree, wanted, cache):
        """Return the states after attention and MLP, of the wanted nodes only (None: of all)."""
        x = self._norm(layer.attention_norm, states)
        keys = self._rotated(x, layer, "k", nodes, tree)
        values = self._linear(x, layer.v).view_as(keys)
        if cache is not None:
            keys, values = cache.put(place, nodes, keys, values)
        if wanted is not None:
            states, x, nodes = states[wanted], x[wanted], nodes[wanted.numpy()]
        q = self._rotated(x, layer, "q", nodes, tree)
        inputs = q, keys, values, nodes, tree, layer.scale, layer.window
        attended = apply(Attention, *inputs).flatten(1)
        states = self._add_output(states, attended, layer.o, layer.attention_output_norm)
        parts = [self._mlp(layer, part) for part in states.split(MLP_ROWS)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _mlp(self, layer, states):
        x = self._norm(layer.mlp_norm, states)
        gate, up = self._linear(x, layer.gate), self._linear(x, layer.up)
        activated = apply(GatedActivation, gate, up, *self.architecture.activation)
        return self._add_output(states, activated, layer.down, layer.mlp_output_norm)

    def _norm(self, norm: architectures.Norm, states, dtype: torch.dtype | None = None):
        inputs = states, norm.module.weight, norm.offset, norm.epsilon
        return apply(RMSNorm, *inputs, dtype or self.dtype)

    def _rotated(self, x, layer, name: str, nodes: np.ndarray, tree: PrefixTree):
        """Return queries or keys (`name` q or k) with rotary embedding, (nodes, heads, size)."""
        queries = name == "q"
        heads, norm = (
            (self.query_heads if queries else self.key_heads),
            getattr(layer, f"{name}_norm"),
        )
        x = self._linear(x, getattr(layer, name))
        if norm is not None:
            x = self._norm(norm, x.view(len(x) * heads, -1), torch.float32)
        table = self._rotary_table(layer.attention_type, tree.path.shape[1])
        x, depth = x.view(len(nodes), heads, -1), tree.depth[nodes]
        return apply(RotaryEmbedding, x, depth, *table, self.dtype)

    def _rotary_table(self, attention_type: str, length: int) -> list[np.ndarray]:
        table = self._rotary_tables.get(attention_type)
        if table is None or len(table[0]) < length:
            table = architectures.rotary_table(self.network, attention_type, length)
            self._rotary_tables[attention_type] = table
        return table

    def _logits(self, x, weight: torch.nn.Parameter, cache: TreeCache):
        multiplied = self._multiplied(weight)
        out = cache.logits(len(x), len(weight), multiplied.dtype)
        torch.mm(x.to(multiplied.dtype), multiplied.T, out=out)
        if multiplied.dtype is torch.bfloat16:
            return out
        if self.dtype is torch.bfloat16:
            cpu_kernels.round_to_bfloat16(out.numpy())
        return out

    def _linear(self, x, module: torch.nn.Linear):
        if self.dtype is torch.float32:
            return linear(x, module.weight, module.bias)
        multiplied = self._multiplied(module.weight)
        return apply(BFloat16Linear, x, module.weight, module.bias, multiplied)

    def _add_output(self, states, x, module: torch.nn.Linear, norm: architectures.Norm | None):
        """Return the residual `states` with a linear map of x added, normalised where there is a
        norm.
        """
        if norm is not None:
            return states + self._norm(norm, self._linear(x, module))
        if self.dtype is torch.float32 and module.bias is None:
            return torch.addmm(states, x, module.weight.T)
        return states + self._linear(x, module)

    def _multiplied(self, weight: torch.nn.Parameter) -> torch.Tensor:
        prepared = self._prepared.get(weight)
        return self._prepare(weight) if prepared is None else prepared

    def _prepare(self, weight: torch.nn.Parameter) -> torch.Tensor:
        rounded = weight.detach().to(self.dtype)
        return rounded if self.native else rounded.float()


def _weight_shapes(layer: architectures.Layer) -> set[tuple[int, ...]]:
    """Return the shapes of the linear maps of a layer."""
    maps = layer.q, layer.k, layer.v, layer.o, layer.gate, layer.up, layer.down
    return {tuple(module.weight.shape) for module in maps}


@torch.no_grad()
def fits(network: PreTrainedModel) -> bool:
    """Tell whether a network is one on a CPU, of one dtype, that `CpuEngine` computes exactly.

    It is tried on two short texts, because a configuration can say more than is known here.
    """
    kinds = {(p.dtype, p.device.type) for p in network.parameters()}
    possible = {(torch.float32, "cpu")}, {(torch.bfloat16, "cpu")}
    if type(network) not in architectures.SUPPORTED or kinds not in possible:
        return False
    if _has_more_than_a_short_text_shows(network):
        return False
    # Tokens from the middle of the vocabulary: the first ones may be special, and have states so
    # large that in bfloat16 transformers itself is a fifth off.
    a, b, c, d, e = (network.config.vocab_size // part for part in (2, 3, 5, 7, 11))
    texts = [[a, b, c, d, e], [a, b, d, e]]
    tokens, parents, nodes = merge_prefixes(texts)
    engine = CpuEngine(network)
    tree_logits = engine.tree_logits(
        torch.from_numpy(parents), torch.arange(len(tokens)), torch.from_numpy(tokens)
    ).float()
    for ids, row in zip(texts, nodes, strict=True):
        ours, theirs = tree_logits[row[row >= 0]], network(torch.tensor([ids])).logits[0].float()
        if not (ours - theirs).norm() <= TOLERANCE[engine.dtype] * theirs.norm():  # nor NaN
            return False
    return True


def _has_more_than_a_short_text_shows(network: PreTrainedModel) -> bool:
    """Tell whether a network has a part that is unknown here and changes no short text's logits."""
    names = "attention_dropout", "attn_logit_softcapping", "final_logit_softcapping"
    biases = (name.split(".") for name, _ in network.named_parameters() if name.endswith("bias"))
    unknown = any(module not in architecture.PROJECTIONS for *_, module, _ in biases)
    rotary = {part.get("rope_type") for part in architecture.rotary_settings(network.config)}
    if rotary & {"dynamic", "longrope"}:  # whose angles depend on the length of the texts
        return True
    return unknown or any(getattr(network.config, name, None) for name in names)
