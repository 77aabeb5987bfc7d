"""The prompt of Appendix A, the loss mask, balanced samples, and the training itself."""

import copy
import math

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate.state import AcceleratorState
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    MambaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from repro.data.facts import choose
from repro.errors import TrainingError
from repro.inference import packing
from repro.inference.cpu.cpu_engine import CpuEngine
from repro.restoration import restore
from repro.training import sft
from repro.training.batches import batch_of_process, packed_batch, padded_batch, prefix_tree_batch
from repro.training.prompts import IGNORED, encode_examples, encode_prompts
from repro.training.recipe import Recipe
from repro.training.sft import finetune

VOCABULARY = {
    "<s>": 0, "</s>": 1, "<|": 2, "question": 3, "|>": 4, "ĠWho": 5, "?": 6, "Ġ<|": 7,
    "answer": 8, "ĠBo": 9, "Ġ": 10, "ĠDerek": 11,
}  # fmt: skip
PROMPT = [2, 3, 4, 5, 6, 7, 8, 4]  # <| question |> ␣Who ? ␣<| answer |>
STEEP = Recipe(learning_rate=3e-3, batch_size=4)


def by_hand(bos: bool = False, **special) -> PreTrainedTokenizerFast:
    """Return a tokenizer whose ids are written above: a word and its leading space is a token."""
    backend = Tokenizer(models.WordLevel(VOCABULARY, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if bos:
        backend.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 0)])
    special = {"bos_token": "<s>", "eos_token": "</s>"} | special
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    """Train in float32 on any machine, so that numbers can be compared closely."""
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setattr(sft, "inference_dtype", lambda device=None: torch.float32)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def model(tiny_loaded):
    """A copy of the tiny model that the test may train, and its tokenizer."""
    return copy.deepcopy(tiny_loaded[0]), tiny_loaded[1]


@pytest.fixture(scope="module")
def pool(tiny_facts):
    """11 training facts, with questions and answers of different lengths in tokens."""
    chosen = tiny_facts[tiny_facts["split"] == "train"].groupby("topic").head(4).head(11)
    objects = ["Arvenia", "the city of Bolstan", "Dunmark and Cordral"]
    return chosen.assign(object=[objects[i % 3] for i in range(len(chosen))])


def weights(network) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in network.named_parameters()}


def alike(one: dict, other: dict) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def plain_loss(network, examples) -> float:
    """Return the mean loss per labelled token from transformers' own loss, without padding."""
    total = count = 0.0
    for ids, labels in examples:
        answer_tokens = sum(label != IGNORED for label in labels)
        inputs, targets = torch.tensor([ids]), torch.tensor([labels])
        with torch.no_grad():
            total += answer_tokens * network(input_ids=inputs, labels=targets).loss.item()
        count += answer_tokens
    return total / count


# --- the prompt and the mask ------------------------------------------------------------------


def test_mask_by_hand_without_bos():
    [(ids, labels)] = encode_examples(by_hand(), ["Who?"], ["Bo"])
    assert encode_prompts(by_hand(), ["Who?"]) == [PROMPT]
    assert ids == [*PROMPT, 9, 10, 1]
    assert labels == [-100] * 8 + [9, 10, 1]  # ␣Bo, the space before EOS, EOS


def test_mask_by_hand_with_bos():
    tokens = by_hand(bos=True)
    [(ids, labels)] = encode_examples(tokens, ["Who?"], ["Bo Derek"])
    assert encode_prompts(tokens, ["Who?"]) == [[0, *PROMPT]]
    assert ids == [0, *PROMPT, 9, 11, 10, 1]
    assert labels == [-100] * 9 + [9, 11, 10, 1]


