from __future__ import annotations

import math

import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from pvtt_model.evaluation.background_psnr import CAP_DB, background_psnr_db
from pvtt_model.evaluation.background_ssim import background_ssim
from pvtt_model.evaluation.crops import letterbox, product_crops, reference_square
from pvtt_model.evaluation.frame_ssim import frame_motion, frame_ssim
from pvtt_model.evaluation.psnr import psnr_db
from pvtt_model.evaluation.similarity import embed_reference, metric_name, product_similarity, text_similarity
from pvtt_model.specs import ModelSpec


def video(frames: int = 4, height: int = 32, width: int = 40, seed: int = 0) -> torch.Tensor:
    return torch.randint(60, 190, (frames, 3, height, width), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def masked(source: torch.Tensor) -> torch.Tensor:
    mask = torch.zeros(len(source), *source.shape[-2:], dtype=torch.bool)
    mask[:, 10:16, 12:20] = True
    return mask


@pytest.mark.parametrize("error", [1, 5, 20])
def test_psnr_of_a_known_error(error: int) -> None:
    source = video()
    got = background_psnr_db(source + error, source, masked(source))
    assert got == pytest.approx(20 * math.log10(255 / error), abs=1e-4)


def test_psnr_without_mask_is_torchmetrics() -> None:
    source, other = video(), video(seed=1)
    assert psnr_db(other, source) == pytest.approx(float(peak_signal_noise_ratio(other.double(), source.double(), data_range=255.0)), abs=1e-4)


def test_psnr_pools_over_frames_and_background_only() -> None:
    source, edit = video(), video()
    mask = masked(source)
    edit[0] += 10  # one frame of four: MSE 100 / 4
    assert background_psnr_db(edit, source, mask) == pytest.approx(10 * math.log10(255**2 / 25), abs=1e-4)


def test_error_inside_the_mask_changes_nothing() -> None:
    source = video()
    mask = masked(source)
    edit = source + 3
    inside = torch.where(mask[:, None], torch.tensor(255, dtype=torch.uint8), edit)
    assert background_psnr_db(inside, source, mask) == background_psnr_db(edit, source, mask)
    assert background_ssim(inside, source, mask) == background_ssim(edit, source, mask)


def test_identical_backgrounds_are_capped() -> None:
    source = video()
    assert background_psnr_db(source, source.clone(), masked(source)) == CAP_DB == 100.0


def test_ssim_without_mask_is_torchmetrics() -> None:
    source, other = video(), video(seed=1)
    nothing = torch.zeros(4, 32, 40, dtype=torch.bool)
    expected = structural_similarity_index_measure(other / 255.0, source / 255.0, data_range=1.0)
    assert background_ssim(other, source, nothing) == pytest.approx(float(expected), abs=1e-6)
    assert background_ssim(source, source, nothing) == pytest.approx(1.0, abs=1e-6)


def test_ssim_of_a_long_video_is_the_same_in_pieces() -> None:
    source, other = video(frames=19), video(frames=19, seed=1)
    mask = masked(source)
    whole = background_ssim(other, source, mask)
    halves = [background_ssim(other[p], source[p], mask[p]) for p in (slice(0, 10), slice(10, 19))]
    assert whole == pytest.approx((halves[0] * 10 + halves[1] * 9) / 19, abs=1e-6)


def test_no_background_is_said() -> None:
    source = video()
    full = torch.ones(4, 32, 40, dtype=torch.bool)
    with pytest.raises(ValueError, match="no background"):
        background_psnr_db(source, source, full)
    nearly = full.clone()
    nearly[:, 0, 0] = False
    with pytest.raises(ValueError, match="further than 5 px"):
        background_ssim(source, source, nearly)


def test_unlike_videos_are_refused() -> None:
    source = video()
    with pytest.raises(ValueError, match="differ in shape"):
        background_psnr_db(source[:3], source, masked(source))
    with pytest.raises(ValueError, match="uint8"):
        background_psnr_db(source / 255.0, source / 255.0, masked(source))


def test_a_frozen_video_scores_one_and_does_not_move() -> None:
    still = video(frames=1).expand(4, -1, -1, -1)
    assert frame_ssim(still) == pytest.approx(1.0, abs=1e-6) and frame_motion(still) == 0.0
    stepped = torch.stack([torch.full((3, 16, 16), v, dtype=torch.uint8) for v in (0, 51, 0)])
    assert frame_motion(stepped) == pytest.approx(0.2)
    assert frame_ssim(video()) < 0.9
    with pytest.raises(ValueError, match="T of 2"):
        frame_ssim(still[:1])


def test_the_crop_holds_the_product_alone() -> None:
    source = torch.zeros(2, 3, 40, 60, dtype=torch.uint8)
    mask = torch.zeros(2, 40, 60, dtype=torch.bool)
    mask[0, 10:20, 20:40] = True  # the second frame has none
    source[0, 0][mask[0]] = 255
    crops = product_crops(source, mask, margin=0.0, side_px=20)
    assert crops.shape == (1, 3, 20, 20)
    assert torch.allclose(crops[0, :, 10, 10], torch.tensor([1.0, 0.0, 0.0]))  # 20 x 10 fills the width, bars above and below
    assert torch.allclose(crops[0, :, 0, 10], torch.full((3,), 0.5))
    other = source.clone()
    other[:, 1][~mask] = 200  # a background however loud is not seen
    assert torch.equal(product_crops(other, mask, 0.3, 20), product_crops(source, mask, 0.3, 20))
    with pytest.raises(ValueError, match="no frame has a mask"):
        product_crops(source, torch.zeros_like(mask), 0.1, 20)


def test_the_reference_is_letterboxed_never_squashed() -> None:
    white = torch.full((3, 10, 40), 255, dtype=torch.uint8)
    assert torch.allclose(reference_square(white, 40), torch.ones(3, 40, 40))
    cut_out = torch.cat([torch.zeros(3, 10, 40, dtype=torch.uint8), torch.zeros(1, 10, 40, dtype=torch.uint8)])
    assert torch.allclose(reference_square(cut_out, 40), torch.full((3, 40, 40), 0.5))  # transparent is not black
    circle = letterbox(torch.ones(3, 8, 16), 32, torch.zeros(3))
    assert circle[0].sum() == 32 * 16


def test_similarity_tells_products_apart(histogram, mean_colour) -> None:
    source = torch.full((3, 3, 32, 32), 128, dtype=torch.uint8)
    mask = torch.zeros(3, 32, 32, dtype=torch.bool)
    mask[:, 8:24, 8:24] = True
    red, green = source.clone(), source.clone()
    red[:, :, 8:24, 8:24] = torch.tensor([255, 0, 0], dtype=torch.uint8)[:, None, None]
    green[:, :, 8:24, 8:24] = torch.tensor([0, 255, 0], dtype=torch.uint8)[:, None, None]
    reference = torch.zeros(3, 20, 20, dtype=torch.uint8)
    reference[0] = 255
    embedded = embed_reference(histogram, reference)
    same = product_similarity(histogram, red, mask, embedded, 0.0)
    assert same == pytest.approx(1.0) and product_similarity(histogram, green, mask, embedded, 0.0) == pytest.approx(0.0)
    assert text_similarity(mean_colour, red, "a red box") > text_similarity(mean_colour, red, "a green box")
    with pytest.raises(ValueError, match="prompt is empty"):
        text_similarity(mean_colour, red, " ")


def test_published_names_are_for_published_extractors() -> None:
    real = ModelSpec(architecture="openclip-vit-h14", weights="/weights/clip")
    assert metric_name("clip_i", "clip_i", "openclip-vit-h14", real) == "clip_i"
    assert metric_name("clip_i_source", "clip_i", "openclip-vit-h14", real) == "clip_i_source"
    assert metric_name("clip_i", "clip_i", "colour-histogram", real) == "clip_i[colour-histogram]"
    seeded = ModelSpec(architecture="openclip-vit-h14", weights="seed:1")
    assert metric_name("clip_i", "clip_i", "openclip-vit-h14", seeded) != "clip_i"
    nano = ModelSpec(architecture="nano-openclip", weights="seed:3")
    assert metric_name("clip_i", "clip_i", "nano-openclip (random weights, seed 3)", nano) == "clip_i[nano-openclip]"
    assert metric_name("dino_i", "dino_i", "openclip-vit-h14", real) == "dino_i[openclip-vit-h14]"
