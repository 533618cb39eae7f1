"""`make nano-weights` at a few steps: every trainer runs, repeats itself, goes on where it stopped, and packs what the loaders read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from pvtt_model.artifacts import sha256_of_file
from pvtt_model.backbones.text import load_text_encoder
from pvtt_model.backbones.vae import load_vae
from pvtt_model.nano.pretrain import pack as packing
from pvtt_model.nano.pretrain.dit import encode_world, load_latents, sample, train_base
from pvtt_model.nano.pretrain.optimise import rate_at
from pvtt_model.nano.pretrain.stream import clips, contents
from pvtt_model.nano.pretrain.text import train_text
from pvtt_model.nano.pretrain.vae import psnr, train_vae
from pvtt_model.nano.pretrain.vision import ATTRIBUTES, labels, probe, train_image_encoder
from pvtt_model.nano.products import split_of
from pvtt_model.nano.shipped import FOLDER
from pvtt_model.specs import ModelSpec


def nothing(step: int, record: dict[str, float]) -> None:
    pass


def test_a_stream_repeats_and_shows_training_products_alone():
    one, again, other = (clips(5, step, 6, 5) for step in (3, 3, 4))
    assert torch.equal(one.frames_NCTHW, again.frames_NCTHW) and not torch.equal(one.frames_NCTHW, other.frames_NCTHW)
    products, scenes = contents(5, 3, 6, 5)
    assert products == one.products and [s.moves for s in scenes] == [s.moves for s in one.scenes]
    assert {split_of(p) for p in one.products} == {"train"}


def test_the_rate_warms_up_and_falls_to_its_least():
    rates = [rate_at(s, 1000, 1.0, warmup=10, least=0.1) for s in range(1000)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == pytest.approx(1.0, rel=1e-3) and rates[-1] == pytest.approx(0.1, rel=1e-3)


def test_psnr_by_hand():
    a, b = torch.zeros(1, 3, 1, 2, 2), torch.zeros(1, 3, 1, 2, 2)
    b[..., 0, 0] = 0.2
    assert psnr(a, b, b[:, 0] > 0) == pytest.approx(20.0) and psnr(a, b) == pytest.approx(20 + 10 * torch.log10(torch.tensor(4.0)).item())


@pytest.mark.slow
def test_a_base_trains_and_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    vae = load_vae(ModelSpec(architecture="nano-vae", weights="nano:vae"), FOLDER / "vae")
    text = load_text_encoder(ModelSpec(architecture="nano-umt5", weights="nano:text"), FOLDER / "text")
    encode_world(vae, 5, [0], tmp_path / "w.safetensors", nothing)
    latents, whose = load_latents([tmp_path / "w.safetensors"], 5)
    assert len(whose) == len(latents.x0_NCFHW) == 64 and latents.inactive_NVCFHW.shape[:2] == (64, 2)
    control = latents.control(torch.arange(2), torch.tensor([0, 1]))
    assert torch.equal(control[1, -64:], latents.mask_NVMFHW[1, 1].float())

    def weights(name: str) -> dict[str, Tensor]:
        return load_file(tmp_path / name / "diffusion_pytorch_model.safetensors")

    seen: list[dict[str, Any]] = []
    whole = train_base("nano-s", 1, 4, latents, whose, text, tmp_path / "whole", lambda step, record: seen.append(record), save_every=2)
    assert seen[0]["loss"] > 0 and all(torch.isfinite(t).all() for t in weights("whole").values())
    stop = {"at": 2}

    class Stop(Exception):
        pass

    def until(step: int, record: dict[str, float]) -> None:
        if step == 3:
            raise Stop

    with pytest.raises(Stop):
        train_base("nano-s", 1, 4, latents, whose, text, tmp_path / "part", until, save_every=stop["at"])
    train_base("nano-s", 1, 4, latents, whose, text, tmp_path / "part", nothing, resume=tmp_path / "part" / "state.part.pt", first=2)
    assert all(torch.equal(t, weights("part")[n]) for n, t in weights("whole").items())
    drawn = sample(lambda x, sigma: whole(hidden_states=x, timestep=sigma * 1000, encoder_hidden_states=torch.zeros(2, 4, 96),
                                          control_hidden_states=control, return_dict=False)[0], control, 32, 2, 0)  # fmt: skip
    assert drawn.shape == (2, 32, *control.shape[2:]) and torch.isfinite(drawn).all()


def test_euler_on_a_straight_path_arrives():
    """v = noise - x0 is what a perfect model answers; then any number of steps ends in x0."""
    x0 = torch.full((1, 4, 1, 2, 2), 0.3)

    def perfect(x: Tensor, sigma: Tensor) -> Tensor:
        return (x - x0) / sigma.view(-1, 1, 1, 1, 1)

    torch.testing.assert_close(sample(perfect, torch.zeros(1, 8, 1, 2, 2), 4, 3, 0), x0)


def test_a_text_encoder_trains_and_is_packed_as_the_loaders_want_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    score = train_text(1, 2, tmp_path / "text", nothing)
    assert set(score) == {"words", "attributes"} and all(0 <= v <= 1 for v in score.values())
    monkeypatch.setattr(packing, "INDEX", tmp_path / "index.json")
    entry = packing.pack("text", tmp_path / "text", {"steps": 2, "score": score}, tmp_path / "packed")
    file = tmp_path / "packed" / "text" / "text_encoder" / "model.safetensors"
    assert entry["sha256"] == sha256_of_file(file) and json.loads((tmp_path / "index.json").read_text())["text"] == entry
    loaded = load_text_encoder(ModelSpec(architecture="nano-umt5", weights=str(file.parents[1])), file.parents[1])
    assert loaded.embed(["a red mug"], 24)[0].shape[1] == 96


@pytest.mark.slow
def test_an_image_encoder_trains(tmp_path: Path) -> None:
    score = train_image_encoder("nano-dinov2", 2, 1, 1e-3, tmp_path, nothing, init_values=1.0)
    assert set(score) == {"top1_of_20", "queries", "all_attributes", "worst_attribute"} and (tmp_path / "model.safetensors").is_file()


@pytest.mark.slow
def test_the_vae_trains(tmp_path: Path) -> None:
    score = train_vae(0, 1, tmp_path, nothing)
    assert score["psnr_db"] > 0 and len(json.loads((tmp_path / "config.json").read_text())["latents_std"]) == 32


def test_the_probe_tells_who_knows_from_who_does_not():
    """Features that are the picture's own pixels, coarse, against features that are the same for all."""
    knows = probe(lambda x: torch.nn.functional.adaptive_avg_pool2d(x, 8).flatten(1), 0, fitted=300, asked=100)
    blind = probe(lambda x: torch.ones(len(x), 4), 0, fitted=100, asked=100)
    assert blind["all_attributes"] <= 0.05 and blind["worst_attribute"] < knows["worst_attribute"] < 1
    assert labels([]).numel() == 0 and len(ATTRIBUTES) == 7


def test_the_shipped_image_encoder_knows_the_products():
    """What the adapter can say is what its encoder knows: 0.06 where the teacher learned nothing, 0.67 where it did."""
    from pvtt_model.backbones.image import load_image_encoder

    encoder = load_image_encoder(ModelSpec(architecture="nano-dinov2", weights="nano:dinov2"), FOLDER / "dinov2")
    found = probe(encoder.embed, 9, fitted=1000, asked=200)
    assert found["all_attributes"] > 0.5 and found["worst_attribute"] > 0.8, found
