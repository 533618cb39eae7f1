"""A real clip through `pvtt edit` with the shipped nano weights: not pretty, but background, size, length and rate must be right."""

from __future__ import annotations

import json

import pytest
import torch
import typer
from typer.testing import CliRunner

from cli.edit import edit
from pvtt_model.curation.mask_policy import widen
from pvtt_model.data.video_io import decode, fit_mask, probe, unfit_mask
from pvtt_model.evaluation.background_psnr import background_psnr_db
from pvtt_model.specs import EditorSpec

FRAMES = 22  # two windows of 17, the second of which begins within the first


@pytest.mark.slow
def test_mug_pour(shared_data, tmp_path):
    app = typer.Typer()
    app.command()(edit)
    video, mask = shared_data / "videos" / "mug_pour.mp4", shared_data / "videos" / "mug_pour_mask.mp4"
    args = ["--video", video, "--mask", mask, "--reference", shared_data / "products/can/00.jpg", "--prompt", "A can on a white table."]
    out, store = tmp_path / "out", tmp_path / "store"
    answer = CliRunner().invoke(app, [str(a) for a in (*args, "--untrained", "--frames", FRAMES, "--out", out, "--store", store)])
    assert answer.exit_code == 0, answer.output
    facts = probe(out / "composited.mp4")
    assert facts == probe(video)._replace(num_frames=FRAMES) and facts == probe(out / "raw.mp4") == probe(out / "mask.mp4")
    report = json.loads((out / "report.json").read_text())
    assert [w["start"] for w in report["windows"]] == [0, 5] and report["warnings"] == []
    latents = EditorSpec.model_validate(report["settings"]).latents
    product = decode(out / "mask.mp4")[:, 0] > 127
    wide = unfit_mask(widen(fit_mask(product, latents.video), latents.mask_policy), (480, 832), latents.video)
    source, edited = decode(video, FRAMES), decode(out / "composited.mp4")
    assert background_psnr_db(edited, source, wide) > 40
    assert (edited.int() - source.int()).abs().float().mean(1)[product].mean() > 10, "the mug is gone"
    assert torch.equal(product, decode(mask, FRAMES).float().mean(1).round() > 127)