@pytest.mark.parametrize("bos", [False, True])
def test_eos_stays_in_the_loss_where_it_is_the_padding_token(bos):
    tokens = by_hand(bos, pad_token="</s>")
    assert tokens.pad_token_id == tokens.eos_token_id == 1
    short, long = encode_examples(tokens, ["Who?", "Who?"], ["Bo", "Bo Derek"])
    assert short[1][-3:] == [9, 10, 1]
    batch = padded_batch([short, long])
    width, first = len(long[0]), len(long[0]) - len(short[0])
    assert first == 1
    assert batch["input_ids"].shape == (2, width)
    assert batch["input_ids"][0, first:].tolist() == short[0]
    assert batch["logits_to_keep"].tolist() == [width - 5, width - 4, width - 3, width - 2]
    assert batch["targets"].tolist() == [-100, *short[1][-3:], *long[1][-4:]]
    assert batch["attention_mask"].tolist() == [[0] + [1] * (width - 1), [1] * width]


def test_spaces_around_question_and_answer_do_not_count():
    assert encode_examples(by_hand(), ["  Who? "], [" Bo "]) == encode_examples(
        by_hand(), ["Who?"], ["Bo"]
    )


def test_answer_that_would_merge_with_the_prompt_is_an_error():
    backend = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(special_tokens=["<s>", "</s>"], vocab_size=200)
    backend.train_from_iterator(["<|question|> Who? <|answer|> Bo "] * 5, trainer)
    merging = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    with pytest.raises(TrainingError, match="does not separate prompt and answer"):
        encode_examples(merging, ["Who?"], ["Bo"])


def test_tokenizer_without_eos_is_an_error():
    with pytest.raises(TrainingError, match="end-of-text"):
        encode_examples(by_hand(eos_token=None), ["Who?"], ["Bo"])


# --- the loss ---------------------------------------------------------------------------------


def test_loss_is_that_of_the_unpadded_examples(model, pool):
    network, tokens = model
    before = weights(network)
    recipe = Recipe(learning_rate=0.0, batch_size=len(pool))
    training = finetune(network, tokens, pool, recipe)
    examples = encode_examples(tokens, pool["question"], pool["object"])
    assert len({len(ids) for ids, _ in examples}) > 3  # so there was padding to be ignored
    assert training["loss"] == [pytest.approx(plain_loss(network, examples), rel=1e-5)]
    assert training["steps"] == 1
    assert training["tokens"] == sum(len(ids) for ids, _ in examples)
    assert alike(weights(network), before)  # a rate of 0 changes no bit


def test_loss_without_padding_and_one_by_one(model, pool):
    network, tokens = model
    alone = [
        finetune(network, tokens, pool.iloc[[i]], Recipe(learning_rate=0.0))["loss"][0]
        for i in range(3)
    ]
    examples = encode_examples(tokens, pool["question"][:3], pool["object"][:3])
    assert alone == [pytest.approx(plain_loss(network, [e]), rel=1e-5) for e in examples]
    assert len(set(alone)) == 3


def gradients(network) -> dict[str, torch.Tensor]:
    by_name = {name: p.grad.clone() for name, p in network.named_parameters()}
    network.zero_grad()
    return by_name


@pytest.mark.parametrize("join", [padded_batch, packed_batch, prefix_tree_batch])
def test_loss_and_gradient_equal_the_full_computation(model, pool, join):
    network, tokens = model
    reader = CpuEngine(network) if join is prefix_tree_batch else network
    examples = encode_examples(tokens, pool["question"], pool["object"])
    loss = sft._loss(reader, join(examples))
    loss.backward()
    ours = gradients(network)
    full = 0.0
    for ids, labels in examples:
        logits = network(torch.tensor([ids])).logits[0, :-1]
        expected = torch.tensor(labels[1:])
        full += torch.nn.functional.cross_entropy(logits, expected, reduction="sum")
    full.backward()
    torch.testing.assert_close(loss, full, rtol=1e-6, atol=1e-7)
    for name, expected in gradients(network).items():
        torch.testing.assert_close(ours[name], expected, rtol=1e-4, atol=1e-5)


