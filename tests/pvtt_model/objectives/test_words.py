"""The distance between a reference's tokens and the product's words, by hand."""

from __future__ import annotations

import pytest
import torch

from pvtt_model.objectives.words import words_loss


def test_by_hand():
    words = torch.zeros(3, 2, 2)
    words[0] = torch.tensor([[3.0, 4.0], [0.0, 0.0]])  # one word, squared length 25
    words[1] = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    tokens = torch.zeros(3, 3, 2)
    tokens[0, 0] = torch.tensor([3.0, 0.0])  # 4 short
    tokens[0, 2] = 1.0  # and 1, 1 where nothing should stand
    tokens[1, :2] = words[1]
    tokens[2] = 7.0  # of a clip without words
    loss = words_loss(tokens.requires_grad_(), words)
    assert loss.tolist() == pytest.approx([(16 + 2) / 25, 0.0, 0.0])
    loss.sum().backward()
    assert torch.isfinite(tokens.grad).all() and (tokens.grad[2] == 0).all()


def test_zeros_score_one_and_more_words_than_tokens_are_cut():
    words = torch.randn(2, 5, 4)
    assert words_loss(torch.zeros(2, 3, 4), words).tolist() == pytest.approx([1.0, 1.0])
    assert words_loss(words[:, :3], words).tolist() == [0.0, 0.0]


def test_no_words_at_all():
    assert words_loss(torch.ones(2, 3, 4, dtype=torch.bfloat16), torch.zeros(2, 0, 4)).tolist() == [0.0, 0.0]
