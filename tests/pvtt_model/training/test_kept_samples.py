"""Samples are read once, within bounds."""

from __future__ import annotations

import pytest
import torch

from pvtt_model.reference.features import PictureFeatures
from pvtt_model.training import kept_samples
from pvtt_model.training.kept_samples import KeptSamples
from pvtt_model.training.samples import Place, Sample

BYTES = 4 * (16 + 96 + 6 + 6)


@pytest.fixture
def reads(monkeypatch, tmp_path):
    """The places read, in order; a sample is BYTES long."""
    seen = []

    def read(place: Place, injection: str) -> Sample:
        seen.append(place.row)
        return Sample(
            torch.full((16, 1, 1, 1), place.row),
            torch.zeros(1, 96, 1, 1, 1),
            torch.zeros(2, 3),
            (PictureFeatures(torch.zeros(2, 3)),),
            torch.zeros(0, 3),
        )

    monkeypatch.setattr(kept_samples, "read_sample", read)
    return seen


def places(count: int) -> list[Place]:
    return [Place(str(i), None, None, i) for i in range(count)]


def test_each_is_read_once(reads):
    kept = KeptSamples(places(3))
    assert [int(kept[i].x0_CFHW[0]) for i in (2, 0, 2, 1, 0, 1)] == [2, 0, 2, 1, 0, 1]
    assert reads == [2, 0, 1] and len(kept) == 3


@pytest.mark.parametrize(("room", "kept_of_three"), [(0, 0), (1, 1), (2, 2), (9, 3)])
def test_no_more_than_fits(reads, room, kept_of_three):
    kept = KeptSamples(places(3), most_bytes=room * BYTES + BYTES // 2)
    for _ in range(2):
        assert [int(kept[i].x0_CFHW[0]) for i in range(3)] == [0, 1, 2]
    assert len(reads) == 6 - kept_of_three, "the first ones stay, the others are read each time"
