"""Pre-training: the same weights every time, resumed or not, and a folder that loads."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from repro.data import atlas
from repro.errors import ConfigError, StoreError
from repro.models import loading
from repro.models.tokens import prefix_ids, stop_ids
from repro.training.pretraining import corpus, pretrain

SMALL = atlas.Size(train=6, dev=1, test=1, testood=1, reader=1)
TINY = pretrain.PretrainingRecipe(
    hidden=16, layers=1, heads=2, key_value_heads=1, intermediate=32, batch=4, warmup=2
)


@pytest.fixture(scope="module")
def text():
    world = atlas.world(SMALL)
    tokens = corpus.build_tokenizer(world)
    return tokens, *(part[:48] for part in corpus.build_sequences(world, tokens, seed=0))


def trained(text, checkpoint=None, rows=48, save_every=3):
    tokens, ids, positions = text
    model = pretrain.build_network(TINY, tokens)
    losses = pretrain.train(model, ids[:rows], positions[:rows], TINY, checkpoint, save_every)
    return model, losses


def same(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_training_is_the_same_bit_for_bit(text):
    (one, losses), (other, again) = trained(text), trained(text)
    assert same(one, other) and losses == again
    assert losses[-1] < losses[0] - 0.1


def test_an_interrupted_run_ends_in_the_same_weights(text, tmp_path, monkeypatch):
    whole, losses = trained(text)
    checkpoint = tmp_path / "deep" / "run.safetensors"
    count, mean_loss = [], pretrain.mean_loss

    def interrupted(*arguments):
        count.append(1)
        if len(count) == 8:
            raise KeyboardInterrupt
        return mean_loss(*arguments)

    monkeypatch.setattr(pretrain, "mean_loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trained(text, checkpoint)
    resumed, again = trained(text, checkpoint)
    assert len(count) == 8 + 6  # the second run began after step 6, not at the start
    assert same(whole, resumed) and losses == again


def test_a_damaged_checkpoint_is_one_clear_error(text, tmp_path):
    checkpoint = tmp_path / "run.safetensors"
    checkpoint.write_bytes(b"not tensors")
    with pytest.raises(StoreError, match="delete it"):
        trained(text, checkpoint)


def test_documents_of_a_packed_sequence_do_not_see_each_other(text):
    tokens, ids, positions = text
    model = pretrain.build_network(TINY, tokens).eval()
    row, place = torch.from_numpy(ids[0]).long(), torch.from_numpy(positions[0]).long()
    start = int((place == 0).nonzero()[3, 0])
    stop = int((place == 0).nonzero()[4, 0])
    with torch.inference_mode():
        packed = model(row.clamp(min=0)[None], position_ids=place[None], use_cache=False).logits
        alone = model(row[start:stop][None]).logits
    torch.testing.assert_close(packed[:, start:stop], alone)


def test_loss_counts_tokens_within_documents_only(text):
    tokens, ids, positions = text
    model = pretrain.build_network(TINY, tokens)
    whole = pretrain.mean_loss(model, ids[:2], positions[:2]).item()
    starts = np.flatnonzero((positions[:2] == 0).ravel() & (ids[:2] >= 0).ravel())
    total, count = 0.0, 0
    for part in np.split(ids[:2].ravel(), starts)[1:]:
        one = torch.from_numpy(part[part >= 0]).long()[None]
        total += model(one, labels=one).loss.item() * (one.shape[1] - 1)
        count += one.shape[1] - 1
    assert whole == pytest.approx(total / count, rel=1e-5)


def test_run_writes_a_folder_that_loads(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(pretrain.RECIPES, "tiny", TINY)
    out = tmp_path / "models" / "tiny"
    pretrain.pretrain("tiny", out, SMALL)
    network, tokens = loading.load_model(out)
    assert prefix_ids(tokens) == [tokens.bos_token_id]
    assert stop_ids(network, tokens) == {tokens.eos_token_id}
    assert network.dtype is torch.float32
    facts, curve = json.loads((out / "data.json").read_text()), pd.read_csv(out / "loss.csv")
    assert facts["parameters"] == network.num_parameters()
    assert facts["world"]["sha256"] == atlas.digest(atlas.world(SMALL))
    assert len(curve) == facts["sequences"] // TINY.batch
    assert "invented" in (out / "README.md").read_text()
    assert [p.name for p in out.parent.iterdir()] == ["tiny"]
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_stored_weights_are_bfloat16(text, tmp_path):
    tokens, ids, _ = text
    model, losses = trained(text, rows=4)
    facts = pretrain.text_statistics(atlas.world(SMALL), ids, model, TINY)
    pretrain.write_folder(tmp_path / "made", "tiny", model, tokens, losses, facts)
    size = (tmp_path / "made" / "model.safetensors").stat().st_size
    assert 2 * facts["parameters"] < size < 2 * facts["parameters"] + 10_000


def test_what_cannot_start_is_one_clear_error(tmp_path, capsys):
    with pytest.raises(ConfigError, match="micro-m"):
        pretrain.pretrain("macro", tmp_path / "new")
    with pytest.raises(ConfigError, match="exists"):
        pretrain.pretrain("micro-m", tmp_path)
    assert pretrain.main(["macro", "--out", str(tmp_path / "new")]) == 1
    assert "unknown model" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_two_manners_of_attention_within_the_size_limit():
    tokens = corpus.build_tokenizer(atlas.world())
    shapes, count = {}, 0
    for name, recipe in pretrain.RECIPES.items():
        shapes[name] = recipe.key_value_heads == recipe.heads
        count += pretrain.build_network(recipe, tokens).num_parameters()
    assert set(shapes.values()) == {True, False}
    assert 2 * count < 25e6
