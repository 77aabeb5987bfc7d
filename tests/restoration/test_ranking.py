"""Every strategy against a plain sort, on small tensors full of ties, zeros and subnormals."""

import hashlib
from fractions import Fraction
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.errors import ConfigError, ModelError
from repro.restoration import ranking as ranking_module
from repro.restoration import tensor_pairs
from repro.restoration.concentration import by_tensor, concentration
from repro.restoration.histograms import Histogram, units
from repro.restoration.ranking import STRATEGIES, Criterion, how_many, rank
from repro.restoration.regions import REGIONS, layer, module, sort_key, tensors_in
from repro.restoration.tensor_pairs import Block, pair
from repro.restoration.thresholds import selected, selection, thresholds

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
NAMES = ["model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.up_proj.weight",
         "model.layers.10.mlp.up_proj.weight", "model.layers.2.mlp.up_proj.weight"]  # fmt: skip
# Few values, so that scores tie; subnormal in float32, zero in float16.
VALUES = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1.5, 2.0, -2.0, 1e-40, -3e-39, 3e-8, 6e4, 0.1])


@st.composite
def pairs(draw):
    """Return (base, tuned): up to four tensors, each in a type of its own in either model."""
    base, tuned = {}, {}
    for name in draw(st.permutations(NAMES))[: draw(st.integers(1, 4))]:
        size = draw(st.integers(1, 12))
        for weights in (base, tuned):
            values = draw(st.lists(VALUES, min_size=size, max_size=size))
            weights[name] = torch.tensor(values).to(draw(st.sampled_from(DTYPES)))
    return base, tuned


def reference(base, tuned, strategy: str, dtype) -> np.ndarray:
    """Return what is ranked, by PyTorch: the higher, the earlier."""
    s, p = tuned.to(dtype), base.to(dtype)
    if strategy == "absolute":
        return (s - p).abs().float().numpy()
    scores = ((s - p).abs() / (p.abs() + 1e-8)).float().numpy()
    return -scores if strategy == "bottom" else scores


def splitmix(seed: int, name: str, size: int) -> list[int]:
    """Return the first numbers of SplitMix64 for a tensor, 31 bits of each, in plain integers."""
    state = int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "little")
    numbers, mask = [], 2**64 - 1
    for _ in range(size):
        state = z = (state + 0x9E3779B97F4A7C15) & mask
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
        numbers.append((z ^ z >> 31) >> 33)
    return numbers


def rankings() -> tuple:
    """Return what a ranking is tried on: a pair, strategy, dtype, percents, size of a block."""
    return (
        pairs(),
        st.sampled_from(list(STRATEGIES)),
        st.sampled_from([torch.float32, torch.bfloat16]),
        st.lists(st.floats(0, 100), min_size=1, max_size=4),
        st.integers(1, 7),
    )


@settings(deadline=None, max_examples=200)
@given(*rankings(), st.integers(1, 3))
def test_selection_is_that_of_a_plain_sort(pair, strategy, dtype, percents, block, threads):
    base, tuned = pair
    ranking = rank(base, tuned, "all", dtype, strategy=strategy, block_size=block, threads=threads)
    names = [name for name in [*NAMES[:2], NAMES[3], NAMES[2]] if name in base]  # 2 before 10
    assert list(ranking.shapes) == names
    if strategy == "random":
        scores = np.concatenate([splitmix(0, n, len(base[n])) for n in names])
    else:
        scores = np.concatenate([reference(base[n], tuned[n], strategy, dtype) for n in names])
    order = np.lexsort((np.arange(len(scores)), -scores))
    cuts = thresholds(ranking, percents)
    for percent, cut in cuts.items():
        expected = np.sort(order[: how_many(len(scores), percent)])
        mask = np.concatenate([m[0] for *_, m in selection(ranking, [cut])])
        assert np.flatnonzero(mask).tolist() == expected.tolist()


