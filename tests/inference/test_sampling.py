"""One draw from the full softmax, and the numbers it is drawn with."""

import numpy as np
import pytest
import torch
from scipy import stats

from repro.inference import sampling
from repro.inference.sampling import CHUNK, draw, greedy, sampler
from repro.random_streams import rows, uniforms

ALMOST_ONE = np.nextafter(1.0, 0.0)


@pytest.mark.parametrize("vocabulary", [5, 256, 257, 700, 1000])
def test_draw_inverts_the_cumulative_distribution(vocabulary):
    generator = torch.Generator().manual_seed(vocabulary)
    logits = 2 * torch.randn(1, vocabulary, generator=generator)
    u = torch.rand(4000, dtype=torch.float64, generator=generator)
    upto = logits[0].double().softmax(-1).cumsum(-1)
    ids = draw(logits.expand(len(u), -1), u)
    assert ids.min() >= 0 and ids.max() < vocabulary
    before = torch.where(ids > 0, upto[ids - 1], 0.0)
    assert (before - 1e-6 <= u).all() and (u <= upto[ids] + 1e-6).all()


@pytest.mark.parametrize("u", [0.0, 1e-300, 0.5, ALMOST_ONE])
@pytest.mark.parametrize("token", [0, 255, 256, 511, 999])
def test_one_hot_is_drawn_for_every_number(token, u):
    logits = torch.full((1, 1000), -torch.inf)
    logits[0, token] = 3.0
    assert draw(logits, torch.tensor([u], dtype=torch.float64)).tolist() == [token]


def test_ends_of_the_interval_give_the_first_and_last_possible_token():
    logits = torch.full((3, 1000), -torch.inf)
    logits[:, [17, 300, 990]] = 0.0
    u = torch.tensor([0.0, 0.5, ALMOST_ONE], dtype=torch.float64)
    assert draw(logits, u).tolist() == [17, 300, 990]


@pytest.mark.parametrize("vocabulary", [5, 256, 700, 2514])
def test_samples_are_drawn_one_by_one_as_they_are_together(vocabulary, monkeypatch):
    generator = torch.Generator().manual_seed(vocabulary)
    logits = 4 * torch.randn(50, vocabulary, generator=generator)
    logits[::2, ::3] = -torch.inf
    of = torch.randint(0, 50, (20_000,), generator=generator)
    u = torch.rand(len(of), dtype=torch.float64, generator=generator)
    u[:3] = torch.tensor([0.0, 1e-300, ALMOST_ONE])
    tokens = draw(logits, u, of)
    general = sampling._draw_together  # of any device
    monkeypatch.setattr(
        sampling, "_draw_each", lambda *arrays: general(*map(torch.from_numpy, arrays)).numpy()
    )
    assert torch.equal(draw(logits, u, of), tokens)


def test_impossible_tokens_are_never_drawn():
    logits = torch.zeros(1, 700)
    logits[0, ::2] = -torch.inf
    u = torch.linspace(0, ALMOST_ONE, 3000, dtype=torch.float64)
    ids = draw(logits.expand(len(u), -1), u)
    assert (ids % 2 == 1).all()
    assert set(ids.tolist()) == set(range(1, 700, 2))


def test_large_logits_do_not_overflow():
    logits = torch.tensor([[3e38, 0.0, 3e38], [-3e38, -3e38, 0.0]])
    u = torch.tensor([0.75, 0.1], dtype=torch.float64)
    assert draw(logits, u).tolist() == [2, 2]


def test_random_numbers_belong_to_seed_and_label():
    numbers = uniforms(0, "P17-train-00001|3|7", 2000)
    assert (numbers[:5] == uniforms(0, "P17-train-00001|3|7", 5)).all()
    assert (numbers != uniforms(1, "P17-train-00001|3|7", 2000)).all()
    assert (numbers != uniforms(0, "P17-train-00001|3|8", 2000)).all()
    assert stats.kstest(numbers, "uniform").pvalue > 0.001
    across = [uniforms(0, f"fact{i}", 1)[0] for i in range(2000)]
    assert stats.kstest(across, "uniform").pvalue > 0.001


