"""The published protocol with its faults, and without: on videos whose right answer is known."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from pvtt_model.backbones.clip import load_clip
from pvtt_model.backbones.image import load_image_encoder
from pvtt_model.data.video_io import write_mp4
from pvtt_model.evaluation.benchmark.align import align
from pvtt_model.evaluation.benchmark.columns import COLUMNS, columns_of, shown_name
from pvtt_model.evaluation.benchmark.embeddings import Networks, middle_square
from pvtt_model.evaluation.benchmark.table import judge_tasks, summary, write_csv, write_summary
from pvtt_model.evaluation.benchmark.task_files import Task, TaskFrames, category_of, read_frames, read_tasks
from pvtt_model.evaluation.benchmark.task_metrics import all_pairs, task_row
from pvtt_model.evaluation.benchmark.uniform_ssim import uniform_ssim
from pvtt_model.nano.shipped import FOLDER, shipped
from pvtt_model.specs import ModelSpec

TASK = Task("0016-bracelet1_to_bracelet3", "0016-bracelet1", "b3.png", "a red ring", "a green box", "0016")
SIZE = (48, 80)


@pytest.fixture(scope="module")
def networks() -> Networks:
    return Networks(load_clip(shipped("clip", ModelSpec), FOLDER / "clip"), load_image_encoder(shipped("dinov2", ModelSpec), FOLDER / "dinov2"))


def moving(frames: int = 12, height: int = 48, width: int = 80) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """A smooth ground that drifts by 2 px a frame, a product that moves with it, and its masks."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 8, 20, generator=generator) * 150 + 40
    wide = torch.nn.functional.interpolate(coarse, size=(height, width + 2 * frames), mode="bicubic")[0].clamp(0, 255)
    video = torch.stack([wide[:, :, 2 * t : 2 * t + width] for t in range(frames)]).to(torch.uint8)
    masks = []
    for t in range(frames):
        mask = torch.zeros(height, width, dtype=torch.bool)
        mask[10:26, 50 - 2 * t : 66 - 2 * t] = True
        video[t][:, mask] = torch.tensor([20, 200, 20], dtype=torch.uint8)[:, None]
        masks.append(mask)
    return video, tuple(masks)


def perfect(**changes: object) -> TaskFrames:
    """An edit that is its source, frame for frame."""
    video, masks = moving()
    reference = torch.zeros(4, 20, 30, dtype=torch.uint8)
    reference[1], reference[3, 4:16, 4:26] = 200, 255
    found = TaskFrames(video, video, masks, reference, None, 16.0, 16.0)
    return found._replace(**changes)


def test_a_perfect_edit_is_perfect_only_where_frames_are_aligned(networks) -> None:
    compat, fixed = (task_row(TASK, perfect(), networks, mode, size=SIZE).values for mode in ("compat", "fixed"))
    assert fixed["PSNR"] == 100.0 and fixed["SSIM"] == pytest.approx(1.0) and fixed["EditFid"] == pytest.approx(1.0)
    assert compat["PSNR"] < 30 and compat["EditFid"] < 1.0  # frame 4 stands against frame 0
    assert fixed["StructDist"] < 1e-5 < compat["StructDist"]
    assert fixed["near_static"] == 0.0 and fixed["DynDeg_delta"] == 0.0
    for mode, values in (("compat", compat), ("fixed", fixed)):
        assert set(values) == {column.name for column in columns_of(mode)}
        for column in columns_of(mode):
            value = values[column.name]
            assert value is None or (math.isfinite(value) and column.low - 1e-6 <= value <= column.high + 1e-6), column