def test_loss_is_that_of_answer_and_eos(model, pool):
    network, tokens = model
    [(ids, labels)] = encode_examples(tokens, pool["question"][:1], ["Arvenia"])
    with torch.no_grad():
        log_p = network(torch.tensor([ids])).logits[0].log_softmax(-1)
    start = len(encode_prompts(tokens, pool["question"][:1])[0])
    expected = -torch.stack([log_p[i - 1, ids[i]] for i in range(start, len(ids))]).sum()
    assert labels[start:] == ids[start:]
    for join in (padded_batch, packed_batch):
        assert sft._loss(network, join([(ids, labels)])).item() == pytest.approx(expected.item())


def test_packed_row_by_hand():
    batch = packed_batch(
        [([5, 6, 7], [-100, 6, 7]), ([5, 6, 9, 7], [-100, -100, 9, 7]), ([8], [-100])]
    )
    mask = batch.pop("attention_mask")
    assert {name: rows.tolist() for name, rows in batch.items()} == {
        "input_ids": [[5, 6, 7, 9, 7, 8]],
        "position_ids": [[0, 1, 2, 2, 3, 0]],
        "logits_to_keep": [0, 1, 1, 3],
        "targets": [6, 7, 9, 7],
    }
    assert mask.shape == (1, 1, 6, 6)
    seen = [[0], [0, 1], [0, 1, 2], [0, 1, 3], [0, 1, 3, 4], [5]]
    assert [row.nonzero().flatten().tolist() for row in mask[0, 0]] == seen


SMALL = {"vocab_size": 64, "num_hidden_layers": 2, "max_position_embeddings": 64}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}
WINDOWS = {
    "sliding_window": 12,
    "head_dim": 8,
    "layer_types": ["sliding_attention", "full_attention"],
}
ENDS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
FAMILIES = {
    "gemma": Gemma3TextConfig(hidden_size=32, **SMALL, **HEADS, **WINDOWS, **ENDS),
    "untied": Qwen2Config(hidden_size=32, tie_word_embeddings=False, **SMALL, **HEADS, **ENDS),
}
RUNS_ON = MambaConfig(hidden_size=32, state_size=4, num_hidden_layers=2, vocab_size=64, **ENDS)


def random_network(config):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_and_padded_give_one_gradient(family):
    """Examples that share their beginning in part; tied and untied heads."""
    network = random_network(FAMILIES[family])
    rows = [[*range(2, 14)], [2, 3, 9], [2, 3, 4, 9, 8, 7], [30, 31, 32]]
    examples = [(ids, [-100, -100, *ids[2:]]) for ids in rows]
    assert packing.fits(network, 12)
    assert packing.fits(network, 13) == (family == "untied")  # longer than Gemma's window
    training = sft.Training(None, 1, network, network, None, None, None)
    loss_and_gradients = {}
    for join in (padded_batch, packed_batch):
        with sft._sparse_lookup(network) as table:
            assert (table is None) == (family == "untied")
            loss = sft._backward(training, batch_of_process(examples, join), table)
        loss_and_gradients[join] = loss, gradients(network)
    assert loss_and_gradients[packed_batch][0] == pytest.approx(
        loss_and_gradients[padded_batch][0], rel=1e-6
    )
    assert loss_and_gradients[packed_batch][0] == pytest.approx(
        plain_loss(network, examples), rel=1e-5
    )
    for name, expected in loss_and_gradients[padded_batch][1].items():
        torch.testing.assert_close(
            loss_and_gradients[packed_batch][1][name], expected, rtol=1e-4, atol=1e-7
        )
    assert not network.get_input_embeddings().sparse


def test_network_whose_state_runs_on_is_not_packed(model):
    assert packing.fits(model[0], 40)
    assert not packing.fits(random_network(RUNS_ON), 40)


def test_network_that_is_not_packed_trains_padded(model, pool):
    """It gets its ids as they are: not every such network takes embeddings instead."""
    network = random_network(RUNS_ON)
    examples = [([2, 3, 4, 5], [-100, -100, 4, 5]), ([6, 7, 8, 9], [-100, 7, 8, 9])]
    prepared = sft._prepare(network, examples, Recipe())
    with sft._sparse_lookup(network) as table:
        losses = [sft._backward(prepared, batch, table) for batch in prepared.loader]
    assert losses == [pytest.approx(plain_loss(network, examples), rel=1e-5)]
    ours = gradients(network)
    rows = torch.tensor([ids for ids, _ in examples])
    network(
        input_ids=rows, labels=torch.tensor([answer_labels for _, answer_labels in examples])
    ).loss.backward()
    for name, expected in gradients(network).items():
        torch.testing.assert_close(ours[name], expected, rtol=1e-4, atol=1e-7)