@pytest.mark.parametrize("count", [1, 4, 7, 32])
def test_random_numbers_of_many_labels_are_those_of_each(count):
    labels = [f"P17-train-{i:05}|{i % 21}|7" for i in range(200)]
    each = np.stack([uniforms(5, label, count) for label in labels])
    np.testing.assert_array_equal(rows(5, labels, count), each)
    assert rows(5, [], count).shape == (0, count)


def test_samples_draw_from_the_row_they_are_at():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(4, 700, generator=generator)
    of = torch.tensor([3, 0, 3, 1, 0, 0])
    u = torch.rand(6, dtype=torch.float64, generator=generator)
    assert draw(logits, u, of).tolist() == draw(logits[of], u).tolist()
    assert greedy(logits, of, np.arange(6), 0).tolist() == logits.argmax(-1)[of].tolist()


def test_many_logits_are_drawn_from_in_parts():
    vocabulary = CHUNK // 2  # two rows at a time
    logits = torch.full((5, vocabulary), -torch.inf)
    likeliest = torch.tensor([7, vocabulary - 1, 0, 12345, 999])
    logits[torch.arange(5), likeliest] = 0.0
    of = torch.tensor([4, 0, 2, 2, 1, 3])
    u = torch.linspace(0, ALMOST_ONE, 6, dtype=torch.float64)
    assert draw(logits, u, of).tolist() == likeliest[of].tolist()


def test_off_the_cpu_all_rows_are_drawn_from_at_once():
    # Tensors without memory show the shapes, and refuse whatever waits for numbers.
    logits = torch.empty(4096, 128_256, dtype=torch.bfloat16, device="meta")
    row_of = torch.zeros(5000, dtype=torch.long, device="meta")
    u = torch.zeros(5000, dtype=torch.float64, device="meta")
    tokens = draw(logits, u, row_of, 0.7)
    assert tokens.shape == (5000,) and tokens.dtype is torch.long


def test_a_temperature_divides_the_logits():
    logits = torch.tensor([[0.0, 0.7, 1.4]])
    u = torch.rand(500, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    of = torch.zeros(500, dtype=torch.long)
    assert draw(logits, u, of, 0.7).tolist() == draw(logits / 0.7, u, of).tolist()
    assert draw(logits, u, of, 0.7).tolist() != draw(logits, u, of).tolist()


def test_a_samplers_numbers_are_its_labels_own():
    logits = torch.zeros(1, 1000)
    pick = sampler(["a", "b", "c"], 4, 1.0, 0)
    together = pick(logits, torch.zeros(3, dtype=torch.long), np.arange(3), 2)
    alone = [
        pick(logits, torch.zeros(1, dtype=torch.long), np.array([i]), 2).item() for i in range(3)
    ]
    assert together.tolist() == alone
    expected = [int(uniforms(0, label, 4)[2] * 1000) for label in "abc"]
    assert alone == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_greedy_takes_the_most_probable_token_the_first_of_equals(dtype):
    logits = torch.randint(-9, 9, (40, 700), generator=torch.Generator().manual_seed(0)).to(dtype)
    logits[0] = -torch.inf
    logits[0, 5] = -3
    likeliest = [row.index(max(row)) for row in logits.tolist()]
    of = torch.tensor([7, 0, 39, 0, *range(40)])
    picked = greedy(logits, of, np.arange(len(of)), 0)
    assert picked.tolist() == [likeliest[row] for row in of]


def test_bfloat16_logits_are_drawn_from_as_their_float32_values_are():
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(20, 1000, generator=generator) * 3).bfloat16()
    u = torch.rand(2000, dtype=torch.float64, generator=generator)
    row_of = torch.arange(2000) // 100
    drawn = draw(logits, u, row_of, 0.7)
    exact = draw(logits.float(), u, row_of, 0.7)
    # A number on the border of two tokens may fall to either: sums are rounded in another order.
    assert (drawn != exact).sum() <= 2
    assert torch.equal(
        greedy(logits, row_of, np.arange(2000), 0),
        greedy(logits.float(), row_of, np.arange(2000), 0),
    )


def test_the_first_of_equal_bfloat16_logits_is_picked_negative_ones_too():
    logits = torch.tensor([[-3.0, -1, -2, -1], [0, -0.0, 0, -5], [1, 4, 4, 2]]).bfloat16()
    assert greedy(logits, torch.arange(3), np.arange(3), 0).tolist() == [1, 0, 1]
