"""What each step sees."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pvtt_model.specs import OptimSpec
from pvtt_model.training.schedule import ends_epoch, lr_at, samples_of, seed_of, warmup, weighted


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


def queue(epochs: int, seed: int, num_samples: int) -> list[int]:
    """The epochs' permutations one after the other: what was drawn before there were buckets, position by position."""
    orders = (torch.randperm(num_samples, generator=torch.Generator().manual_seed(seed_of(seed, "epoch", e))).tolist() for e in range(epochs))
    return [index for order in orders for index in order]


def micro_batches(count: int, seed: int, buckets: tuple[int, ...], size: int, workers: int = 1, accum: int = 1) -> list[list[tuple[int, int]]]:
    """The run's first micro-batches, in their order."""
    split = {"seed": seed, "num_samples": len(buckets), "micro_batch": size, "num_workers": workers, "grad_accum": accum, "buckets": buckets}
    every = [samples_of(step, r, a, **split) for step in range(-(-count // (workers * accum))) for a in range(accum) for r in range(workers)]
    return every[:count]


BUCKETS = st.lists(st.integers(0, 3), min_size=1, max_size=14).map(tuple)


@given(BUCKETS, st.integers(1, 6), st.integers(0, 3))
def test_a_micro_batch_is_of_one_bucket_and_in_the_order_of_the_queue(buckets, size, seed):
    """Against the docstring's own words: walk along the epochs, hand out a bucket's micro-batch as soon as it is whole."""
    waiting: dict[int, list[int]] = {}
    whole = []
    for index in queue(7, seed, len(buckets)):
        lot = waiting.setdefault(buckets[index], [])
        lot.append(index)
        if len(lot) == size:
            whole.append(waiting.pop(buckets[index]))
    got = micro_batches(len(whole), seed, buckets, size)
    assert [[index for _, index in batch] for batch in got] == whole
    assert all(len({buckets[index] for _, index in batch}) == 1 for batch in got)
    assert [draw for batch in got for draw, _ in batch] == list(range(len(whole) * size)), "draws are numbered without a gap"


@given(BUCKETS, st.integers(1, 6), st.integers(0, 3))
def test_nothing_is_lost_but_for_what_waits(buckets, size, seed):
    """After E epochs each bucket has used what divides by micro_batch; over micro_batch epochs every sample is used exactly that often."""
    epochs = size * 2
    whole = sum(epochs * buckets.count(b) // size for b in set(buckets))
    used = Counter(index for batch in micro_batches(whole, seed, buckets, size) for _, index in batch)
    assert used == dict.fromkeys(range(len(buckets)), epochs)
    one = sum(buckets.count(b) // size for b in set(buckets))
    used = Counter(index for batch in micro_batches(one, seed, buckets, size) for _, index in batch)
    assert all(n == 1 for n in used.values()), "within the first epoch nothing twice"
    assert len(buckets) - len(used) == sum(buckets.count(b) % size for b in set(buckets)), "fewer than micro_batch of a bucket wait"


@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 3), st.integers(0, 3))
def test_one_bucket_draws_as_before_there_were_any(num_samples, size, seed, label):
    wanted = queue(4, seed, num_samples)
    count = len(wanted) // size
    for buckets in (None, (label,) * num_samples):
        split = {"seed": seed, "num_samples": num_samples, "micro_batch": size, "num_workers": 1, "grad_accum": 1, "buckets": buckets}
        assert [pair for step in range(count) for pair in samples_of(step, 0, 0, **split)] == list(enumerate(wanted))[: count * size]


@given(BUCKETS, st.integers(0, 3))
def test_single_samples_are_drawn_as_without_buckets(buckets, seed):
    got = [pair for batch in micro_batches(3 * len(buckets), seed, buckets, 1) for pair in batch]
    assert got == list(enumerate(queue(3, seed, len(buckets))))


@given(BUCKETS, st.integers(1, 4), st.integers(0, 2))
def test_workers_and_accumulation_share_one_order(buckets, size, seed):
    alone = micro_batches(24, seed, buckets, size)
    assert all(micro_batches(24, seed, buckets, size, w, a) == alone for w, a in ((2, 1), (1, 3), (2, 3), (4, 2)))


def test_a_step_is_known_without_those_before_it():
    """A run resumed at step 1000 asks for it first: the caches may not decide what it sees."""
    buckets = tuple(i % 3 for i in range(50))
    split = {"seed": 5, "num_samples": 50, "micro_batch": 4, "num_workers": 2, "grad_accum": 2, "buckets": buckets}
    last = samples_of(1000, 1, 1, **split)
    walked = [samples_of(step, 1, 1, **split) for step in range(990, 1001)]
    assert walked[-1] == last


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


def test_selected_samples_have_their_share_and_none_is_left_out():
    selected = [i < 4 for i in range(20)]  # a fifth of them
    for share in (0.5, 0.8, 0.05):
        epoch = weighted(selected, share)
        counts = Counter(epoch)
        assert set(counts) == set(range(20))
        assert sum(counts[i] for i in range(4)) / len(epoch) == pytest.approx(share, abs=0.5 / len(epoch) + 0.01)
        of_groups = [[counts[i] for i in range(4)], [counts[i] for i in range(4, 20)]]
        assert all(max(group) - min(group) <= 1 for group in of_groups), "evenly within a group"
    assert weighted(selected, 0.5) == (*(i for i in range(4) for _ in range(4)), *range(4, 20)), "16 of each"
    assert weighted(selected, None) == weighted([False] * 20, 0.5) == weighted([True] * 20, 0.5) == tuple(range(20))


def test_the_order_of_a_weighted_epoch_is_a_function_of_seed_and_step():
    epoch = weighted([True, True, False, False, False, False], 0.5)
    assert len(epoch) == 8
    split = {"seed": 1, "num_samples": len(epoch), "micro_batch": 2, "num_workers": 2, "grad_accum": 1}
    seen = [[epoch[p] for r in range(2) for _, p in samples_of(step, r, 0, **split)] for step in range(6)]
    assert seen == [[epoch[p] for r in range(2) for _, p in samples_of(step, r, 0, **split)] for step in range(6)]
    assert [sorted(seen[2 * e] + seen[2 * e + 1]) for e in range(3)] == [list(epoch)] * 3, "each epoch sees the share"
    assert seen[:2] != seen[2:4]


def test_where_epochs_end():
    assert [step for step in range(10) if ends_epoch(step, 5, 2)] == [2, 4, 7, 9]
    assert [step for step in range(3) if ends_epoch(step, 2, 5)] == [0, 1, 2]