# --- training ---------------------------------------------------------------------------------


def test_training_lowers_the_loss(model, pool):
    network, tokens = model
    recipe = Recipe(learning_rate=5e-3, batch_size=4, epochs=30)
    training = finetune(network, tokens, pool.head(4), recipe)
    assert training["steps"] == len(training["loss"]) == 30
    assert training["loss"][-1] < 0.1 * training["loss"][0]


def test_every_example_is_seen_once_an_epoch(model, pool):
    network, tokens = model
    examples = encode_examples(tokens, pool["question"], pool["object"])
    loader = sft._prepare(network, examples, STEEP).loader
    seen = []
    for batch in loader:
        ids, sees = batch["input_ids"][0], batch["attention_mask"][0, 0]
        last = sees.sum(0) == 1  # seen by no token but itself
        seen += [tuple(ids[row].tolist()) for row in sees[last]]
    assert sorted(seen) == sorted(tuple(ids) for ids, _ in examples)
    assert seen != [tuple(ids) for ids, _ in examples]
    assert len(loader) == math.ceil(11 / 4)


def test_learning_rate_follows_a_cosine(model, pool):
    network, tokens = model
    examples = encode_examples(tokens, ["Who?"] * 16, ["Bo"] * 16)
    recipe = Recipe(learning_rate=2.0, batch_size=4, epochs=2)
    prepared = sft._prepare(network, examples, recipe)
    optimizer, schedule = prepared.optimizer, prepared.schedule
    rates = []
    for _ in range(8):
        rates += schedule.get_last_lr()
        optimizer.step()
        schedule.step()
    cosine = [1 + math.cos(math.pi * step / 8) for step in range(8)]
    assert rates == pytest.approx(cosine)
    assert schedule.get_last_lr() == pytest.approx([0.0])


@pytest.mark.parametrize("way", [CpuEngine, lambda network: network])
def test_steps_are_those_of_adamw(model, pool, way):
    # Worked out with PyTorch alone: the mean loss, its gradient clipped, a step, three times.
    network, tokens = model
    plain, before, facts = copy.deepcopy(network), weights(network), pool.head(4)
    recipe = Recipe(1e-3, batch_size=4, epochs=3, weight_decay=1.0, clip=0.5)
    finetune(way(network), tokens, facts, recipe)
    examples = encode_examples(tokens, facts["question"], facts["object"])
    count = sum(label != IGNORED for _, labels in examples for label in labels)
    optimizer = torch.optim.AdamW(plain.parameters(), weight_decay=1.0)
    for step in range(3):
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 + math.cos(math.pi * step / 3)) / 2
        optimizer.zero_grad()
        for ids, labels in examples:
            inputs, targets = torch.tensor([ids]), torch.tensor([labels])
            part = sum(label != IGNORED for label in labels) / count
            (part * plain(input_ids=inputs, labels=targets).loss).backward()
        assert torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5) > 0.5
        optimizer.step()
    after, expected = weights(network), weights(plain)
    for name in before:
        error = (after[name] - expected[name]).norm() / (expected[name] - before[name]).norm()
        assert error < 0.01, name


@pytest.mark.parametrize("limit", [0.5, 1e3])
def test_clipping_is_torch_own(model, limit):
    network, plain = model[0], copy.deepcopy(model[0])
    torch.manual_seed(0)
    for one, other in zip(network.parameters(), plain.parameters(), strict=True):
        one.grad = torch.randn_like(one)
        other.grad = one.grad.clone()
    sft._clip(list(network.parameters()), limit)
    torch.nn.utils.clip_grad_norm_(plain.parameters(), limit)
    expected = gradients(plain)
    for name, gradient in gradients(network).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=0)


