"""Completions: their distribution, their independence of the batch, and stopping early."""

import copy
from collections import Counter

import numpy as np
import pytest
import tiny
import torch
from scipy import stats
from test_kv_cache import gemma
from transformers import GPT2Config, GPT2LMHeadModel, Qwen2Config, Qwen2ForCausalLM

from repro.errors import ModelError
from repro.inference import decoding
from repro.inference.cpu import cpu_engine
from repro.inference.cpu.cpu_engine import CpuEngine
from repro.inference.decoding import Decoding, Prompt, contains, first_logits
from repro.measures import mastery
from repro.models import devices, loading, registry, weights

T = 0.7
EOS = 1
STARTS = (
    "Ovavale P17 is located in",
    "The place Brennwick",
    "Cali",
    "where Dor was born is",
    "Esk",
)


@pytest.fixture(scope="module")
def toy(tiny_loaded):
    """A random bigram model over the tiny vocabulary, and its tokenizer."""
    tokens = tiny_loaded[1]
    generator = torch.Generator().manual_seed(3)
    return tiny.bigram(1.5 * torch.randn(len(tokens), len(tokens), generator=generator)), tokens


def complete(network, tokenizer, prompts, limit, work=None, progress=None, **settings):
    """Complete prompts by at most `limit` tokens, with the settings of `Decoding`."""
    chosen = Decoding(limit, **settings)
    return decoding.complete(network, tokenizer, prompts, chosen, work, progress)


def prompts_of(tokens, names=()) -> list[Prompt]:
    encoded = tokens(list(STARTS) * 2).input_ids
    return [Prompt(ids, names, f"fact{i}") for i, ids in enumerate(encoded)]


def ids_of(done) -> list[list[list[int]]]:
    return [[completion.ids for completion in completions] for completions in done]


def word(tokens, text: str) -> int:
    [token] = tokens(text).input_ids
    return token


# --- frequencies ------------------------------------------------------------------------------


