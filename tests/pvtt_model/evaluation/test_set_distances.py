"""FVD and FID of a stage from per-edit features; encoders that know again what they have seen."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pvtt_model.backbones.video import load_video_features
from pvtt_model.evaluation.frames import edit_frames
from pvtt_model.evaluation.frechet import Moments, distance_of
from pvtt_model.evaluation.fvd import video_features
from pvtt_model.evaluation.remembered import Remembered
from pvtt_model.evaluation.report import aggregate
from pvtt_model.evaluation.score import score_row
from pvtt_model.evaluation.score_more import Networks
from pvtt_model.evaluation.set_distances import set_distances
from pvtt_model.nano.shipped import shipped, shipped_folder
from pvtt_model.specs import EvalSpec, ModelSpec

VIDEO = shipped("video", ModelSpec)


def test_fvd_of_a_run_is_that_of_all_its_videos(edits_row: Any, nano_eval: EvalSpec, mean_colour: Any, histogram: Any) -> None:
    spec = nano_eval.model_copy(update={"fvd": VIDEO})
    networks = Networks(fvd=load_video_features(VIDEO, shipped_folder("nano:video")))
    rows = [edits_row(f"c{i}", frames=4, seed=i) for i in range(3)]
    features: list[dict[str, torch.Tensor]] = [{} for _ in rows]
    edits = [score_row(row, spec, mean_colour, histogram, networks=networks, features=f) for row, f in zip(rows, features, strict=True)]
    assert all(set(f) == {"fvd.real", "fvd.made", "fvd.ceiling"} for f in features)
    of_set, said = set_distances(features, spec, networks)
    report = aggregate("s", edits, spec, of_set=of_set, warnings=said)
    real, made = Moments(128), Moments(128)
    for row in rows:
        frames = edit_frames(row)
        real.add(video_features(networks.fvd, frames["source"]))  # type: ignore[arg-type]
        made.add(video_features(networks.fvd, frames["raw"]))  # type: ignore[arg-type]
    fvd = report.metric("fvd[nano-video]")
    assert fvd is not None and fvd.n == 3 and fvd.low is None
    assert fvd.value == pytest.approx(distance_of(real, made), rel=1e-6)
    assert report.metric("fvd_ceiling[nano-video]").direction == "context"  # type: ignore[union-attr]
    assert any("below 256" in w for w in report.warnings) and not any("FVD not measured" in w for w in report.warnings)
    assert report.family("weighted_score").note.find("without fvd") < 0  # type: ignore[union-attr]


def test_too_short_videos_are_said_and_nothing_is_invented(edits_row: Any, nano_eval: EvalSpec, mean_colour: Any, histogram: Any) -> None:
    spec = nano_eval.model_copy(update={"fvd": VIDEO})
    networks = Networks(fvd=load_video_features(VIDEO, shipped_folder("nano:video")))
    features: dict[str, torch.Tensor] = {}
    edit = score_row(edits_row(frames=2), spec, mean_colour, histogram, networks=networks, features=features)
    assert edit.status == "done" and not features
    of_set, said = set_distances([features], spec, networks)
    report = aggregate("s", [edit], spec, of_set=of_set, warnings=said)
    assert report.family("fvd") is None
    assert any(w.startswith("fvd not measured for 1 of 1 edits: clips have shape") for w in report.warnings)


class Counting:
    """Mean colours, counted."""

    name, side = "counting", 8

    def __init__(self) -> None:
        self.calls = 0

    def embed(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return images_BCHW.mean(dim=(2, 3))


def test_an_encoder_is_asked_once_for_the_same_pictures() -> None:
    inner = Counting()
    network, pictures = Remembered(inner), torch.rand(3, 3, 8, 8)
    first = network.embed(pictures)
    kept = first.clone()
    first.zero_()  # what a caller does with its features is its own
    assert torch.equal(network.embed(pictures.clone()), kept) and inner.calls == 1
    network.embed(pictures[:2])
    network.embed(pictures.double())
    assert inner.calls == 3 and (network.asked, network.found) == (4, 1)
    assert network.side == 8 and network.name == "counting"


def test_memory_is_bounded_and_the_least_lately_asked_goes() -> None:
    inner = Counting()
    network = Remembered(inner, most_bytes=2 * 12)  # of one picture 12 bytes
    a, b, c = torch.rand(3, 1, 3, 8, 8)
    for given in (a, b, a, c, a, b):
        network.embed(given)
    assert inner.calls == 4, "b went when c came"
