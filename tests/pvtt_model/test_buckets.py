"""Aspect buckets: which one a clip goes to, what is refused, and what a change of them makes anew."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pvtt_model.data.video_io import fit, fit_mask
from pvtt_model.plan import plan_recipe, planned_chain
from pvtt_model.plan_text import render
from pvtt_model.recipes import recipe_by_name
from pvtt_model.specs import VideoSpec

SURVEY = recipe_by_name("full").latents.video
SIDE = st.integers(1, 40).map(lambda n: 16 * n)


@pytest.mark.parametrize(
    ("source", "bucket", "kept"),
    [
        ((1920, 1080), (832, 480), Fraction(1920 * 480, 1080 * 832) ** -1),  # 16:9 is wider than 832x480
        ((1080, 1920), (480, 832), Fraction(1920 * 480, 1080 * 832) ** -1),
        ((640, 480), (720, 544), Fraction(720 * 480, 544 * 640)),
        ((480, 640), (544, 720), Fraction(720 * 480, 544 * 640)),
        ((1000, 1000), (624, 624), Fraction(1)),
        ((832, 480), (832, 480), Fraction(1)),
        ((2560, 1080), (832, 480), Fraction(832 * 1080, 480 * 2560)),
    ],
)
def test_the_surveys_buckets(source, bucket, kept):
    assert SURVEY.bucket_of(*source) == bucket
    assert SURVEY.kept_share(*source) == pytest.approx(float(kept), rel=1e-15) and 0 < kept <= 1


def test_the_surveys_buckets_have_about_one_area_and_the_first_most():
    areas = [width * height for width, height in SURVEY.sizes]
    assert SURVEY.largest == SURVEY.sizes[0] == (832, 480) and max(areas) == areas[0] and min(areas) > 0.97 * areas[0]


def test_the_border_between_two_is_their_geometric_mean():
    """Aspects 1 and 4: the border is at 2, where the larger area wins; a hair to either side decides."""
    video = VideoSpec(width=64, height=64, num_frames=1, buckets=((128, 32), (64, 16)))
    assert video.bucket_of(1999, 1000) == (64, 64) and video.bucket_of(2001, 1000) == (128, 32), "of one aspect the larger"
    assert video.bucket_of(2000, 1000) == (64, 64), "4096 pixels either way: the first"
    assert VideoSpec(width=64, height=64, num_frames=1, buckets=((256, 64),)).bucket_of(2000, 1000) == (256, 64), "the larger area"


def test_a_square_between_landscape_and_portrait():
    landscape, portrait = (832, 480), (480, 832)
    for first, second in ((landscape, portrait), (portrait, landscape)):
        video = VideoSpec(width=first[0], height=first[1], buckets=(second,))
        assert video.bucket_of(500, 500) == first and video.bucket_of(501, 500) == landscape and video.bucket_of(500, 501) == portrait


@given(st.lists(st.tuples(SIDE, SIDE), min_size=1, max_size=6, unique=True), st.integers(1, 8192), st.integers(1, 8192))
def test_the_choice_is_the_nearest_by_exact_fractions(sizes, width, height):
    video = VideoSpec(width=sizes[0][0], height=sizes[0][1], num_frames=1, buckets=tuple(sizes[1:]))

    def apart(size: tuple[int, int]) -> Fraction:
        ratio = Fraction(width * size[1], height * size[0])
        return max(ratio, 1 / ratio)

    chosen = video.bucket_of(width, height)
    assert chosen == min(sizes, key=lambda size: (apart(size), -size[0] * size[1]))
    assert video.kept_share(width, height) == pytest.approx(float(1 / apart(chosen)))
    turned = VideoSpec(width=sizes[0][1], height=sizes[0][0], num_frames=1, buckets=tuple((h, w) for w, h in sizes[1:]))
    assert turned.bucket_of(height, width) == chosen[::-1]


@pytest.mark.parametrize(
    ("buckets", "said"),
    [
        ([[100, 480]], "bucket 100x480 has a side that is no positive multiple of 16. Use 96x480"),
        ([[0, 480]], "bucket 0x480 .* Use 16x480"),
        ([[-16, 480]], "bucket -16x480 "),
        ([[64, 64]], "bucket 64x64 stands twice among .*Name each size once"),
        ([[48, 64], [48, 64]], "bucket 48x64 stands twice"),
        ([[48]], "buckets.0.1: Field required"),
    ],
)
def test_impossible_buckets_are_refused(buckets, said):
    with pytest.raises(ValueError, match=said):
        recipe_by_name("nano", {"latents.video.buckets": buckets})
    with pytest.raises(ValidationError):
        VideoSpec(width=64, height=64, num_frames=5, buckets=buckets)


@pytest.mark.parametrize("way", ["crop", "stretch"])
@pytest.mark.parametrize("source", [(48, 64), (64, 48), (97, 40), (16, 16)])
def test_frames_and_mask_go_to_one_bucket(source, way):
    video = VideoSpec(width=64, height=48, num_frames=1, fit=way, buckets=((48, 64), (48, 48)))
    width, height = source
    frames = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8)
    bucket = video.bucket_of(width, height)
    assert fit(frames, video).shape == (2, 3, bucket[1], bucket[0]) and fit_mask(frames[:, 0] > 127, video).shape == (2, bucket[1], bucket[0])
    alone = VideoSpec(width=bucket[0], height=bucket[1], num_frames=1, fit=way)
    assert torch.equal(fit(frames, video), fit(frames, alone)), "the bucket is all that the others decide"
    if source == bucket:
        assert torch.equal(fit(frames, video), frames)


def test_no_buckets_leave_every_name_as_it_was():
    """Golden: the identity of the nano recipe's video as it was before there were buckets."""
    video = recipe_by_name("nano").latents.video
    assert video.identity() == {"width": 64, "height": 64, "num_frames": 5, "fit": "crop"} and video.sizes == ((64, 64),)
    assert all(video.bucket_of(w, h) == (64, 64) for w, h in ((1, 999), (999, 1), (64, 64)))


def test_other_buckets_make_latents_anew_and_what_is_behind_them():
    def versions(**overrides):
        return {(stage, p.kind): p.version for stage, p in planned_chain(recipe_by_name("nano", overrides), "s")}

    before, after = versions(), versions(**{"latents.video.buckets": [[48, 80]]})
    assert {key for key in before if before[key] == after[key]} == {(None, "clips"), (None, "masks"), (None, "conditions")}
    assert versions(**{"latents.video.buckets": []}) == before


def test_the_plan_is_of_the_largest_bucket():
    plain = plan_recipe(recipe_by_name("nano"), "s")
    smaller = plan_recipe(recipe_by_name("nano", {"latents.video.buckets": [[48, 64], [64, 48]]}), "s")
    assert (smaller.tokens, smaller.data, smaller.stages) == (plain.tokens, plain.data, plain.stages)
    larger = plan_recipe(recipe_by_name("nano", {"latents.video.buckets": [[64, 128]]}), "s")
    alone = plan_recipe(recipe_by_name("nano", {"latents.video.height": 128}), "s")
    assert larger.tokens == 2 * plain.tokens and (larger.data, larger.stages) == (alone.data, alone.stages)
    assert "in the largest of 2 buckets (64x64, 64x128), and so all below" in render(larger) and "buckets" not in render(plain)
    assert larger.as_dict()["sizes"] == ((64, 64), (64, 128))