def test_fixed_sees_no_product_in_the_background_columns_and_compat_does(networks) -> None:
    video, masks = moving()
    other = video.clone()
    for frame, mask in zip(other, masks, strict=True):
        frame[:, mask] = torch.tensor([230, 30, 200], dtype=torch.uint8)[:, None]
    swapped = perfect(generated_TCHW=other)
    before, after = (task_row(TASK, frames, networks, "fixed", skip=0, size=SIZE).values for frames in (perfect(), swapped))
    for name in ("PSNR", "SSIM", "EditFid", "BgCons", "StructDist"):
        assert after[name] == before[name], name
    assert after["ProdCLIP"] < before["ProdCLIP"]
    assert task_row(TASK, swapped, networks, "compat", skip=0, size=SIZE).values["PSNR"] < 20


def test_a_frozen_edit_tops_the_consistencies_and_is_named(networks) -> None:
    video, _ = moving()
    frozen = perfect(generated_TCHW=video[:1].expand(12, -1, -1, -1))
    row = task_row(TASK, frozen, networks, "fixed", skip=0, size=SIZE).values
    for name in ("MFS", "EditPersist", "TempFlk"):
        assert row[name] == pytest.approx(1.0, abs=1e-5) and row[f"{name}_src"] < 0.9999, name
    assert row["near_static"] == 1.0


def test_alpha_counts_in_fixed_alone(networks) -> None:
    odd = perfect().reference_CHW.clone()
    odd[0, odd[3] == 0] = 255  # a colour under the transparency
    for mode, same in (("fixed", True), ("compat", False)):
        one, other = (task_row(TASK, f, networks, mode, size=SIZE).values["ProdCLIP"] for f in (perfect(), perfect(reference_CHW=odd)))
        assert (one == other) is same, mode


def test_frames_are_found_by_time_and_portrait_stays_portrait() -> None:
    video, masks = moving(12, 80, 48)
    doubled = video.repeat_interleave(2, 0)
    frames = perfect(generated_TCHW=video, source_TCHW=doubled, masks=tuple(m for m in masks for _ in range(2)), source_fps=32.0)
    fixed = align(frames, "fixed", 4, (40, 48))
    assert fixed.source_TCHW.shape == (8, 3, 56, 34) and torch.equal(fixed.source_TCHW, fixed.generated_TCHW)
    compat = align(frames, "compat", 4, (40, 48))
    assert compat.source_TCHW.shape[-2:] == (40, 48) and not torch.equal(compat.source_TCHW, compat.generated_TCHW)
    assert align(perfect(), "compat", 4, (24, 160)).boxes[0] == (5, 13, 100, 132)  # frame 4 of the edit, mask 0
    with pytest.raises(ValueError, match="shown with source frame 22, but the source has 12"):
        align(frames._replace(source_TCHW=video, masks=masks), "fixed", 4)
    with pytest.raises(ValueError, match="11 masks for 12 source frames"):
        align(perfect(masks=masks[:11]), "fixed", 4)
    assert len(align(perfect(masks=masks[:3]), "compat", 4).boxes) == 8  # the last is repeated
    with pytest.raises(ValueError, match="none is left"):
        align(perfect(generated_TCHW=video[:4]), "compat", 4)


def test_uniform_ssim_is_the_formula_window_by_window() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randint(0, 256, (1, 1, 9, 8), generator=generator, dtype=torch.uint8) for _ in range(2))
    values = {}
    for top in range(3):
        for left in range(2):
            x, y = (v[0, 0, top : top + 7, left : left + 7].double().numpy().ravel() for v in (one, other))
            cov = np.cov(x, y)
            over = (2 * x.mean() * y.mean() + 6.5025) * (2 * cov[0, 1] + 58.5225)
            values[top, left] = over / ((x.mean() ** 2 + y.mean() ** 2 + 6.5025) * (cov[0, 0] + cov[1, 1] + 58.5225))
    assert float(uniform_ssim(one, other)) == pytest.approx(np.mean(list(values.values())), rel=1e-9)
    where = torch.ones(1, 9, 8, dtype=torch.bool)
    where[0, 0, 7] = False  # one corner: the window at the top right is out
    wanted = np.mean([v for place, v in values.items() if place != (0, 1)])
    assert float(uniform_ssim(one, other, where)) == pytest.approx(wanted, rel=1e-9)
    with pytest.raises(ValueError, match="no window"):
        uniform_ssim(one, other, ~where)