@settings(deadline=None, max_examples=100)
@given(pairs(), st.sampled_from([torch.float32, torch.bfloat16]), st.integers(1, 5))
def test_sums_are_those_of_fractions(pair, dtype, block):
    base, tuned = pair
    ranking = rank(base, tuned, "all", dtype, block_size=block, threads=2)
    names = list(ranking.shapes)
    scores = np.concatenate([reference(base[n], tuned[n], "top", dtype) for n in names])
    zero = np.concatenate([(base[n] == 0).numpy() for n in names])
    same = np.concatenate([(base[n].float() == tuned[n].float()).numpy() for n in names])
    assert (ranking.zero_base, ranking.unchanged) == (zero.sum(), same.sum())
    percents = [0, 10, 35.5, 50, 100]
    for row in concentration(ranking, percents).itertuples():
        chosen = selected(ranking, row.top_percent)
        exact = [Fraction(float(x)) for x in scores]

        def share(keep, exact=exact, chosen=chosen):
            whole = sum(x for x, k in zip(exact, keep, strict=True) if k)
            part = sum(x for x, k, c in zip(exact, keep, chosen, strict=True) if k and c)
            return float(100 * part / whole) if whole else 0.0

        assert row.share_of_change_percent == share(np.ones(len(zero), bool))
        assert row.without_zero_base_percent == share(~zero)
        assert row.moved == np.count_nonzero(scores[chosen])


@pytest.fixture
def large():
    """Return (base, tuned) of two tensors, 100,003 parameters, a third of them unmoved."""
    generator = torch.Generator().manual_seed(0)
    base = {
        n: torch.randn(s, generator=generator) for n, s in zip(NAMES[:2], (100_000, 3), strict=True)
    }
    base[NAMES[0]][::7] = 0
    tuned = {
        n: w + 0.01 * (w > -0.4) * torch.randn(w.shape, generator=generator)
        for n, w in base.items()
    }
    return base, tuned


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_nothing_depends_on_block_size_or_threads(large, strategy):
    results = []
    for block, threads in ((1 << 22, 1), (4096, 2), (997, 3)):
        ranking = rank(*large, strategy=strategy, seed=3, block_size=block, threads=threads)
        cuts = thresholds(ranking, [1, 20, 77.7])
        masks = selected(ranking, 20)
        results.append((cuts, masks.tobytes(), by_tensor(ranking, [1, 20]).to_json()))
    assert results[0] == results[1] == results[2]


PERCENTS = [0, 40]


@pytest.mark.parametrize("dtype", DTYPES[:2])
@pytest.mark.parametrize("strategy", ["top", "bottom", "absolute"])
def test_one_reading_finds_what_two_find(large, monkeypatch, strategy, dtype):
    monkeypatch.setattr(ranking_module, "SAMPLING_SIZE", 0)
    monkeypatch.setattr(tensor_pairs, "SAMPLE_EVERY", 4)  # of so few parameters
    base = {name: w + (w == 0) for name, w in large[0].items()}
    models = base, {name: w * 1.01 + 1e-3 * w**2 for name, w in base.items()}
    how = {
        "strategy": strategy,
        "seed": 3,
        "score_dtype": dtype,
        "threads": 2,
        "block_size": 50_000,
    }
    read = []
    cuts = thresholds(
        rank(*models, progress=read.append, expected_percents=PERCENTS, **how), PERCENTS
    )
    assert sum(read) == sum(w.nbytes for half in models for w in half.values())
    assert cuts == thresholds(rank(*models, **how), PERCENTS)


def test_where_the_sample_misleads_the_second_reading_decides(large, monkeypatch):
    monkeypatch.setattr(ranking_module, "SAMPLING_SIZE", 0)
    read = []
    ranking = rank(*large, progress=read.append, expected_percents=[3])
    size = sum(read)
    assert thresholds(ranking, [60, 3]) == thresholds(rank(*large), [60, 3])
    assert sum(read) == 2 * size


def test_a_sample_is_of_pieces_of_every_large_block():
    weights = {"layers.w": torch.arange(100_000.0), "layers.x": torch.arange(5.0)}
    blocks = {block.name: block for block in pair(weights, weights, size=1 << 16).sample()}
    assert blocks["layers.x"].base.tolist() == [0, 1, 2, 3, 4]
    first = next(pair(weights, weights, size=1 << 16).sample())
    expected = [4096 * piece + i for piece in range(16) for i in range(64)]
    assert first.base.tolist() == first.tuned.tolist() == expected


def test_random_is_of_the_seed_and_spreads_evenly(large):
    one, again, other = (
        selected(rank(*large, strategy="random", seed=seed), 20) for seed in (1, 1, 2)
    )
    assert (one == again).all() and one.sum() == other.sum() == 20_000
    assert 3_700 < (one & other).sum() < 4_300  # a fifth of a fifth of 100,003
    quarters = [part.sum() for part in np.array_split(one, 4)]
    assert all(4_700 < q < 5_300 for q in quarters)