def test_one_seed_gives_the_same_bits(tiny_loaded, pool):
    runs = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(runs))  # what ran before must not matter
        network = copy.deepcopy(tiny_loaded[0])
        for layer in network.model.layers:
            layer.self_attn.attention_dropout = 0.1  # chance besides the order of the examples
        recipe = Recipe(learning_rate=3e-3, batch_size=4, epochs=2, seed=seed)
        losses = finetune(network, tiny_loaded[1], pool, recipe)["loss"]
        runs.append((losses, weights(network)))
    (losses, tuned), (again, same), (other, different) = runs
    assert losses == again and alike(tuned, same)
    assert losses != other and not alike(tuned, different)


def test_a_small_model_trains_alike(tiny_loaded, pool):
    losses, tuned = [], []
    for way in (CpuEngine, lambda network: network):
        network = copy.deepcopy(tiny_loaded[0])
        done = finetune(way(network), tiny_loaded[1], pool, STEEP, dtype=torch.float32)
        losses.append(done.pop("loss"))
        tuned.append(weights(network))
        assert not network.training
        assert all(p.grad is None for p in network.parameters())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    for name, before in weights(tiny_loaded[0]).items():
        moved = (tuned[1][name] - before).norm()
        assert (tuned[0][name] - tuned[1][name]).norm() < 0.01 * moved, name


def test_progress_is_told_every_loss(model, pool):
    losses = []
    assert finetune(*model, pool, STEEP, losses.append)["loss"] == losses
    assert len(losses) == 3


# --- the network is handed back as it came ------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_network_is_unwrapped_afterwards(model, pool, monkeypatch, dtype):
    monkeypatch.setattr(sft, "inference_dtype", lambda device=None: dtype)
    network, tokens = model
    finetune(network, tokens, pool, STEEP)
    assert "forward" not in vars(network)
    assert network.forward.__func__ is type(network).forward
    assert not network.training
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert network(torch.tensor([[5, 6]])).logits.dtype is torch.float32


