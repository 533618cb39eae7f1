"""A video through the shipped nano models: size, length, rate and background of what comes out."""

from __future__ import annotations

import json

import pytest
import torch

from pvtt_model.curation.mask_policy import widen
from pvtt_model.data.video_io import decode, fit_mask, probe, unfit_mask
from pvtt_model.editing import EditRequest, edit_video
from pvtt_model.editing.batch import is_finished
from pvtt_model.editing.first_frame import edit_from_first_frame, first_frame, first_frame_inputs
from pvtt_model.editing.request import open_request
from pvtt_model.editing.video_edit import request_key
from pvtt_model.evaluation.background_psnr import background_psnr_db


@pytest.fixture
def request_(small_files) -> EditRequest:
    return EditRequest(small_files["video"], (small_files["product"],), "A blue box slides.", small_files["mask"])


def test_the_edit_has_the_sources_size_length_rate_and_background(small_editor, request_, tmp_path):
    steps = []
    report = edit_video(small_editor, request_, tmp_path / "out", progress=lambda *told: steps.append(told), crf=4)
    assert [(w["start"], w["given"]) for w in report["windows"]] == [(0, 0), (4, 1), (8, 1)]
    assert [s[1:] for s in steps] == [(i + 1, 6) for i in range(6)]
    for name in ("composited", "raw", "mask"):
        assert probe(tmp_path / "out" / f"{name}.mp4") == probe(request_.video), name
    source, composited = decode(request_.video), decode(tmp_path / "out" / "composited.mp4")
    mask = decode(tmp_path / "out" / "mask.mp4")[:, 0] > 127
    assert torch.equal(mask, decode(request_.mask).float().mean(1).round() > 127), "the mask is kept without loss"
    spec = small_editor.spec.latents
    wide = unfit_mask(widen(fit_mask(mask, spec.video), spec.mask_policy), (48, 80), spec.video)
    assert background_psnr_db(composited, source, wide) > 40
    changed = (composited.int() - source.int()).abs().float().mean(1)
    assert changed[mask].mean() > 10, "the product is another"
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report
    key = request_key(small_editor, request_, small_editor.spec.edit, "masked")
    assert is_finished(tmp_path / "out", key) and not is_finished(tmp_path / "out", key + "0")
    (tmp_path / "out" / "raw.mp4").write_bytes(b"cut")
    assert not is_finished(tmp_path / "out", key)
    with pytest.raises(FileExistsError, match="--force"):
        edit_video(small_editor, request_, tmp_path / "out")


def test_before_encoding_the_background_is_the_sources_bytes(small_editor, request_, tmp_path, monkeypatch):
    """What is handed to the encoder, and the same whatever the seed of another run leaves outside."""
    written = {}

    def add(writer, frames):
        written.setdefault(writer.path.stem, []).append(frames.clone())

    monkeypatch.setattr("pvtt_model.data.mp4_writer.Mp4Writer.add", add)
    monkeypatch.setattr("pvtt_model.editing.video_edit.sha256_of_file", lambda path: "")
    edit_video(small_editor, request_, tmp_path / "out")
    composited, mask = torch.cat(written["composited"]), torch.cat(written["mask"])[:, 0] > 127
    source, spec = decode(request_.video), small_editor.spec.latents
    wide = unfit_mask(widen(fit_mask(mask, spec.video), spec.mask_policy), (48, 80), spec.video)
    outside = ~wide[:, None].expand_as(source)
    assert composited.shape == source.shape and torch.equal(composited[outside], source[outside])


def test_nothing_is_left_of_an_edit_that_fails(small_editor, request_, tmp_path):
    hot = small_editor.spec.edit.model_copy(update={"guidance_reference": 1e38, "guidance_text": 1e38})
    with pytest.raises(FloatingPointError):
        edit_video(small_editor, request_, tmp_path / "out", edit=hot)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_no_words_are_needed(small_editor, request_, tmp_path):
    report = edit_video(small_editor, request_._replace(prompt="", num_frames=5), tmp_path / "out")
    assert report["video"]["num_frames"] == 5 and probe(tmp_path / "out" / "composited.mp4").num_frames == 5


@pytest.mark.parametrize("collage", ["paste", "beside"])
def test_from_a_first_frame(small_editor, request_, tmp_path, collage):
    report = edit_from_first_frame(small_editor, request_, tmp_path / "out", collage=collage)
    facts = probe(tmp_path / "out" / "raw.mp4")
    assert facts.num_frames == report["frames"] == 5 - report["transition_frames"] and (facts.width, facts.height, facts.fps) == (80, 48, 12)
    assert is_finished(tmp_path / "out", request_key(small_editor, request_, small_editor.spec.edit, f"first-frame {collage}"))


def test_the_first_frame_is_kept_and_the_others_are_made(small_editor, request_):
    opened = open_request(request_, small_editor.spec)
    first = first_frame(small_editor, request_, opened, "paste")
    inputs = first_frame_inputs(small_editor, request_, opened, first, 5)
    channels = small_editor.vae.channels
    assert not inputs.made_FHW[0].any() and inputs.made_FHW[1].all()
    alone = small_editor.vae.encode((first.float() / 127.5 - 1)[None, :, None])[0]
    torch.testing.assert_close(inputs.control_MFHW[:channels, :1], alone, rtol=1e-3, atol=1e-3)
