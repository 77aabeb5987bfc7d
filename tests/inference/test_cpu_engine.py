"""The small engine against transformers: logits, gradients, growing trees, and what it refuses."""

import copy
from collections import defaultdict

import numpy as np
import pytest
import tiny
import torch
from numba import njit
from torch.nn.functional import gelu, scaled_dot_product_attention, silu
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from repro.inference.cpu import architectures, cpu_engine, cpu_functions, cpu_kernels
from repro.inference.cpu.cpu_engine import CpuEngine, fits
from repro.inference.cpu.prefix_tree import PrefixTree, merge_prefixes
from repro.inference.cpu.tree_cache import TreeCache

TEXTS = [[2, 3, 4, 5], [2, 3, 9], [7, 3, 4, 5, 6, 8], [2, 3, 4, 5, 9, 9, 9]]


SIZES = {
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "vocab_size": 50,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
}


def llama(seed: int = 2, **changes) -> LlamaForCausalLM:
    """Return a random three-layer LLaMA whose norms are not all one."""
    torch.manual_seed(seed)
    return _uneven(LlamaForCausalLM(LlamaConfig(**SIZES | changes)))


def biased_llama(**changes) -> LlamaForCausalLM:
    """Return a LLaMA with biases on every linear map of a layer."""
    return llama(attention_bias=True, mlp_bias=True, **changes)


def qwen2(seed: int = 2, **changes) -> Qwen2ForCausalLM:
    """Return a random three-layer Qwen2, with biases on q, k and v."""
    torch.manual_seed(seed)
    return _uneven(Qwen2ForCausalLM(Qwen2Config(**SIZES | changes)))


def gemma(**changes) -> Gemma3ForCausalLM:
    """Return a random three-layer Gemma 3, two of whose layers attend to 4 tokens."""
    torch.manual_seed(2)
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    of_gemma = {"head_dim": 6, "sliding_window": 4, "layer_types": kinds, "pad_token_id": 2}
    of_gemma |= {"query_pre_attn_scalar": 10}
    return _uneven(Gemma3ForCausalLM(Gemma3TextConfig(**SIZES | of_gemma | changes)))


def _uneven(network):
    for name, parameter in network.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
        elif name.endswith("bias"):  # 0 in a new network
            torch.nn.init.normal_(parameter, std=0.3)
    return network.eval()


def with_bias(network: PreTrainedModel) -> PreTrainedModel:
    """Give the output head a bias of 0, which no logits show."""
    network.lm_head.bias = torch.nn.Parameter(torch.zeros(network.config.vocab_size))
    return network


def gpt2() -> GPT2LMHeadModel:
    return GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=50)).eval()


