"""What the loop refuses before any engine is built."""

from __future__ import annotations

import pytest
import torch

from pvtt_model.recipes import recipe_by_name
from pvtt_model.training.loop import train
from pvtt_model.training.samples import Place

STAGE = recipe_by_name("nano").stages[0]


def test_no_samples(tmp_path):
    with pytest.raises(ValueError, match="stage 'verify' has no samples. Look at the masks' table"):
        train(STAGE, None, [], torch.zeros(1, 64), 32, None, tmp_path)


def test_another_number_of_workers(tmp_path):
    place = Place("a", tmp_path, tmp_path, 0)
    with pytest.raises(ValueError, match="wants 2 workers, got 1. Set parallel.num_workers=1"):
        train(STAGE, None, [place], torch.zeros(1, 64), 32, None, tmp_path)
