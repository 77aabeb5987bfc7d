"""Scores, rankings, exact counts, restoration and its undo, concentration."""

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from repro.errors import ConfigError, ModelError
from repro.restoration import regions
from repro.restoration.ranking import Criterion
from repro.restoration.restore import (
    Change,
    Ranking,
    change,
    concentration,
    how_many,
    interpolated,
    rank,
    restored,
    selected,
    snapshot,
    thresholds,
    write,
)
from repro.restoration.score_kernels import EPSILON
from repro.restoration.tensor_pairs import Block

V_PROJ = "model.layers.1.self_attn.v_proj.weight"


def network(seed: int = 0, **options) -> LlamaForCausalLM:
    """Return a random two-layer LLaMA with 4,992 parameters in its layers."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=36, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, **options,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def moved(weights: dict, share: float = 1.0, seed: int = 1) -> dict:
    """Return weights of which a share was changed by at most a fifth, in every tensor."""
    generator = torch.Generator().manual_seed(seed)
    out = {}
    for name, p in weights.items():
        change = 1 + 0.2 * torch.rand(p.shape, generator=generator)
        there = torch.rand(p.shape, generator=generator) < share
        out[name] = torch.where(there, p * change, p)
    return out


@pytest.fixture
def pair():
    """(network holding the fine-tuned weights, weights before, weights after, ranking)."""
    model = network()
    base = snapshot(model)
    tuned = moved(base)
    write(model, tuned)
    return model, base, tuned, rank(base, tuned)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """Return the bits, in which −0 differs from 0."""
    whole = torch.int16 if tensor.element_size() == 2 else torch.int32
    return tensor.detach().clone().view(whole)


def same_bits(model, weights: dict, names=None) -> bool:
    parameters = dict(model.named_parameters())
    names = parameters if names is None else names
    return all(
        torch.equal(bits(parameters[n]), bits(weights[n].to(parameters[n].dtype))) for n in names
    )


def score(tuned: torch.Tensor, base: torch.Tensor, dtype=torch.float32) -> torch.Tensor:
    """Return the scores of one tensor, as the floats their keys are the bits of."""
    keys = Criterion("top", dtype).keys(Block("w", 0, tuned.flatten(), base.flatten()))
    return torch.from_numpy(keys.view(np.float32)).view(base.shape)


def directly(tuned: torch.Tensor, base: torch.Tensor, dtype=torch.float32) -> torch.Tensor:
    """Return |s − p| / (|p| + 1e-8), each step by PyTorch in `dtype`."""
    s, p = tuned.to(dtype), base.to(dtype)
    return ((s - p).abs() / (p.abs() + 1e-8)).float()


def scores_of(ranking: Ranking) -> np.ndarray:
    """Return all scores of a ranking, flat, computed without it."""
    pair = ranking.pair
    return torch.cat([directly(pair.tuned[n], pair.base[n]).flatten() for n in pair.shapes]).numpy()


def ranking_of(scores) -> Ranking:
    """Return a ranking of given scores: the distances from a model of zeros."""
    tuned = torch.tensor(np.asarray(scores, np.float32))
    pair = {"layers.w": torch.zeros(len(tuned))}, {"layers.w": tuned}
    return rank(*pair, strategy="absolute", threads=1)


# --- scores -----------------------------------------------------------------------------------


def test_score_by_hand():
    tuned = torch.tensor([3.0, -1.0, 2.0, 0.0, 5.0, 1e-8])
    base = torch.tensor([2.0, 4.0, 2.0, 0.0, 0.0, -1e-8])
    scores = score(tuned, base).tolist()
    assert scores == pytest.approx([1 / 2, 5 / 4, 0, 0, 5 / 1e-8, 1.0], rel=1e-6)
    assert EPSILON == 1e-8


def test_score_in_bfloat16_rounds_each_step():
    # 1.02 is 1.0234375 in bfloat16; 1.0234375 − 1 = 0.0234375 exactly; 0.0234375 / 1.
    tuned, base = torch.tensor([1.02]), torch.tensor([1.0])
    assert score(tuned, base, torch.bfloat16).tolist() == [0.0234375]
    assert score(tuned, base).item() == pytest.approx(0.02, rel=1e-5)
    # 4.328125 is 4.3125 in bfloat16, so 1.3125 / 3 = 0.4375; and 1/3 itself has 8 bits.
    tuned, base = torch.tensor([4.328125, 4.0]), torch.tensor([3.0, 3.0])
    assert score(tuned, base, torch.bfloat16).tolist() == [0.4375, 0.333984375]
    assert score(tuned, base).tolist() == pytest.approx([1.328125 / 3, 1 / 3])


def test_zeros_are_found_in_every_tensor():
    base = {"layers.a": torch.tensor([[1.0, 0.0], [2.0, 3.0]]), "layers.b": torch.tensor([0.0, 4])}
    ranking = rank(base, {"layers.a": torch.ones(2, 2), "layers.b": torch.tensor([0.0, 5.0])})
    assert ranking.zero_base == 2
    assert ranking.unchanged == 2


def test_ranking_follows_the_order_of_the_model_and_counts_the_special_ones(pair):
    model, base, tuned, _ = pair
    names = regions.tensors_in(base, "transformer")
    assert names == [n for n, _ in model.named_parameters() if n in set(names)]
    base, tuned = dict(base), dict(tuned)
    first = base[names[0]].clone()
    first[0, :3] = 0.0
    base[names[0]] = first
    tuned[names[0]] = tuned[names[0]].clone()
    tuned[names[0]][0, 0] = 0.0  # stays at zero
    tuned[names[1]] = base[names[1]].clone()
    ranking = rank(base, tuned)
    assert ranking.size == len(scores_of(ranking)) == sum(base[n].numel() for n in names) == 4992
    assert ranking.shapes == {n: base[n].shape for n in names}
    assert ranking.zero_base == 3
    assert ranking.unchanged == 1 + base[names[1]].numel()


# --- regions ----------------------------------------------------------------------------------


def test_region_is_every_weight_inside_a_layer_but_the_norms():
    model = network(tie_word_embeddings=False, attention_bias=True, mlp_bias=True)
    names = regions.tensors_in(snapshot(model), "transformer")
    parts = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    blocks = ["self_attn"] * 4 + ["mlp"] * 3
    assert set(names) == {
        f"model.layers.{layer}.{block}.{part}.{kind}"
        for layer in (0, 1)
        for block, part in zip(blocks, parts, strict=True)
        for kind in ("weight", "bias")
    }
    left = [name for name, _ in model.named_parameters() if name not in names]
    assert {name.split(".")[-2] for name in left} == {
        "embed_tokens", "norm", "input_layernorm", "post_attention_layernorm", "lm_head",
    }  # fmt: skip


def test_norms_of_other_families_are_outside_too():
    weights = ["model.layers.0.self_attn.q_norm.weight", "model.layers.0.mlp.up_proj.weight"]
    assert regions.tensors_in(dict.fromkeys(weights), "transformer") == weights[1:]


def test_region_may_be_an_expression(pair):
    _, base, tuned, _ = pair
    names = regions.tensors_in(base, r"layers\.1\..*v_proj")
    assert names == ["model.layers.1.self_attn.v_proj.weight"]
    assert rank(base, tuned, names[0]).size == base[names[0]].numel()


# --- how many, and which ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "percent", "count"),
    [
        (100, 0.29, 0),
        (10_000, 0.29, 29),  # 0.29 * 10_000 / 100 is 28.999999999999996 in floating point
        (100, 29.0, 29),
        (1000, 33.3, 333),
        (999, 33.3, 332),
        (7, 100, 7),
        (7, 100.0, 7),
        (7, 0, 0),
        (7, 0.0, 0),
        (3, 66.66, 1),
        (3, 66.67, 2),
        (10**11, 0.07, 7 * 10**7),
        (10**9, 1e-7, 1),
        (1000, np.float64(0.3), 3),
        (1000, np.float32(0.3), 3),
    ],
)
def test_exactly_the_floor_of_the_percentage_as_written(size, percent, count):
    assert how_many(size, percent) == count


def floor_of(size: int, percent: float) -> int:
    """Return floor(percent · size / 100) in decimal arithmetic, exact to 400 digits."""
    with localcontext(prec=400):
        return math.floor(Decimal(str(percent)) * size / 100)


@settings(deadline=None)
@given(st.integers(0, 10**12), st.floats(0, 100))
def test_how_many_is_the_floor(size, percent):
    assert how_many(size, percent) == floor_of(size, percent)


TINY = float(np.float32(1e-45))  # the smallest subnormal number of float32
SCORES = st.sampled_from([0.0, TINY, 2 * TINY, 1e-38, 0.5, 0.50000006, 1.0, 5e8, 3.4e38])
PERCENTS = st.one_of(st.sampled_from([0, 0.29, 33.3, 50, 99.9, 100]), st.floats(0, 100))


@settings(deadline=None, max_examples=400)
@given(st.lists(SCORES, min_size=1, max_size=80), PERCENTS)
@example([0.0] * 50, 50)
@example([0.0, TINY] * 20, 25)
def test_selection_equals_a_sort_by_score_and_position(scores, percent):
    order = sorted(range(len(scores)), key=lambda i: (-np.float32(scores[i]), i))
    k = floor_of(len(scores), percent)
    chosen = selected(ranking_of(scores), percent)
    assert chosen.dtype == bool and chosen.shape == (len(scores),)
    assert np.flatnonzero(chosen).tolist() == sorted(order[:k])


@settings(deadline=None, max_examples=100)
@given(st.lists(SCORES, min_size=1, max_size=80), st.lists(PERCENTS, min_size=1, max_size=5))
def test_thresholds_found_together_serve_each_percentage(scores, percents):
    ranking = ranking_of(scores)
    for percent, cut in thresholds(ranking, percents).items():
        assert cut == thresholds(ranking, [percent])[percent]
        chosen = np.float32(scores)[selected(ranking, percent)]
        assert cut.k == len(chosen)
        if cut.k:
            assert cut.threshold == chosen.min()
            assert cut.equal == np.count_nonzero(np.float32(scores) == chosen.min())
            assert cut.ties == np.count_nonzero(chosen == chosen.min())
        else:
            assert cut.threshold is None


def test_exact_count_where_most_scores_tie_at_zero():
    scores = np.zeros(10_001, np.float32)
    scores[[9000, 17, 400]] = [1.0, 2.0, TINY]
    chosen = np.flatnonzero(selected(ranking_of(scores), 33.3))
    assert len(chosen) == 3330  # floor(3330.333)
    assert chosen.tolist() == [*range(3329), 9000]  # 17 and 400 are among the first anyway


# --- restoration ------------------------------------------------------------------------------


def test_all_restored_gives_the_pretrained_bits_in_the_region(pair):
    model, base, tuned, ranking = pair
    inside = list(ranking.shapes)
    outside = [name for name in base if name not in inside]
    assert all((base[name] != tuned[name]).any() for name in base)
    with restored(model, base, tuned, ranking, 100) as undone:
        assert undone.k == ranking.size
        assert same_bits(model, base, inside)
        assert same_bits(model, tuned, outside)


def test_none_restored_leaves_the_fine_tuned_bits(pair):
    model, base, tuned, ranking = pair
    with restored(model, base, tuned, ranking, 0) as undone:
        assert undone == Change()
        assert same_bits(model, tuned)


@pytest.mark.parametrize("percent", [0.29, 1, 33.3, 50.0, 99.99])
@pytest.mark.parametrize("share", [1.0, 0.01])
def test_a_share_restores_exactly_the_most_changed(percent, share):
    # share 0.01: 99 of 100 parameters did not change, and their scores tie at zero.
    model = network()
    base = snapshot(model)
    tuned = moved(base, share)
    ranking = rank(base, tuned)
    write(model, tuned)
    k = floor_of(ranking.size, percent)
    order = np.lexsort((np.arange(ranking.size), -scores_of(ranking)))[:k]
    before, after = (torch.cat([w[n].flatten() for n in ranking.shapes]) for w in (base, tuned))
    expected = after.clone()
    expected[order] = before[order]
    with restored(model, base, tuned, ranking, percent) as undone:
        assert undone.k == k
        parameters = dict(model.named_parameters())
        values = torch.cat([parameters[name].flatten() for name in ranking.shapes])
        assert torch.equal(bits(values), bits(expected))
        changed = int((values != after).sum())
        assert changed == min(k, int((before != after).sum()))
    assert same_bits(model, tuned)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("percent", [0, 20, 100])
def test_undo_is_bit_exact(pair, dtype, percent):
    model, base, tuned, ranking = pair
    name = next(iter(ranking.shapes))
    tuned[name].view(-1)[:2] = torch.tensor([-0.0, 1e-40])
    ranking = rank(base, tuned)
    model.to(dtype)
    write(model, tuned)
    before = {n: bits(p) for n, p in model.named_parameters()}
    with restored(model, base, tuned, ranking, percent):
        differ = [n for n, p in model.named_parameters() if not torch.equal(bits(p), before[n])]
        assert bool(differ) == (percent > 0)
    assert all(torch.equal(bits(p), before[n]) for n, p in model.named_parameters())
    assert {p.dtype for p in model.parameters()} == {dtype}


def test_undo_after_an_exception(pair):
    model, base, tuned, ranking = pair
    with pytest.raises(ZeroDivisionError), restored(model, base, tuned, ranking, 40):
        assert not same_bits(model, tuned)
        raise ZeroDivisionError
    assert same_bits(model, tuned)


def test_weights_given_are_left_as_they_are(pair):
    model, base, tuned, ranking = pair
    copies = [{n: bits(t) for n, t in w.items()} for w in (base, tuned)]
    with restored(model, base, tuned, ranking, 60):
        pass
    for weights, copy in zip((base, tuned), copies, strict=True):
        assert all(torch.equal(bits(weights[n]), copy[n]) for n in copy)


def test_bfloat16_network_holds_the_rounded_pretrained_weights(pair):
    model, base, tuned, ranking = pair
    model.to(torch.bfloat16)
    with restored(model, base, tuned, ranking, 100):
        assert same_bits(model, base, ranking.shapes)


def test_a_wrong_percentage_changes_nothing(pair):
    model, base, tuned, ranking = pair
    for way in (restored(model, base, tuned, ranking, 101), interpolated(model, ranking.pair, -1)):
        with pytest.raises(ConfigError), way:
            pass
        assert same_bits(model, tuned)


@pytest.mark.parametrize("strategy", ["top", "bottom", "random", "absolute"])
def test_what_was_undone_is_the_change_of_the_chosen(pair, strategy):
    model, base, tuned, _ = pair
    ranking = rank(base, tuned, strategy=strategy)
    chosen = selected(ranking, 33.3)
    moves = torch.cat([(tuned[n].double() - base[n].double()).flatten() for n in ranking.shapes])
    with restored(model, base, tuned, ranking, 33.3) as undone:
        assert undone.k == chosen.sum()
        assert undone.l1 == pytest.approx(float(moves[chosen].abs().sum()))
        assert undone.l2 == pytest.approx(float((moves[chosen] ** 2).sum()))
    whole = change(ranking.pair)
    assert (whole.k, whole.l1) == (len(moves), pytest.approx(float(moves.abs().sum())))
    assert whole.l2 == pytest.approx(float((moves**2).sum()))


@pytest.mark.parametrize("percent", [0, 5, 60, 100])
def test_interpolation_moves_every_parameter_the_same_share_back(pair, percent):
    model, base, tuned, ranking = pair
    with interpolated(model, ranking.pair, percent) as undone:
        whole, left = change(ranking.pair), 1 - percent / 100
        assert undone.k == ranking.size
        assert undone.l1 == pytest.approx(whole.l1 * (1 - left), abs=1e-6 * whole.l1)
        assert undone.l2 == pytest.approx(whole.l2 * (1 - left**2), abs=1e-6 * whole.l2)
        for name, now in model.named_parameters():
            back = percent / 100 * (base[name] - tuned[name]) if name in ranking.shapes else 0
            assert torch.allclose(now, tuned[name] + back, rtol=1e-5, atol=1e-7)
        if percent in (0, 100):
            assert same_bits(model, base if percent else tuned, ranking.shapes)
    assert same_bits(model, tuned)


def test_snapshot_is_a_copy_and_write_brings_it_back():
    model = network(tie_word_embeddings=True)
    copy = snapshot(model)
    assert "lm_head.weight" not in copy and "model.embed_tokens.weight" in copy
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert not same_bits(model, copy)
    write(model, copy)
    assert same_bits(model, copy)
    assert torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)


# --- concentration ----------------------------------------------------------------------------


def test_concentration_against_a_direct_computation(pair):
    ranking = pair[3]
    percents = [1, 3, 5, 10.5, 20, 40, 60, 100]
    table = concentration(ranking, percents)
    ordered = np.sort(scores_of(ranking).astype(np.float64))[::-1]
    assert table["top_percent"].tolist() == percents
    for row in table.itertuples():
        k = floor_of(4992, row.top_percent)
        assert (row.k, row.n) == (k, 4992)
        share = 100 * ordered[:k].sum() / ordered.sum()
        assert row.share_of_change_percent == pytest.approx(share, rel=1e-12)
        assert row.threshold == ordered[k - 1]
        assert row.moved == k - int((ordered[:k] == 0).sum())
    assert table["share_of_change_percent"].is_monotonic_increasing
    assert table["share_of_change_percent"].iloc[-1] == pytest.approx(100)


def test_concentration_by_hand():
    # p is 0 for the second and the third, of which the third did not move.
    base = torch.tensor([1.0, 0, 0, 1, 1, 1, 1, 1, 1, 1])
    tuned = base + torch.tensor([0.0, 6, 0, 1, 0, 0, 2, 1, 0, 0])
    ranking = rank({"layers.w": base}, {"layers.w": tuned}, strategy="absolute")
    table = concentration(ranking, [0, 10, 25, 30, 50])
    assert table["k"].tolist() == [0, 1, 2, 3, 5]
    assert table["share_of_change_percent"].tolist() == [0, 60, 80, 90, 100]
    # Without the one that moved by 6, whose base is zero, the others hold 2 + 1 + 1.
    assert table["without_zero_base_percent"].tolist() == [0, 0, 50, 75, 100]
    assert table["moved"].tolist() == [0, 1, 2, 3, 4]
    assert table["threshold"].tolist()[1:] == [6, 2, 1, 0]
    assert set(table["zero_base"]) == {2} and set(table["unchanged"]) == {6}


def test_position_decides_which_zeros_are_among_the_chosen():
    # All move by 1; p is 0 for every second one. Of the first five, two have p = 0.
    base = torch.tensor([1.0, 0, 1, 0, 1, 0, 1, 0, 1, 0])
    ranking = rank({"layers.w": base}, {"layers.w": base + 1}, strategy="absolute", block_size=3)
    table = concentration(ranking, [50])
    assert table["share_of_change_percent"].tolist() == [50]
    assert table["without_zero_base_percent"].tolist() == [60]


def test_without_zero_base_is_zero_where_nothing_else_moved():
    generator = torch.Generator().manual_seed(0)
    base = {"layers.w": torch.randn(50, 60, generator=generator)}
    base["layers.w"][:, ::3] = 0.0
    change = torch.randn(50, 60, generator=generator) * (base["layers.w"] == 0)
    table = concentration(rank(base, {"layers.w": base["layers.w"] + change}), [1, 10, 30, 60])
    assert table["without_zero_base_percent"].tolist() == [0] * 4
    assert (table["share_of_change_percent"] > 0).all()


def test_without_zero_base_against_a_direct_computation(pair):
    _, base, tuned, _ = pair
    base[V_PROJ][:, ::4] = 0.0
    ranking = rank(base, tuned)
    flat = torch.cat([base[name].flatten() for name in ranking.shapes]).numpy()
    assert ranking.zero_base == np.count_nonzero(flat == 0) > 0
    for row in concentration(ranking, [2, 5, 30]).itertuples():
        chosen, rest = selected(ranking, row.top_percent), flat != 0
        scores = scores_of(ranking).astype(float)
        share = 100 * scores[chosen & rest].sum() / scores[rest].sum()
        assert row.without_zero_base_percent == pytest.approx(share, rel=1e-12)
        assert 0 < share < row.share_of_change_percent


def test_nothing_moved_is_a_share_of_zero_not_nan(pair):
    base = pair[1]
    ranking = rank(base, base)
    table = concentration(ranking, [1, 50, 100])
    assert table["share_of_change_percent"].tolist() == [0, 0, 0]
    assert table["without_zero_base_percent"].tolist() == [0, 0, 0]
    assert table["moved"].tolist() == [0, 0, 0]
    assert table["unchanged"].tolist() == [4992] * 3
    assert table["k"].tolist() == [49, 2496, 4992]


def test_sums_are_in_float64():
    # In float32 a one added to 2²⁴ vanishes.
    scores = [2.0**24] + [1.0] * 2**16
    table = concentration(ranking_of(scores), [50])
    share = 100 * (2**24 + 2**15 - 1) / (2**24 + 2**16)
    assert table["share_of_change_percent"].tolist() == [pytest.approx(share, rel=1e-12)]


# --- errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", ["base", "tuned"])
def test_weights_that_are_not_finite_name_their_tensor(pair, which, value):
    weights = {"base": pair[1], "tuned": pair[2]}
    weights[which][V_PROJ][3, 2] = value
    with pytest.raises(ModelError, match=f"{V_PROJ} holds NaN or infinity"):
        rank(**weights)


def test_both_infinite_is_an_error_too(pair):
    for weights in pair[1:3]:
        weights[V_PROJ][0, 0] = math.inf
    with pytest.raises(ModelError, match=V_PROJ):
        rank(*pair[1:3])


def test_missing_tensor_and_other_shape_are_named(pair):
    _, base, tuned, _ = pair
    with pytest.raises(ModelError, match=f"{V_PROJ} is missing from the fine-tuned model"):
        rank(base, {name: w for name, w in tuned.items() if name != V_PROJ})
    with pytest.raises(ModelError, match=rf"{V_PROJ} has different shapes .*\(8, 16\).*\(8, 15\)"):
        rank(base, tuned | {V_PROJ: tuned[V_PROJ][:, :15]})


@pytest.mark.parametrize("region", ["encoder", "layers[", "*", "(?P<"])
def test_wrong_region_is_an_error(pair, region):
    with pytest.raises(ConfigError, match="region"):
        rank(pair[1], pair[2], region)


@pytest.mark.parametrize("percent", [-0.1, -1, 100.01, 150, math.nan, math.inf, -math.inf])
def test_wrong_percentage_is_an_error(pair, percent):
    for act in (
        lambda: how_many(10, percent),
        lambda: selected(pair[3], percent),
        lambda: thresholds(pair[3], [1, percent]),
        lambda: concentration(pair[3], [percent]),
    ):
        with pytest.raises(ConfigError, match="from 0 to 100"):
            act()
