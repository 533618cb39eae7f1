"""What is asked for is checked before a model runs."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from pvtt_model.data.video_io import png_bytes, write_mp4
from pvtt_model.editing.request import EditRequest, given_mask, open_request, video_facts
from pvtt_model.recipes import recipe_by_name
from pvtt_model.specs import EditorSpec


def spec(**video) -> EditorSpec:
    overrides = {"latents.video.width": 48, "latents.video.height": 32} | {f"latents.video.{name}": value for name, value in video.items()}
    return EditorSpec.of(recipe_by_name("nano", overrides))


def request(files, **changes) -> EditRequest:
    return EditRequest(files["video"], (files["product"],), mask=files["mask"])._replace(**changes)


def test_video_folder_and_single_picture_give_the_same_kind_of_mask(small_files):
    facts = video_facts(request(small_files))
    masks = [given_mask(small_files[name], facts, None, 127)(2, 5) for name in ("mask", "masks")]
    assert torch.equal(*masks) and masks[0].shape == (3, 48, 80)
    one = given_mask(small_files["masks"] / "00004.png", facts, None, 127)
    assert torch.equal(one(0, 13), masks[1][2:3].expand(13, -1, -1)), "a single picture holds for all frames"


def test_counts_must_agree(small_files):
    (small_files["masks"] / "00012.png").unlink()
    with pytest.raises(ValueError, match="holds 12 pictures; the video has 13"):
        open_request(request(small_files, mask=small_files["masks"]), spec())
    write_mp4(small_files["folder"] / "long.mp4", torch.full((14, 3, 48, 80), 255, dtype=torch.uint8), 12)
    with pytest.raises(ValueError, match="has 14 frames; the video has 13"):
        open_request(request(small_files, mask=small_files["folder"] / "long.mp4"), spec())
    assert open_request(request(small_files, mask=small_files["masks"], num_frames=9), spec()).facts.num_frames == 9
    with pytest.raises(ValueError, match="14 frames are asked for"):
        video_facts(request(small_files, num_frames=14))


def test_a_mask_of_another_size_is_scaled_and_of_another_aspect_refused(small_files):
    facts = video_facts(request(small_files))
    half = small_files["folder"] / "half.png"
    half.write_bytes(png_bytes(torch.ones(24, 40, dtype=torch.bool)))
    assert given_mask(half, facts, None, 127)(0, 2).shape == (2, 48, 80)
    half.write_bytes(png_bytes(torch.ones(40, 40, dtype=torch.bool)))
    with pytest.raises(ValueError, match="another aspect"):
        given_mask(half, facts, None, 127)


def test_an_empty_mask_and_a_cut_off_product_are_refused(small_files):
    empty = small_files["folder"] / "empty.png"
    empty.write_bytes(png_bytes(torch.zeros(48, 80, dtype=torch.bool)))
    with pytest.raises(ValueError, match="empty in every frame"):
        open_request(request(small_files, mask=empty), spec())
    corner = torch.zeros(48, 80, dtype=torch.bool)
    corner[10:30, :12] = True
    empty.write_bytes(png_bytes(corner))
    with pytest.raises(ValueError, match=r"of the product lies outside .*fit=stretch"):
        open_request(request(small_files, mask=empty), spec(width=32))
    assert open_request(request(small_files, mask=empty), spec(width=32, fit="stretch")).mask_figures["area"] == pytest.approx(240 / 3840)


def test_frames_without_product_are_said(small_files):
    (small_files["masks"] / "00003.png").write_bytes(png_bytes(torch.zeros(48, 80, dtype=torch.bool)))
    opened = open_request(request(small_files, mask=small_files["masks"]), spec())
    assert any("empty in 1 of 13 frames" in warning for warning in opened.warnings)


def test_missing_and_unreadable_files_say_which(small_files):
    for changes, says in (
        ({"video": small_files["folder"] / "no.mp4"}, "no video at"),
        ({"references": (small_files["folder"] / "no.png",)}, "no picture at"),
        ({"references": ()}, "at least one"),
        ({"references": (small_files["video"],)}, "video.mp4: no readable picture"),
        ({"mask": small_files["folder"] / "no.mp4"}, "no mask at"),
    ):
        with pytest.raises((OSError, ValueError), match=says):
            open_request(request(small_files, **changes), spec())


def test_a_mask_is_found_where_a_point_says_the_product_is(small_files):
    opened = open_request(request(small_files, mask=None, point=(30.0, 23.0)), spec())
    assert opened.mask_provenance == "grabcut by manifest" and not opened.warnings
    truth = given_mask(small_files["masks"], opened.facts, None, 127)(0, 13)
    found = opened.mask(0, 13)
    assert int((found & truth).sum()) / int((found | truth).sum()) > 0.6


def test_cmyk_references_are_read(small_files):
    path = small_files["folder"] / "cmyk.jpg"
    Image.new("CMYK", (20, 20), (255, 0, 0, 0)).save(path)
    assert open_request(request(small_files, references=(path,)), spec()).references