def test_columns_carry_a_stand_ins_name() -> None:
    named = {"clip": "nano-openclip", "dino": "dinov2-vit-b14", "lpips": "none"}
    names = {c.name: shown_name(c, named) for c in COLUMNS}
    assert names["CLIP_tgt"] == "CLIP_tgt[nano-openclip]" and names["StructDist"] == "StructDist" and names["PSNR"] == "PSNR"
    assert [category_of(i) for i in ("0016-bracelet1_to_bracelet3", "watch2", "0001", "3-hand_fan1")] == ["bracelet", "watch", "unknown", "hand_fan"]
    assert all_pairs(torch.eye(3)) == 0.0 and all_pairs(torch.ones(1, 3)) == 1.0


def test_the_middle_square_is_pils() -> None:
    frame = torch.randint(0, 256, (3, 50, 90), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    square = middle_square(frame, 25, 20)
    image = Image.fromarray(frame.permute(1, 2, 0).numpy()).resize((45, 25), Image.Resampling.BICUBIC).crop((12, 2, 32, 22))
    assert torch.equal((square * 255).round().to(torch.uint8), torch.from_numpy(np.array(image)).permute(2, 0, 1))


def test_a_folder_of_edits_becomes_two_tables_with_every_task(networks, tmp_path) -> None:
    video, masks = moving()
    root, made = tmp_path / "data", tmp_path / "edits"
    for folder in (root / "videos", root / "masks" / "v1", root / "product_images", made / "0016"):
        folder.mkdir(parents=True)
    write_mp4(root / "videos" / "v1.mp4", video, 16.0)
    write_mp4(made / "0016" / "composited.mp4", video, 16.0)
    for number, mask in enumerate(masks):
        Image.fromarray(mask.numpy().astype(np.uint8) * 255).save(root / "masks" / "v1" / f"{number:05d}.png")
    Image.fromarray(np.full((20, 30, 3), (20, 200, 20), np.uint8)).save(root / "product_images" / "b3.png")
    line = {"id": TASK.id, "video_name": "v1", "inference_image_id": "b3.png", "source_prompt": "a red ring", "target_prompt": "a green box"}
    (root / "tasks.json").write_text(json.dumps([{**line, "save_dir": "0016"}, {**line, "id": "0017-watch1_to_watch2", "save_dir": "0017"}]))
    tasks = read_tasks(root / "tasks.json")
    judged = list(judge_tasks(tasks, lambda t: read_frames(root, t, made / t.save_dir / "composited.mp4"), networks, ("compat", "fixed"), size=SIZE))
    assert [(one.task.id[:4], one.mode, one.row is not None) for one in judged] == [
        ("0016", "compat", True), ("0016", "fixed", True), ("0017", "compat", False), ("0017", "fixed", False),
    ]  # fmt: skip
    write_csv(judged, "fixed", networks, tmp_path / "fixed.csv")
    write_summary(judged, "fixed", networks, tmp_path / "fixed.json")
    with (tmp_path / "fixed.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["category"] == "bracelet" and float(rows[0]["PSNR"]) > 30 and rows[0]["LPIPS[none]"] == "" and "no LPIPS" in rows[0]["missing"]
    assert rows[1]["PSNR"] == "" and "there is no video" in rows[1]["missing"]
    said = json.loads((tmp_path / "fixed.json").read_text())
    assert said == summary(judged, "fixed", networks)
    assert (said["tasks"], said["judged"], list(said["not_judged"])) == (2, 1, ["0017-watch1_to_watch2"])
    assert said["per_category"]["bracelet"]["PSNR"]["std"] is None and said["overall"]["PSNR"]["n"] == 1