NETWORKS = [
    pytest.param(lambda changes=changes, make=make: make(**changes), id=f"{make.__name__} {name}")
    for make, name, changes in [
        (llama, "", {}),
        (llama, "heads of their own", {"num_key_value_heads": 4}),
        (llama, "one head, tied", {"num_key_value_heads": 1, "tie_word_embeddings": True}),
        (llama, "small heads", {"head_dim": 6}),
        (llama, "large heads", {"head_dim": 40, "num_key_value_heads": 1}),
        (
            llama,
            "angles",
            {"rms_norm_eps": 1e-2, "rope_parameters": {"rope_type": "default", "rope_theta": 100}},
        ),
        (biased_llama, "", {}),
        (qwen2, "", {}),
        (qwen2, "tied, of many heads", {"num_attention_heads": 8, "tie_word_embeddings": True}),
        (
            qwen2,
            "window",
            {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
        ),
        (gemma, "", {}),
        (gemma, "one head", {"num_key_value_heads": 1, "head_dim": 16, "sliding_window": 64}),
    ]
]


@pytest.mark.parametrize("make", NETWORKS)
def test_logits_of_a_tree_are_those_of_its_texts(make):
    network = make()
    assert fits(network)
    logits, expected = logits_of_both(network, CpuEngine(network))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", NETWORKS)
@pytest.mark.parametrize("native", [True, False])
def test_logits_in_bfloat16_are_as_near_as_transformers_own(make, native):
    """Both round at every step, so they are compared with what nobody rounds."""
    network = make()
    rounded = copy.deepcopy(network).to(torch.bfloat16)
    assert fits(rounded)
    logits, theirs = logits_of_both(rounded, CpuEngine(rounded, native=native))
    assert logits.dtype is torch.bfloat16
    exact = logits_of_both(rounded.float(), CpuEngine(network))[1]
    error_of_engine, error_of_transformers = (
        (way.float() - exact).norm() for way in (logits, theirs)
    )
    assert 0 < error_of_engine < 1.2 * error_of_transformers


def logits_of_both(
    network: PreTrainedModel, engine: CpuEngine
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits of every token of the texts, in a tree and each by itself."""
    tokens, parents, rows = merge_prefixes(TEXTS)
    assert len(tokens) == 4 + 1 + 6 + 3  # what texts share from their start is there once
    keep = torch.tensor([node for row in rows for node in row[row >= 0]])
    logits = engine.tree_logits(torch.from_numpy(parents), keep, torch.from_numpy(tokens))
    return logits, torch.cat([network(torch.tensor([ids])).logits[0] for ids in TEXTS])


@pytest.mark.parametrize("make", NETWORKS)
def test_gradients_are_transformers_own(make):
    network = make()
    theirs = transformers_gradients(copy.deepcopy(network).double())
    for name, ours in gradients(CpuEngine(network)).items():
        assert (ours - theirs[name]).norm() < 3e-5 * theirs[name].norm(), name


@pytest.mark.parametrize("make", [llama, gemma])
@pytest.mark.parametrize("native", [True, False])
def test_gradients_in_bfloat16_are_as_near_as_autocasts(make, native):
    network = make()
    exact = transformers_gradients(copy.deepcopy(network).double())
    with torch.autocast("cpu", torch.bfloat16):
        theirs = transformers_gradients(copy.deepcopy(network))
    ours = gradients(CpuEngine(network, torch.bfloat16, native))
    for name, gradient in exact.items():
        assert ours[name].dtype is torch.float32
        apart = (ours[name] - gradient).norm()
        assert 0 < apart < max(1.5 * (theirs[name] - gradient).norm(), 0.02 * gradient.norm()), name


@pytest.mark.parametrize("make", [biased_llama, qwen2])
@pytest.mark.parametrize("native", [True, False])
def test_gradients_of_biases_in_bfloat16_are_as_near_as_autocasts(make, native):
    """Over six networks: a bias has so few numbers that those of one are near or far by chance."""
    squares = defaultdict(lambda: np.zeros(2))
    for seed in range(6):
        network = make(seed=seed)
        exact = transformers_gradients(copy.deepcopy(network).double())
        with torch.autocast("cpu", torch.bfloat16):
            theirs = transformers_gradients(copy.deepcopy(network))
        ours = gradients(CpuEngine(network, torch.bfloat16, native))
        for name, gradient in exact.items():
            apart = [(way[name] - gradient).square().sum().item() for way in (ours, theirs)]
            squares[name.split(".", 3)[-1]] += apart
    assert sum(name.endswith("bias") for name in squares) == (7 if make is biased_llama else 3)
    for name, (our_error, their_error) in squares.items():
        assert 0 < our_error < 1.5 * their_error, name


def gradients(engine: CpuEngine) -> dict[str, torch.Tensor]:
    """Return the gradients of a loss at two tokens of each text."""
    tokens, parents, rows = merge_prefixes(TEXTS)
    keep = torch.tensor([row[place] for row in rows for place in (1, (row >= 0).sum() - 1)])
    logits = engine.tree_logits(torch.from_numpy(parents), keep, torch.from_numpy(tokens))
    return _gradients(engine.network, logits)


def transformers_gradients(network: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return the same, of transformers' own layers."""
    logits = [network(torch.tensor([ids])).logits[0] for ids in TEXTS]
    return _gradients(network, torch.stack([part[at] for part in logits for at in (1, -1)]))


def _gradients(network, logits) -> dict[str, torch.Tensor]:
    logits = logits.float() if logits.dtype is torch.bfloat16 else logits
    torch.nn.functional.cross_entropy(logits, torch.arange(len(logits)) + 10).backward()
    return {name: parameter.grad for name, parameter in network.named_parameters()}


@torch.inference_mode()
@pytest.mark.parametrize("make", [llama, biased_llama, qwen2, gemma])
def test_a_tree_that_grows_has_the_logits_of_one_that_is_whole(make):
    network = make()
    tokens, parents, rows = merge_prefixes(TEXTS)
    whole = grown(CpuEngine(network), tokens, parents)
    for ids, row in zip(TEXTS, rows, strict=True):
        logits = network(torch.tensor([ids])).logits[0]
        torch.testing.assert_close(whole[row[row >= 0]], logits, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("native", [True, False])
def test_a_tree_grows_in_bfloat16_too(native):
    engine, (tokens, parents, _) = (
        CpuEngine(llama().to(torch.bfloat16), native=native),
        merge_prefixes(TEXTS),
    )
    nodes, ids = torch.from_numpy(parents), torch.from_numpy(tokens)
    whole = engine.tree_logits(nodes, torch.arange(len(nodes)), ids)
    logits = grown(engine, tokens, parents)
    assert logits.dtype is (torch.bfloat16 if native else torch.float32)
    assert torch.equal(logits.float(), logits.bfloat16().float())
    assert (logits - whole).norm() < 0.02 * whole.norm()


def grown(engine: CpuEngine, tokens: np.ndarray, parents: np.ndarray) -> torch.Tensor:
    """Return the logits of a tree whose nodes are computed in four calls."""
    tree, memory, parts = PrefixTree(10, capacity=2), TreeCache(3, 14), []
    for start, end in ((0, 1), (1, 5), (5, 11), (11, 14)):  # the tree is given room more than once
        states = engine.embed(torch.from_numpy(tokens[start:end]))
        logits = engine(states, tree.add(parents[start:end]), tree, None, memory)
        parts.append(logits.clone())  # they hold until the next call
    return torch.cat(parts)


@torch.inference_mode()
def test_many_nodes_pass_in_chunks(monkeypatch):
    engine, (tokens, parents, rows) = CpuEngine(llama()), merge_prefixes(TEXTS)
    ends = torch.tensor([row.max() for row in rows])
    inputs = torch.from_numpy(parents), ends, torch.from_numpy(tokens)
    whole = engine.tree_logits(*inputs)
    monkeypatch.setattr(cpu_engine, "MLP_ROWS", 3)
    assert (engine.tree_logits(*inputs) - whole).norm() < 1e-6 * whole.norm()


def test_exp_is_exact_to_the_last_bit_or_so():
    @njit
    def every(numbers, out):
        for i in range(len(numbers)):
            out[i] = cpu_kernels.exp(numbers[i])

    numbers = np.linspace(-86.9, 88.7, 1_000_001, dtype=np.float32)
    results = np.empty_like(numbers)
    every(numbers, results)
    np.testing.assert_allclose(results, np.exp(numbers.astype(float)), rtol=1e-7)
    ends = np.array([-np.inf, -1e30, -88, -0.0, 0, 1e-30, 88.8, np.inf, np.nan], np.float32)
    every(ends, results)
    np.testing.assert_array_equal(results[:9], [0, 0, 0, 1, 1, 1, np.inf, np.inf, np.nan])


def gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    return gelu(x, approximate="tanh")


@pytest.mark.parametrize(
    ("kind", "theirs"), [(architectures.SILU, silu), (architectures.GELU, gelu_tanh)]
)
@pytest.mark.parametrize("size", [1, 7, 40])  # as wide as a vector, or not
def test_the_gate_and_its_gradients_are_pytorchs_own(size, kind, theirs):
    torch.manual_seed(0)
    gate, up, back = 6 * torch.randn(3, 50, size)
    gate[:9, 0] = torch.tensor([0, -0.0, 1e-30, 20, -20, 85, -85, 1e6, -1e6])
    our_inputs = [t.clone().requires_grad_() for t in (gate, up)]
    their_inputs = [t.clone().requires_grad_() for t in (gate, up)]
    ours, expected = (
        cpu_functions.apply(cpu_functions.GatedActivation, *our_inputs, *kind),
        theirs(their_inputs[0]) * their_inputs[1],
    )
    close = {"rtol": 1e-5, "atol": 1e-6, "equal_nan": True}
    torch.testing.assert_close(ours, expected, **close)
    ours.backward(back)
    expected.backward(back)
    for a, b in zip(our_inputs, their_inputs, strict=True):
        atol = 1e-6 * b.grad[9:].abs().max().item()
        torch.testing.assert_close(a.grad, b.grad, **close | {"atol": atol})


def test_a_gate_that_is_not_finite_stays_so():
    gate = torch.tensor([[np.inf, np.nan, -np.inf]])
    with torch.no_grad():
        gated = cpu_functions.apply(
            cpu_functions.GatedActivation, gate, torch.ones(1, 3), *architectures.SILU
        )
    np.testing.assert_array_equal(gated, silu(gate))


@pytest.mark.parametrize("scale", [0, 1, 100])  # shares that are equal, or nearly all one's
@pytest.mark.parametrize(("size", "window"), [(1, 99), (5, 99), (32, 99), (40, 99), (8, 5), (8, 1)])
def test_attention_and_its_gradients_are_pytorchs_own(size, window, scale):
    torch.manual_seed(0)
    tree = PrefixTree(16)
    nodes = tree.add(np.array([-1, *range(11), 3, 12, 13]))  # of 12 nodes, and a branch of 3
    q, back = torch.randn(2, len(nodes), 6, size)
    keys, values = torch.randn(2, len(nodes), 2, size)
    ours = [t.clone().requires_grad_() for t in (scale * q, keys, values)]
    theirs = [t.double().requires_grad_() for t in (scale * q, keys, values)]
    how = np.float32(size**-0.5), window
    attended = cpu_functions.apply(cpu_functions.Attention, *ours, nodes, tree, *how)
    sees = torch.zeros(len(nodes), len(nodes), dtype=torch.bool)
    for node in nodes:
        sees[node, tree.path[node, : tree.depth[node] + 1][-window:]] = True
    heads = [t.transpose(0, 1) for t in theirs]
    expected = scaled_dot_product_attention(*heads, attn_mask=sees, enable_gqa=True).transpose(0, 1)
    close = {"rtol": 1e-4, "atol": 2e-5, "check_dtype": False}
    torch.testing.assert_close(attended, expected, **close)
    attended.backward(back)
    expected.backward(back.double())
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, **close | {"atol": 1e-5 * max(10, scale)})


def test_what_a_node_sees_and_nothing_else_decides_its_attention():
    torch.manual_seed(0)
    (tree, alone), (q, keys, values) = (PrefixTree(8), PrefixTree(8)), torch.randn(3, 9, 2, 8)
    nodes = tree.add(np.array([-1, 0, 1, 2, 3, 1, 5, 6, 7]))
    few = alone.add(np.array([-1, 0, 1, 2, 3]))
    with torch.no_grad():
        how = np.float32(0.3), architectures.UNLIMITED
        all_of_them = cpu_functions.apply(
            cpu_functions.Attention, q, keys, values, nodes, tree, *how
        )
        some = cpu_functions.apply(
            cpu_functions.Attention, q[:5], keys[:5], values[:5], few, alone, *how
        )
        last = cpu_functions.apply(
            cpu_functions.Attention, q[4:5], keys, values, nodes[4:5], tree, *how
        )
    assert torch.equal(all_of_them[:5], some)
    assert torch.equal(all_of_them[4:5], last)


def test_weights_are_read_when_they_are_used():
    network = llama()
    engine, inputs = CpuEngine(network), (torch.tensor([-1]), torch.tensor([0]), torch.tensor([5]))
    before = engine.tree_logits(*inputs)
    with torch.no_grad():
        network.model.layers[1].mlp.up_proj.weight.mul_(2)
    assert not torch.equal(engine.tree_logits(*inputs), before)


@pytest.mark.parametrize("native", [True, False])
def test_weights_are_held_only_while_asked_to(native):
    network = llama().to(torch.bfloat16)
    engine = CpuEngine(network, native=native)
    inputs = torch.tensor([-1]), torch.tensor([0]), torch.tensor([5])
    before = engine.tree_logits(*inputs)
    with engine.prepared_weights(), torch.no_grad():
        assert torch.equal(engine.tree_logits(*inputs), before)
        network.model.layers[1].mlp.up_proj.weight.mul_(2)
        assert (
            torch.equal(engine.tree_logits(*inputs), before) is not native
        )  # its own are no copies
    assert not torch.equal(engine.tree_logits(*inputs), before)


DYNAMIC = {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 4.0}
LONGROPE = {**DYNAMIC, "rope_type": "longrope", "original_max_position_embeddings": 64}
LONGROPE |= {"short_factor": [1.0] * 4, "long_factor": [2.0, 3.0, 4.0, 5.0]}


@pytest.mark.parametrize(
    "network",
    [
        pytest.param(lambda: with_bias(llama()), id="bias in the output head"),
        pytest.param(lambda: llama(attention_dropout=0.1), id="dropout"),
        pytest.param(lambda: llama(hidden_act="gelu"), id="another activation"),
        pytest.param(lambda: llama().to(torch.float16), id="float16"),
        pytest.param(lambda: gemma(final_logit_softcapping=30.0), id="capped logits"),
        pytest.param(lambda: gemma(attn_logit_softcapping=50.0), id="capped attention"),
        pytest.param(lambda: gemma(use_bidirectional_attention=True), id="both directions"),
        pytest.param(gpt2, id="another family"),
        pytest.param(lambda: llama(rope_parameters=DYNAMIC), id="dynamic NTK"),
        pytest.param(lambda: llama(rope_parameters=LONGROPE), id="longrope"),
    ],
)
def test_what_it_does_not_compute_does_not_fit(network):
    assert not fits(network())


def test_samples_stay_inside_the_budget():
    network = tiny.network(700)
    engine, longest, limit, draws, budget = CpuEngine(network), 12, 20, 4, 1 << 24
    samples = engine.rows_within(longest, draws, limit, budget)
    assert engine.rows_within(longest, draws, limit, 1) == 1 < samples
    assert engine.rows_within(longest, 1, limit, budget) < samples  # a prompt for each
    assert engine.rows_within(longest, draws, 2 * limit, budget) < samples
    nodes = samples // draws * longest + samples * limit  # none shared
    memory = TreeCache(len(engine.architecture.layers), nodes)
    size = network.config.head_dim
    states = [memory.put(at, np.arange(1), *torch.ones(2, 1, 2, size)) for at in range(2)]
    held = sum(tensor.nbytes for pair in states for tensor in pair)
    assert budget / 4 < held + samples * 4 * 700 < budget