def test_random_does_not_follow_the_change(large):
    ranking = rank(*large, strategy="random")
    moved = (large[0][NAMES[0]] != large[1][NAMES[0]]).numpy()
    assert selected(ranking, 50)[:100_000][moved].mean() == pytest.approx(0.5, abs=0.01)


def test_bottom_takes_what_did_not_move_first(large):
    base, tuned = large
    chosen = selected(rank(base, tuned, strategy="bottom"), 10)
    still = torch.cat([base[n] == tuned[n] for n in NAMES[:2]]).numpy()
    assert chosen.sum() == 10_000 and still[chosen].all()
    assert np.flatnonzero(chosen).tolist() == np.flatnonzero(still)[:10_000].tolist()


def test_by_tensor_counts_every_chosen_parameter(large):
    ranking = rank(*large)
    table = by_tensor(ranking, [1.0, 40.0])
    assert table["tensor"].tolist() == NAMES[:2] and table["layer"].tolist() == [0, 1]
    assert table["module"].tolist() == ["self_attn.q_proj", "mlp.up_proj"]
    for percent in (1.0, 40.0):
        chosen = selected(ranking, percent)
        assert table[percent].tolist() == [chosen[:100_000].sum(), chosen[100_000:].sum()]
    assert table["change_percent"].sum() == pytest.approx(100)


def test_by_tensor_splits_ties_by_position():
    base = {name: torch.ones(4) for name in NAMES[:2]}
    table = by_tensor(
        rank(base, {n: 2 * w for n, w in base.items()}, block_size=3), [50.0, 62.5, 75.0]
    )
    assert table[[50.0, 62.5, 75.0]].to_numpy().tolist() == [[4, 4, 4], [0, 1, 2]]


@pytest.mark.parametrize("strategy", ["bottom", "random"])
def test_concentration_needs_a_ranking_by_size(large, strategy):
    with pytest.raises(ConfigError, match="top or absolute"):
        concentration(rank(*large, strategy=strategy), [1])


def test_unknown_strategy_is_an_error(large):
    with pytest.raises(ConfigError, match=r"'best'.*top, bottom, random, absolute"):
        rank(*large, strategy="best")


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_named_by_every_strategy(large, strategy, dtype, value, threads):
    for weights in large:
        original = weights[NAMES[1]].clone()
        weights[NAMES[1]][1] = value
        with pytest.raises(ModelError, match=f"{NAMES[1]} holds NaN or infinity"):
            rank(*large, score_dtype=dtype, strategy=strategy, threads=threads)
        weights[NAMES[1]] = original


def test_integers_are_refused(large):
    base, tuned = large
    base[NAMES[1]] = tuned[NAMES[1]] = torch.ones(3, dtype=torch.int8)
    with pytest.raises(ModelError, match=rf"{NAMES[1]} is of int8"):
        rank(base, tuned)


def test_an_extra_tensor_is_named(large):
    base, tuned = large
    tuned["model.layers.1.mlp.gate_proj.weight"] = torch.ones(2)
    with pytest.raises(ModelError, match=r"1\.mlp\.gate_proj\.weight is missing from the pre-tr"):
        rank(base, tuned)


# --- sums and bits ----------------------------------------------------------------------------

FLOATS = st.floats(0, allow_nan=False, allow_infinity=False, width=32)


@given(st.lists(FLOATS, min_size=1, max_size=50))
def test_a_histogram_sums_exactly(values):
    keys = np.array(values, np.float32).view(np.uint32)
    histogram = Histogram()
    histogram.add(keys)
    unit = Fraction(1, 2**149)
    assert histogram.total() * unit == sum(map(Fraction, values))
    assert histogram.size == len(values)
    assert [units(int(k)) * unit for k in keys] == list(map(Fraction, values))


@settings(max_examples=50)
@given(st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=40))
def test_rounding_to_bfloat16_is_pytorchs(values):
    p = torch.tensor(values)
    s = p.flip(0)
    for strategy in ("absolute", "top"):
        keys = Criterion(strategy, torch.bfloat16).keys(Block("w", 0, s, p))
        assert keys.view(np.float32).tolist() == reference(p, s, strategy, torch.bfloat16).tolist()