def test_second_run_is_as_the_first(model, pool):
    """In bfloat16, whose autocast the first run must not use up."""
    network, tokens = model
    before, attributes, losses = weights(network), set(vars(network)), []
    for dtype in (torch.bfloat16, torch.bfloat16, torch.float32):
        AcceleratorState._reset_state(reset_partial_state=True)
        losses.append(finetune(network, tokens, pool, STEEP, dtype=dtype)["loss"])
        restore.write(network, before)
    assert losses[0] == losses[1] != losses[2]
    assert set(vars(network)) == attributes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_network_is_unwrapped_after_an_interrupt(model, pool, monkeypatch, dtype):
    monkeypatch.setattr(sft, "inference_dtype", lambda device=None: dtype)
    network, tokens = model

    def stop(loss: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(network, tokens, pool, STEEP, stop)
    assert network.forward.__func__ is type(network).forward
    assert not network.training


def test_bfloat16_trains_close_to_float32(tiny_loaded, pool, monkeypatch):
    losses = []
    for dtype in (torch.float32, torch.bfloat16):
        AcceleratorState._reset_state(reset_partial_state=True)
        monkeypatch.setattr(sft, "inference_dtype", lambda device=None, dtype=dtype: dtype)
        network = copy.deepcopy(tiny_loaded[0])
        losses.append(finetune(network, tiny_loaded[1], pool, STEEP)["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    assert losses[0] != losses[1]  # it was bfloat16 indeed


@pytest.mark.parametrize("native", [True, False])
def test_the_small_engine_trains_in_bfloat16(tiny_loaded, pool, native):
    """After a run under autocast, too, to which accelerate holds a process."""

    def losses(way, **options):
        network = copy.deepcopy(tiny_loaded[0])
        loss = finetune(way(network), tiny_loaded[1], pool, STEEP, **options)["loss"]
        assert {p.dtype for p in network.parameters()} == {torch.float32}
        return loss

    def rounded(network):
        return CpuEngine(network, torch.bfloat16, native)

    AcceleratorState._reset_state(reset_partial_state=True)
    exact = losses(CpuEngine)
    AcceleratorState._reset_state(reset_partial_state=True)
    autocast = losses(lambda network: network, dtype=torch.bfloat16)
    ours = losses(rounded)
    assert ours == losses(rounded)
    for other in (exact, autocast):
        assert ours != other
        assert ours == pytest.approx(other, rel=0.05)


# --- errors -----------------------------------------------------------------------------------


def test_damaged_weights_name_the_first_step(model, pool):
    network, tokens = model
    with torch.no_grad():
        network.model.layers[0].mlp.up_proj.weight[0, 0] = torch.nan
    with pytest.raises(TrainingError, match=r"loss is nan at step 1: .*weights are damaged"):
        finetune(network, tokens, pool, STEEP)


def test_learning_rate_that_diverges_names_the_step_and_the_rate(model, pool):
    before, recipe = [], Recipe(learning_rate=1e30, batch_size=4, epochs=3)
    with pytest.raises(TrainingError, match=r"learning rate 1e\+30 is too large") as error:
        finetune(*model, pool, recipe, before.append)
    assert before and f"at step {len(before) + 1}:" in str(error.value)


def test_fully_masked_example_is_an_error(model):
    good, masked = ([5, 6, 7], [-100, 6, 7]), ([5, 6, 7], [-100, -100, -100])
    with pytest.raises(TrainingError, match="no answer token"):
        sft._prepare(model[0], [good, masked], Recipe())


def test_empty_pool_is_an_error(model, pool):
    with pytest.raises(TrainingError, match="pool is empty"):
        finetune(*model, pool.head(0), Recipe())
    with pytest.raises(TrainingError, match="pool is empty"):
        choose(pool.head(0), 4, 0, 0)
    with pytest.raises(TrainingError, match="pool is empty"):
        choose(pool.head(0), None, 0, 0)


def test_example_longer_than_the_model_is_an_error(model, pool):
    long = pool.head(1).assign(question="Who " * 200 + "?")
    with pytest.raises(TrainingError, match="too long"):
        finetune(*model, long, Recipe())


# --- data samples -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uneven():
    """A pool of 40 + 20 + 3 facts of three topics."""
    topics = ["P17"] * 40 + ["P19"] * 20 + ["P36"] * 3
    ids = [f"{topic}-train-{i:05d}" for i, topic in enumerate(topics)]
    return pd.DataFrame({"fact_id": ids, "topic": topics, "question": "Who?", "object": "Bo"})


@pytest.mark.parametrize(
    ("size", "counts"),
    [
        (9, {"P17": 3, "P19": 3, "P36": 3}),
        (21, {"P17": 9, "P19": 9, "P36": 3}),  # P36 has three: the others share the rest
        (53, {"P17": 30, "P19": 20, "P36": 3}),
        (None, {"P17": 40, "P19": 20, "P36": 3}),
    ],
)
def test_samples_are_balanced(uneven, size, counts):
    chosen = choose(uneven, size, 0, 0)
    assert chosen["topic"].value_counts().to_dict() == counts
    assert chosen["fact_id"].is_unique


def test_size_beyond_the_pool_is_an_error(uneven):
    with pytest.raises(TrainingError, match=r"cannot draw 64 facts: .* there are 63"):
        choose(uneven, 64, 0, 0)


def test_data_samples_differ_and_larger_ones_hold_smaller_ones(uneven):
    ids = {
        (size, number, seed): frozenset(choose(uneven, size, number, seed)["fact_id"])
        for size in (6, 12) for number in (0, 1) for seed in (0, 1)
    }  # fmt: skip
    assert len(set(ids.values())) == len(ids)
    assert all(ids[6, n, s] < ids[12, n, s] for n in (0, 1) for s in (0, 1))
    shuffled = uneven.sample(frac=1, random_state=np.random.default_rng(0))
    assert choose(shuffled, 6, 0, 0).equals(choose(uneven, 6, 0, 0))
