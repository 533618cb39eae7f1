"""What each step sees."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvtt_model.specs import OptimSpec
from pvtt_model.training.schedule import lr_at, samples_of, seed_of, warmup


def draws(steps: range, seed: int, num_samples: int, micro: int, workers: int, accum: int) -> list[list[tuple[int, int]]]:
    """(draw, index) of each step's global batch."""
    split = {"seed": seed, "num_samples": num_samples, "micro_batch": micro, "num_workers": workers, "grad_accum": accum}
    return [sorted(d for a in range(accum) for r in range(workers) for d in samples_of(step, r, a, **split)) for step in steps]


@given(st.integers(1, 12), st.integers(0, 5), st.sampled_from([1, 2, 3, 4]))
def test_every_epoch_visits_each_sample_once(num_samples, seed, batch):
    seen = [index for step in draws(range(num_samples * 3), seed, num_samples, 1, batch, 1) for _, index in step]
    epochs = [seen[i : i + num_samples] for i in range(0, len(seen), num_samples)]
    assert len(epochs) == 3 * batch and all(sorted(epoch) == list(range(num_samples)) for epoch in epochs)


def test_epochs_and_seeds_differ_in_order():
    one, two = ([i for _, i in d] for d in (draws(range(1), s, 20, 40, 1, 1)[0] for s in (0, 1)))
    assert one[:20] != one[20:] and one != two


SPLITS = [(m, w, a) for m in (1, 2, 4, 8) for w in (1, 2, 4, 8) for a in (1, 2, 4, 8) if m * w * a == 8]


@given(st.integers(0, 1000), st.integers(1, 30), st.integers(0, 3))
def test_the_global_batch_does_not_depend_on_the_split(first_step, num_samples, seed):
    steps = range(first_step, first_step + 2)
    batches = [draws(steps, seed, num_samples, *split) for split in SPLITS]
    assert all(batch == batches[0] for batch in batches[1:])
    assert [d for step in batches[0] for d, _ in step] == list(range(first_step * 8, first_step * 8 + 16)), "draws are numbered without a gap"


@pytest.mark.parametrize(
    ("step", "warmup_steps", "factor"), [(0, 4, 0.25), (1, 4, 0.5), (3, 4, 1.0), (4, 4, 1.0), (10**6, 4, 1.0), (0, 0, 1.0), (0, 1, 1.0)]
)
def test_warmup(step, warmup_steps, factor):
    assert warmup(step, warmup_steps) == factor


def test_constant_after_the_warmup():
    optim = OptimSpec(lr=1e-3, warmup_steps=4)
    assert [lr_at(s, optim, 10) for s in range(10)] == [1e-3 * warmup(s, 4) for s in range(10)]


def test_cosine_by_its_closed_form():
    """4 steps of warm-up, then 8: a quarter, half, three quarters and the whole of the wave after 2, 4, 6 and 8 of them."""
    optim = OptimSpec(lr=2.0, warmup_steps=4, decay="cosine")
    rates = [lr_at(s, optim, 12) for s in range(12)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    root = math.sqrt(0.5)
    wanted = [2 * (0.1 + 0.45 * (1 + c)) for c in (root, 0.0, -root, -1.0)]
    assert rates[5::2] == pytest.approx(wanted) and rates[-1] == pytest.approx(0.2)
    assert all(a > b for a, b in zip(rates[3:], rates[4:], strict=False))


@pytest.mark.parametrize(("warmup_steps", "steps"), [(0, 1), (5, 3), (3, 3)])
def test_cosine_of_few_steps(warmup_steps, steps):
    optim = OptimSpec(lr=1.0, warmup_steps=warmup_steps, decay="cosine")
    assert all(0 < lr_at(s, optim, steps) <= 1 for s in range(steps + 3))


@given(st.lists(st.integers(0, 9) | st.sampled_from(["noise", "epoch"]), min_size=1, max_size=4))
def test_seeds_are_63_bits(parts):
    assert 0 <= seed_of(*parts) < 2**63


def test_a_seed_is_stable():
    """Golden: a change here changes every training."""
    assert seed_of(42, "epoch", 0) == 768009089922213740
    assert len({seed_of(1, 2), seed_of(12), seed_of(2, 1), seed_of("1", "x")}) == 4