# --- regions ----------------------------------------------------------------------------------

SAMPLE = [
    "model.embed_tokens.weight",
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.0.self_attn.q_proj.bias",
    "model.layers.0.self_attn.k_proj.weight",
    "model.layers.0.mlp.gate_proj.weight",
    "model.layers.0.mlp.down_proj.weight",
    "model.layers.0.input_layernorm.weight",
    "model.layers.2.self_attn.q_proj.weight",
    "model.layers.10.self_attn.q_proj.weight",
    "model.norm.weight",
    "lm_head.weight",
]


def test_order_is_the_models_whatever_the_files_say():
    rest = {"model.norm.weight", "lm_head.weight"}  # by name, after the layers
    names = sorted(sorted(SAMPLE), key=sort_key)
    assert names[:-2] == [n for n in SAMPLE if n not in rest] and set(names[-2:]) == rest


@pytest.mark.parametrize(
    ("region", "layers", "count"),
    [
        ("transformer", "", 7), ("attention", "", 5), ("mlp", "", 2), ("embedding", "", 2),
        ("all", "", 11), ("transformer", "0", 5), ("transformer", "0-2", 6),
        ("transformer", "2,10", 2), ("q_proj", "10", 1), ("all", "1-10", 2),
    ],
)  # fmt: skip
def test_regions_and_layers(region, layers, count):
    assert len(tensors_in(SAMPLE, region, layers)) == count


@pytest.mark.parametrize("layers", ["a", "3-1", "1-", "0..2", "-1"])
def test_layers_that_are_no_range(layers):
    with pytest.raises(ConfigError, match="such as 0-3"):
        tensors_in(SAMPLE, "all", layers)


def test_layers_that_are_not_there():
    with pytest.raises(ConfigError, match="in layers 3-9 matches no tensor"):
        tensors_in(SAMPLE, "transformer", "3-9")


def test_angles_of_positions_are_no_parameters():
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    for region in REGIONS:
        assert name not in tensors_in([*SAMPLE, name], region)


def test_layer_and_module_of_a_name():
    assert (layer(SAMPLE[2]), module(SAMPLE[2])) == (0, "self_attn.q_proj")
    assert (layer(SAMPLE[8]), module(SAMPLE[8])) == (10, "self_attn.q_proj")
    assert (layer("lm_head.weight"), module("lm_head.weight")) == (None, "lm_head")


# --- as it is computed on a GPU -------------------------------------------------------------------


def ranked(weights, percents, **options) -> tuple:
    """Return all that a ranking says of a pair: counts, sums, cuts, and the chosen parameters."""
    ranking = rank(*weights, threads=2, **options)
    counts, cuts = ranking.counts, thresholds(ranking, percents)
    numbers = counts.keys.total(), counts.zero.total(), counts.change, counts.unchanged
    histograms = [h.tolist() for x in (counts.keys, counts.zero) for h in (x.counts, x.lower_sums)]
    return numbers, histograms, cuts, [selected(ranking, x).tolist() for x in percents]


@settings(deadline=None, max_examples=100)
@given(*rankings())
def test_a_gpu_counts_what_the_host_counts(weights, strategy, dtype, percents, block):
    """The way of a GPU is taken here on a CPU: the operations round alike on both."""
    options = {"strategy": strategy, "score_dtype": dtype, "block_size": block, "seed": 3}
    on_host = ranked(weights, percents, **options)
    with mock.patch.object(Block, "on_host", False):
        assert ranked(weights, percents, **options) == on_host


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_counts_many_parameters_as_the_host_does(large, strategy, dtype):
    options = {"strategy": strategy, "score_dtype": dtype, "block_size": 5000}
    on_host = ranked(large, [1, 20, 60], **options)
    with mock.patch.object(Block, "on_host", False):
        assert ranked(large, [1, 20, 60], **options) == on_host


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_not_finite_is_named_on_a_gpu_too(large, dtype, value):
    base, tuned = ({n: w.clone() for n, w in weights.items()} for weights in large)
    name = next(iter(base))
    tuned[name].view(-1)[7] = value
    with mock.patch.object(Block, "on_host", False), pytest.raises(ModelError, match=name):
        rank(base, tuned, score_dtype=dtype)
