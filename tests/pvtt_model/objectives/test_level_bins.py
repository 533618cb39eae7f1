"""Losses by noise level: every sample in one bin, and sums over workers and steps that are exact."""

from __future__ import annotations

import torch

from pvtt_model.objectives.level_bins import LevelTally, bin_of, level_record


def test_bins():
    sigma = torch.tensor([0.0, 0.0999, 0.1, 0.3, 0.7, 0.8999, 0.9, 1.0])
    assert bin_of(sigma).tolist() == [0, 0, 1, 3, 7, 8, 9, 9]


def test_a_record_says_what_was_added():
    tally = LevelTally()
    tally.add(torch.tensor([0.05, 0.95]), torch.tensor([1.0, 4.0]))
    tally.add(torch.tensor([0.99, 0.5]), torch.tensor([2.0, 8.0]))
    tally.add_term("identity", torch.tensor([0.0, 0.5, 0.25]), torch.tensor([0, 1, 1]))
    assert level_record(tally.packed()) == {
        "level0_sum": 1.0, "level0_count": 1.0, "level5_sum": 8.0, "level5_count": 1.0, "level9_sum": 6.0, "level9_count": 2.0,
        "identity_loss": 0.375,
    }  # fmt: skip
    assert tally.squares.tolist() == [1.0, 0, 0, 0, 0, 64.0, 0, 0, 0, 20.0]
    assert level_record(LevelTally().packed()) == {}


def test_workers_sum_to_one():
    """Two workers' packed tallies add up to the tally of one that saw all samples, to the last bit where the sums are exact."""
    g = torch.Generator().manual_seed(0)
    sigma, loss = torch.rand(64, generator=g), torch.randint(0, 1 << 20, (64,), generator=g).float() / 1024
    one, parts = LevelTally(), (LevelTally(), LevelTally())
    one.add(sigma, loss)
    for part, half in zip(parts, (slice(0, 40), slice(40, 64)), strict=True):
        part.add(sigma[half], loss[half])
    assert torch.equal(parts[0].packed() + parts[1].packed(), one.packed())
    assert sum(v for k, v in level_record(one.packed()).items() if k.endswith("_count")) == 64