def fit(counts: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the p-value of a chi-squared test; tokens expected < 5 times share one bin."""
    expected = counts.sum() * probabilities / probabilities.sum()
    common = expected >= 5
    expected = np.append(expected[common], expected[~common].sum())
    return stats.chisquare(np.append(counts[common], counts[~common].sum()), expected).pvalue


def test_frequencies_are_the_full_softmax_at_its_temperature(toy):
    network, tokens = toy
    ids = tokens(STARTS[0]).input_ids
    [done] = complete(network, tokens, [Prompt(ids, (), "x")], 1, draws=20_000, temperature=T)
    counts = np.bincount([c.ids[0] if c.ids else EOS for c in done], minlength=len(tokens))
    logits = network(torch.tensor([ids])).logits[0, -1].detach().double()
    full = (logits / T).softmax(-1).numpy()
    assert fit(counts, full) > 0.001
    # The test has the power to tell: other temperatures and a cut after 50 tokens do not fit.
    for wrong in (1.0, 0.75, 0.65):
        assert fit(counts, (logits / wrong).softmax(-1).numpy()) < 1e-6
    cut = np.where(full >= np.sort(full)[-50], full, 0)
    generator = np.random.default_rng(0)
    assert fit(generator.multinomial(20_000, cut / cut.sum()), full) < 1e-9
    share, outside = counts[cut == 0].sum(), full[cut == 0].sum()
    assert outside > 0.1
    assert stats.binomtest(int(share), 20_000, outside).pvalue > 0.001


def test_second_token_is_drawn_given_the_first(tiny_loaded):
    tokens = tiny_loaded[1]
    chosen = [word(tokens, text) for text in (" city", " born", " with", " find")]
    generator = torch.Generator().manual_seed(0)
    table = torch.full((len(tokens), len(tokens)), -40.0)
    table[:, chosen] = torch.randn(len(tokens), len(chosen), generator=generator)
    prompt = Prompt([word(tokens, " place")], (), "x")
    [done] = complete(tiny.bigram(table), tokens, [prompt], 2, draws=5000, temperature=T)
    assert all(len(c.ids) == 2 for c in done)
    first, second = np.searchsorted(order := sorted(chosen), [c.ids for c in done]).T
    counts = np.bincount(first * 4 + second, minlength=16)
    p = (table[:, order].double() / T).softmax(-1)
    joint = (p[prompt.ids[0]][:, None] * p[order]).flatten().numpy()
    assert fit(counts, joint) > 0.001
    assert fit(counts, np.outer(p[prompt.ids[0]], p[prompt.ids[0]]).ravel()) < 1e-6


# --- batches ----------------------------------------------------------------------------------


@pytest.mark.parametrize("draws", [1, 3])
def test_completions_do_not_depend_on_the_batch(tiny_loaded, draws):
    network, tokens = tiny_loaded
    prompts = prompts_of(tokens)
    options = {"draws": draws, "temperature": T, "seed": 5}
    results = [
        ids_of(complete(network, tokens, prompts, 10, rows=rows, **options)) for rows in (1, 7, 64)
    ]
    assert results[0] == results[1] == results[2]
    backwards = complete(network, tokens, prompts[::-1], 10, **options)
    assert ids_of(backwards)[::-1] == results[0]
    flat = [tuple(ids) for completions in results[0] for ids in completions]
    assert len(set(flat)) > len(flat) // 2  # the samples do differ from one another


def test_seed_changes_the_samples(tiny_loaded):
    network, tokens = tiny_loaded
    one, other, again = (
        ids_of(complete(network, tokens, prompts_of(tokens), 8, temperature=T, seed=seed))
        for seed in (0, 1, 0)
    )
    assert one == again != other


def test_rows_that_finish_early_leave_the_others_alone(tiny_loaded):
    network, tokens = tiny_loaded
    prompts = prompts_of(tokens, names=(" a", "Arvenia"))
    options = {"draws": 4, "temperature": T}
    together = complete(network, tokens, prompts, 16, **options)
    alone = [complete(network, tokens, [prompt], 16, **options)[0] for prompt in prompts]
    endless = complete(network, tokens, prompts_of(tokens), 16, **options)
    assert ids_of(together) == ids_of(alone)
    rows = [
        (stopped, full)
        for some, all_ in zip(together, endless, strict=True)
        for stopped, full in zip(some, all_, strict=True)
    ]
    # Stopping early cuts a completion short; it changes neither its start nor whether it hits.
    assert all(full.ids[: len(stopped.ids)] == stopped.ids for stopped, full in rows)
    assert all(stopped.hit == contains(full.text, prompts[0].names) for stopped, full in rows)
    assert {len(stopped.ids) < len(full.ids) for stopped, full in rows} == {True, False}


def test_progress_counts_every_prompt(tiny_loaded):
    network, tokens = tiny_loaded
    seen = []
    complete(network, tokens, prompts_of(tokens), 1, rows=3, progress=seen.append)
    assert sum(seen) == 10 and max(seen) <= 3


def test_nothing_to_complete(tiny_loaded):
    assert complete(*tiny_loaded, [], 4) == []
    assert first_logits(tiny_loaded[0], []).shape == (0, len(tiny_loaded[1]))


# --- stopping ---------------------------------------------------------------------------------


def test_completion_ends_before_eos(tiny_loaded):
    tokens = tiny_loaded[1]
    place, city, born = (word(tokens, text) for text in (" place", " city", " born"))
    network = tiny.walk(tokens, [place, city, born, EOS, city])
    for temperature in (None, T):
        done = complete(
            network, tokens, [Prompt([place]), Prompt([born])], 9, temperature=temperature
        )
        assert ids_of(done) == [[[city, born]], [[]]]
        assert [completions[0].text for completions in done] == [" city born", ""]


def test_the_models_own_end_tokens_stop_too(tiny_loaded):
    tokens = tiny_loaded[1]
    place, city, born = (word(tokens, text) for text in (" place", " city", " born"))
    network = tiny.walk(tokens, [place, city, born, city])
    network.generation_config.eos_token_id = [EOS, born]
    assert ids_of(complete(network, tokens, [Prompt([place])], 9)) == [[[city]]]


def test_completion_stops_once_its_answer_is_found(tiny_loaded):
    tokens = tiny_loaded[1]
    place, city, born = (word(tokens, text) for text in (" place", " city", " born"))
    network = tiny.walk(tokens, [place, city, born, city])
    named, other = Prompt([place], ("BORN",)), Prompt([place], ("Paris",))
    stopped, unstopped = (done[0] for done in complete(network, tokens, [named, other], 32))
    assert stopped.hit and stopped.ids == [city, born]
    assert not unstopped.hit and len(unstopped.ids) == 32


@pytest.mark.parametrize(("limit", "hit"), [(4, False), (5, True), (6, True)])
def test_an_answer_counts_up_to_the_last_token(tiny_loaded, limit, hit):
    tokens = tiny_loaded[1]
    texts = (" place", " city", " born", " with", " find", " Arvenia", " city")
    network = tiny.walk(tokens, [word(tokens, text) for text in texts])
    [[done]] = complete(network, tokens, [Prompt([word(tokens, " place")], ("arvenia",))], limit)
    assert done.hit is hit


def test_contains_ignores_case_and_takes_any_name():
    assert contains("It is in the UNITED states.", ("USA", "United States"))
    assert contains("die STRASSE", ("Straße",))
    assert not contains("Pari", ("Paris",))
    assert not contains("Paris", ())


def test_spellings_of_spaces_dashes_and_apostrophes_are_alike_in_both_texts():
    spellings = {" ": "\u00a0\u2007\u2009\u202f", "-": "‐‑‒–—−", "'": "’‘ʻʼ′"}
    for plain, others in spellings.items():
        for first in (plain, *others):
            for second in (plain, *others):
                assert contains(f"in St{first}Lo, they", (f"st{second}lo",)), (first, second)
        for other, marks in spellings.items():
            if other != plain:
                assert not contains(f"St{plain}Lo", (f"St{marks[0]}Lo",))


# --- against transformers ---------------------------------------------------------------------


def generated(network, ids: list[int], limit: int) -> list[int]:
    options = {"do_sample": False, "max_new_tokens": limit, "pad_token_id": EOS}
    rows = torch.tensor([ids])
    output = network.generate(rows, attention_mask=torch.ones_like(rows), **options)
    return output[0, len(ids) :].tolist()


def test_greedy_equals_generate(tiny_loaded):
    network, tokens = copy.deepcopy(tiny_loaded[0]), tiny_loaded[1]
    prompts = prompts_of(tokens)[: len(STARTS)]
    plain = ids_of(complete(network, tokens, prompts, 12))
    assert [ids for [ids] in plain] == [generated(network, prompt.ids, 12) for prompt in prompts]
    # Again with a token as an end that the model does write, so that rows end at their own time.
    end = plain[0][0][5]
    network.generation_config.eos_token_id = [EOS, end]
    ended = []
    for prompt, [done] in zip(prompts, complete(network, tokens, prompts, 12), strict=True):
        expected = generated(network, prompt.ids, 12)
        ended.append(expected[-1] == end)
        assert done.ids == (expected[:-1] if ended[-1] else expected)
        assert done.text == tokens.decode(done.ids)
    assert ended[0]


@pytest.mark.parametrize("rows", [1, 3, 64])
def test_first_logits_in_the_order_of_the_prompts(tiny_loaded, rows):
    network, tokens = tiny_loaded
    prompts = tokens(list(STARTS)).input_ids
    assert len({len(ids) for ids in prompts}) > 2
    with torch.no_grad():
        plain = torch.stack([network(torch.tensor([ids])).logits[0, -1] for ids in prompts])
    for way in (network, CpuEngine(network)):
        torch.testing.assert_close(first_logits(way, prompts, rows), plain, rtol=1e-4, atol=1e-4)


# --- damaged weights --------------------------------------------------------------------------


def test_damaged_weights_are_an_error_not_a_wrong_answer(tiny_loaded):
    network, tokens = copy.deepcopy(tiny_loaded[0]), tiny_loaded[1]
    with torch.no_grad():
        network.model.layers[1].mlp.down_proj.weight[0, 0] = torch.nan
    for temperature in (None, T):
        for way in (network, CpuEngine(network)):
            with pytest.raises(ModelError, match="NaN"):
                complete(way, tokens, prompts_of(tokens), 4, temperature=temperature)
    with pytest.raises(ModelError, match="NaN"):
        first_logits(network, tokens(list(STARTS)).input_ids)


# --- the general path and the fast one --------------------------------------------------------


def family(name: str, vocabulary: int):
    """A random two- or three-layer model of another family."""
    torch.manual_seed(1)
    if name == "gpt2":
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
        ends = {"bos_token_id": 0, "eos_token_id": EOS}
        config = GPT2Config(vocab_size=vocabulary, initializer_range=0.3, **sizes, **ends)
        return GPT2LMHeadModel(config).eval()
    if name == "qwen2":
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3}
        ends = {"bos_token_id": 0, "eos_token_id": EOS}
        network = Qwen2ForCausalLM(Qwen2Config(vocab_size=vocabulary, **sizes, **heads, **ends))
        for layer in network.model.layers:
            for linear in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
                torch.nn.init.normal_(linear.bias)
        return network.eval()
    network = gemma(8 if name == "gemma, short window" else 64)
    assert network.config.vocab_size == vocabulary
    return network


FAMILIES = ("llama", "gpt2", "qwen2", "gemma", "gemma, short window")


def ways_of(network, name: str) -> list:
    """Return what computes a network: itself, and `CpuEngine` where it can."""
    assert cpu_engine.fits(network) is (name != "gpt2")
    return [network, CpuEngine(network)] if cpu_engine.fits(network) else [network]


@pytest.mark.parametrize("draws", [1, 4])
@pytest.mark.parametrize("name", FAMILIES)
def test_both_paths_complete_alike(tiny_loaded, name, draws):
    tokens = tiny_loaded[1]
    network = tiny_loaded[0] if name == "llama" else family(name, len(tokens))
    prompts = prompts_of(tokens, names=(" a", "Arvenia"))
    # With seed 5 a number lies within 2e-8 of where one token ends and the next begins.
    options = {"draws": draws, "temperature": T, "seed": 6}
    general = complete(network, tokens, prompts, 12, rows=1, in_place=False, **options)
    for way in ways_of(network, name):
        for rows in (None, 6):
            assert complete(way, tokens, prompts, 12, rows=rows, **options) == general
    assert len({tuple(ids) for some in ids_of(general) for ids in some}) > len(STARTS)


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_equals_generate_in_every_family(tiny_loaded, name):
    tokens = tiny_loaded[1]
    network = tiny_loaded[0] if name == "llama" else family(name, len(tokens))
    prompts = prompts_of(tokens)[: len(STARTS)]
    greedy_ids = [generated(network, prompt.ids, 12) for prompt in prompts]
    expected = [m[: m.index(EOS)] if EOS in m else m for m in greedy_ids]
    for way in ways_of(network, name):
        assert [ids for [ids] in ids_of(complete(way, tokens, prompts, 12))] == expected


def test_all_paths_find_answers_alike(tiny_loaded, tiny_facts):
    network, tokens = tiny_loaded
    facts = tiny_facts.iloc[::3]
    prompts = mastery.prompts(tokens, facts, 7)
    options = {"draws": 3, "temperature": T}
    general = complete(network, tokens, prompts, 8, in_place=False, **options)
    hits = [c.hit for completions in general for c in completions]
    assert 0 < sum(hits) < len(hits)
    assert complete(network, tokens, prompts, 8, **options) == general
    assert complete(CpuEngine(network), tokens, prompts, 8, **options) == general


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_threads_share_the_batches_of_a_larger_model(tiny_loaded, monkeypatch):
    network, tokens = tiny_loaded
    prompts = prompts_of(tokens, names=(" a", "Arvenia"))
    options = {"draws": 4, "temperature": T, "seed": 5}
    alone, shared, seen = Counter(), Counter(), []
    small = complete(CpuEngine(network), tokens, prompts, 12, work=alone, **options)
    monkeypatch.setattr(devices, "SMALL_MODEL", 0)
    for rows in (None, 6):
        options |= {"rows": rows, "work": shared, "progress": seen.append}
        assert complete(CpuEngine(network), tokens, prompts, 12, **options) == small
    assert seen[:2] == [5, 5] and len(seen) == 2 + 10
    assert shared["tokens"] == 2 * alone["tokens"]
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_an_error_in_a_thread_is_an_error_here(tiny_loaded, monkeypatch):
    network, tokens = copy.deepcopy(tiny_loaded[0]), tiny_loaded[1]
    torch.nn.init.constant_(network.model.norm.weight, torch.nan)
    monkeypatch.setattr(devices, "SMALL_MODEL", 0)
    with pytest.raises(ModelError, match="NaN"):
        complete(CpuEngine(network), tokens, prompts_of(tokens), 4)
    assert torch.get_num_threads() == 2


def test_a_small_model_computes_each_beginning_once(tiny_loaded):
    network, tokens = tiny_loaded
    prompts = [Prompt([2, 3, 4]), Prompt([2, 3, 5, 6]), Prompt([2, 3]), Prompt([7])]
    work = Counter()
    done = complete(CpuEngine(network), tokens, prompts, 1, work=work)
    assert done == complete(network, tokens, prompts, 1)
    assert (work["prompt_tokens"], work["prompt_computed"]) == (10, 6)


def test_what_prompts_share_is_computed_once(tiny_loaded):
    network, tokens = tiny_loaded
    generator = torch.Generator().manual_seed(0)
    start = torch.randint(2, len(tokens), (20,), generator=generator).tolist()
    ends = [torch.randint(2, 700, (1 + i % 4,), generator=generator).tolist() for i in range(24)]
    prompts = [Prompt([*start, *end], (), str(i)) for i, end in enumerate(ends)]
    work, plain = Counter(), Counter()
    done = complete(network, tokens, prompts, 6, work=work)
    general = complete(network, tokens, prompts, 6, rows=1, in_place=False, work=plain)
    assert done == general
    assert plain["prompt_computed"] == plain["prompt_tokens"] == work["prompt_tokens"]
    assert work["prompt_computed"] <= 20 + sum(map(len, ends))


@pytest.mark.parametrize("way", [CpuEngine, lambda network: network])
def test_samples_go_together_until_they_differ(tiny_loaded, way):
    tokens = tiny_loaded[1]
    place, city, born = (word(tokens, text) for text in (" place", " city", " born"))
    network, work = tiny.walk(tokens, [place, city, born, place]), Counter()
    options = {"draws": 50, "temperature": T, "work": work}
    [done] = complete(way(network), tokens, [Prompt([place])], 9, **options)
    assert ids_of([done]) == [[[city, born, place] * 3] * 50]
    # 50 samples of 9 tokens, none ever alone: 8 steps of one row (the last needs no logits).
    assert work == {"prompt_tokens": 1, "prompt_computed": 1, "tokens": 450, "computed": 8}


# --- against transformers' sampling -----------------------------------------------------------


def test_samples_of_a_real_model_are_distributed_as_generates():
    """Two samples of SmolLM2-135M's first tokens, one from each, come from one distribution."""
    entry = registry.entry("smollm2-135m")
    if not weights.available(entry):
        pytest.skip(f"SmolLM2 is not here: {entry.get}")
    network, tokens = loading.load_model(entry, device="cpu")
    ids, number, steps = tokens("The capital of Norway is").input_ids, 700, 3
    [ours] = complete(network, tokens, [Prompt(ids, (), "x")], steps, draws=number, temperature=T)
    torch.manual_seed(0)
    theirs = network.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        do_sample=True,
        temperature=T,
        top_k=0,
        top_p=1.0,
        num_return_sequences=number,
        max_new_tokens=steps,
        pad_token_id=tokens.eos_token_id,
    )[:, len(ids) :]
    for step in range(steps):
        counts = np.bincount([c.ids[step] for c in ours if len(c.ids) > step], minlength=49152)
        other = np.bincount(theirs[:, step], minlength=49152)
        common = counts + other >= 20
        table = np.stack([np.append(side[common], side[~common].sum()) for side in (counts, other)])
        table = table[:, table.sum(0) > 0]
        assert table.shape[1] > 5
        assert stats.chi2_contingency(table).pvalue > 0.001, f"token {step + 1}"
