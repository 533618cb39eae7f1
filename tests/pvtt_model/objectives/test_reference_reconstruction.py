"""The probe on the resampler's tokens: its target by hand, what it trains, and that the checkpoint's files do not hold it."""

from __future__ import annotations

import pytest
import torch

from pvtt_model.objectives.reference_reconstruction import attach_probe, reconstruction_loss, reference_features
from pvtt_model.training.trained_tensors import split_trainable


def test_the_target_by_hand():
    """Two real tokens of three channels, one of padding: mean (1, 2, 6), deviation (1, 1, 4); each then of mean 0 and variance 1."""
    tokens = torch.tensor([[[0.0, 1.0, 2.0], [2.0, 3.0, 10.0], [9.0, 9.0, 9.0]]])
    features = reference_features(tokens, torch.tensor([[True, True, False]]))
    for got, raw in zip(features[0], (torch.tensor([1.0, 2.0, 6.0]), torch.tensor([1.0, 1.0, 4.0])), strict=True):
        torch.testing.assert_close(got, (raw - raw.mean()) / raw.var(unbiased=False).sqrt(), atol=1e-4, rtol=1e-4)


def test_the_loss_is_one_for_zeros_and_nought_without_pictures():
    tokens, keep = torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.bool)
    keep[1] = False
    loss = reconstruction_loss(torch.zeros(2, 2, 8), tokens, keep)
    assert loss.tolist() == [pytest.approx(1.0, abs=1e-3), 0.0]
    assert reconstruction_loss(reference_features(tokens, keep), tokens, keep).tolist() == [0.0, 0.0]


def test_it_trains_the_resampler_and_stays_out_of_the_files(make_teacher, teacher_inputs):
    teacher, inputs = make_teacher().train(), teacher_inputs(2)
    before = {name: p.detach().clone() for name, p in teacher.trainable().items()}
    plain = teacher(*inputs).detach()
    attach_probe(teacher, seed=3)
    new = set(teacher.trainable()) - set(before)
    assert new and all(name.startswith("reference_probe.") for name in new)
    assert all(torch.equal(before[name], p) for name, p in teacher.trainable().items() if name in before)
    assert torch.equal(teacher(*inputs), plain), "the model's answer is as without it"
    optimizer = torch.optim.Adam(teacher.trainable().values(), lr=3e-3)
    losses = []
    for _ in range(30):
        teacher(*inputs)
        loss = reconstruction_loss(teacher.reconstructed_B2C, inputs[4].patches_BPC, inputs[4].keep_BP).mean()
        optimizer.zero_grad(), loss.backward(), optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    gradients = {name.split(".")[0] for name, p in teacher.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert gradients == {"resampler", "reference_probe"}
    lora, adapter, _ = split_trainable(teacher.trainable())
    assert not [name for name in (*lora, *adapter) if "probe" in name] and len(lora) + len(adapter) == len(before)


def test_a_teacher_without_resampler():
    with pytest.raises(ValueError, match="wants a resampler's tokens"):
        attach_probe(torch.nn.Linear(1, 1), 0)
