"""CPU engine for LLaMA, Qwen2 and Gemma 3 that computes each shared prefix once.

With a few million parameters most of the time goes into operations other than matrix products: many
short ones, padding, copies of keys and values from row to row. With a hundred million it is still a
quarter. Here the texts form a prefix tree (`repro.inference.cpu.prefix_tree`). A node attends to
its own prefix, so nothing is padded and nothing is copied. In the last layer, only the nodes whose
logits are needed are computed after keys and values.

In bfloat16 every state is rounded when it is stored, as in transformers. Matrix products are
computed in bfloat16 if the processor is faster in it (`repro.models.devices`). Otherwise they are
computed in float32 and rounded, which differs only in the order of sums.

The weights are those of the network itself. Tests compare every result with that of transformers.
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
# The largest distance between our logits of a text and those of transformers, as a share of their
# norm. Both have rounding errors of this size: 2e-5 for Qwen2.5-Coder-0.5B in float32, whose states
# are large.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1}
# Nodes in the MLP at a time, so that its states, the widest, fit a processor's cache.
MLP_ROWS = 512


class CpuEngine:
    """Computes the logits of the nodes of a tree with the current weights of a network."""

    def __init__(
        self,
        network: PreTrainedModel,
        dtype: torch.dtype | None = None,
        native: bool | None = None,
    ):
        """Take a network that `fits`.

        Args:
            network: to train it in bfloat16, its weights may be float32.
            dtype: of the states, float32 or bfloat16; by default that of the network.
            native: whether products are computed in bfloat16; by default if that is faster.
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
        # A small model is faster with many rows at a time, and has a process for each core.
        self.small = network.num_parameters() <= devices.SMALL_MODEL
        self.query_heads = network.config.num_attention_heads
        self.key_heads = network.config.num_key_value_heads

    @contextmanager
    def prepared_weights(self) -> Iterator[None]:
        """Convert the weights once within the block; they must not change in it."""
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

        Prompts of at most `longest` tokens have `draws` samples each. Keys, values and path of all
        nodes are in memory, and the states of the nodes that are computed at the same time.
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
        """Return logits of a whole tree, (outputs, vocabulary), differentiable.

        Args:
            parents: (nodes,), the parent of each node, −1 for none.
            logits_to_keep: (outputs,), the nodes whose logits are returned.
            input_ids: (nodes,), the tokens.
            inputs_embeds: (nodes, size), their embeddings, instead of `input_ids`.
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
        outputs: torch.Tensor | None = None,
        cache: TreeCache | None = None,
    ) -> torch.Tensor:
        """Return the logits after some nodes.

        Args:
            states: (new nodes, size), from `embed`.
            nodes: (new nodes,), which `tree` already has.
            tree: of all texts.
            outputs: (outputs,), indices among the new nodes; None: all.
            cache: has keys and values of earlier nodes, and stores those of the new ones; None if
                the tree has no other nodes.

        Returns:
            (outputs, vocabulary). Without a cache, differentiable and in the dtype of the states.
            With a cache, in the dtype of the products, and valid until the next call.
        """
        last = len(self.architecture.layers) - 1
        for place, layer in enumerate(self.architecture.layers):
            outputs_of_layer = outputs if place == last else None
            states = self._layer(place, layer, states, nodes, tree, outputs_of_layer, cache)
        states = self._norm(self.architecture.norm, states)
        if cache is None:
            return self._linear(states, self.network.lm_head)
        return self._logits(states, self.network.lm_head.weight, cache)

    def _layer(self, place, layer, states, nodes, tree, outputs, cache):
        """Return the states after attention, then MLP, each with a residual.

        Only those of the nodes `outputs` are computed (None: all), but keys and values of all.
        """
        x = self._norm(layer.attention_norm, states)
        keys = self._rotated(x, layer, "k", nodes, tree)
        values = self._linear(x, layer.v).view_as(keys)
        if cache is not None:
            keys, values = cache.put(place, nodes, keys, values)
        if outputs is not None:
            states, x, nodes = states[outputs], x[outputs], nodes[outputs.numpy()]
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
        """Return the residual `states` plus a linear map of x, normalised if there is a norm."""
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
    """Tell whether `CpuEngine` computes a network correctly: on a CPU, with one dtype.

    The engine is compared with transformers on two short texts, because a configuration may have
    settings that are unknown here.
    """
    kinds = {(p.dtype, p.device.type) for p in network.parameters()}
    possible = {(torch.float32, "cpu")}, {(torch.bfloat16, "cpu")}
    if type(network) not in architectures.SUPPORTED or kinds not in possible:
        return False
    if _has_more_than_a_short_text_shows(network):
        return False
    # Tokens from the middle of the vocabulary. The first ones may be special, with states so large
    # that in bfloat16 transformers itself is wrong by a fifth.
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
    """Tell whether a network has an unknown part that does not change the logits of short texts."""
    names = "attention_dropout", "attn_logit_softcapping", "final_logit_softcapping"
    biases = (name.split(".") for name, _ in network.named_parameters() if name.endswith("bias"))
    unknown = any(module not in architecture.PROJECTIONS for *_, module, _ in biases)
    rotary = {part.get("rope_type") for part in architecture.rotary_settings(network.config)}
    if rotary & {"dynamic", "longrope"}:  # their angles depend on the length of the texts
        return True
    return unknown or any(getattr(network.config, name, None) for name in names)
