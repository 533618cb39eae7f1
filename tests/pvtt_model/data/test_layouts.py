"""Drafted manifests: what is found, what each field is said to be from, and what is refused rather than invented."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from pvtt_model.data.ingest import inspect
from pvtt_model.data.layouts import draft, layout_of, write_draft
from pvtt_model.data.listing import is_mask
from pvtt_model.data.refusals import Refusal
from pvtt_model.data.source import read_source
from pvtt_model.specs import ClipSpec, VideoSpec

VIDEO, SPEC = VideoSpec(width=64, height=48, num_frames=9), ClipSpec()
MP4 = b"\0\0\0\x20ftypisom" + b"\0" * 20


def put(root: Path, *names: str, content: bytes | None = None) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content or (b"x" if name.endswith(("png", "jpg")) else MP4))


def by_video(found: Any) -> dict[str, Any]:
    return {line["video_path"]: line for line in found.lines}


def test_a_folder_of_videos(tmp_path: Path) -> None:
    put(tmp_path, "blue mug on table.mp4", "blue mug on table.jpg", "IMG_0123.MOV", "mugs/red/a.mkv", "mugs/red/a_mask.mp4", "mugs/red/a_1.png")
    put(
        tmp_path, "mugs/red/a_10.jpg", "mugs/red/a_10.mp4", "masks/IMG_0123/00000.png", "named wrongly.dat", "two.mp4", "two_mask.mp4", "two-mask.mp4"
    )
    put(tmp_path, ".hidden.mp4", "notes.pdf", "photo.heic", "stray.png", content=b"x")
    (tmp_path / "mugs" / "red" / "a.txt").write_text("\ufeffA red mug,\n steaming. \n")
    (tmp_path / "link").symlink_to(tmp_path.parent)
    (tmp_path / "out.mp4").symlink_to("/etc/hostname")
    found = draft(tmp_path)
    assert found == draft(tmp_path) and found.layout == "videos" == layout_of(tmp_path)
    lines = by_video(found)
    assert list(lines) == [
        "IMG_0123.MOV", "blue mug on table.mp4", "named wrongly.dat", "out.mp4", "two.mp4", "mugs/red/a.mkv", "mugs/red/a_10.mp4",
    ]  # fmt: skip
    mug, camera, red = lines["blue mug on table.mp4"], lines["IMG_0123.MOV"], lines["mugs/red/a.mkv"]
    assert (mug["text_prompt"], mug["reference_image"], mug["mask_path"]) == ("blue mug on table", ["blue mug on table.jpg"], None)
    said = {"reference_image": "pictures of the video's name", "mask_path": "not there", "text_prompt": "the file name"}
    assert mug["metadata"]["provenance"] == said | dict.fromkeys(("resolution", "fps", "num_frames"), "the file, at ingest")
    assert (camera["text_prompt"], camera["reference_image"], camera["mask_path"]) == (None, None, "masks/IMG_0123")
    assert (red["text_prompt"], red["reference_image"], red["mask_path"]) == ("A red mug, steaming.", ["mugs/red/a_1.png"], "mugs/red/a_mask.mp4")
    assert red["metadata"]["product_id"] == "mugs/red" and red["metadata"]["provenance"]["product_id"] == "the folder"
    assert red["metadata"]["provenance"]["text_prompt"] == "a.txt" and lines["mugs/red/a_10.mp4"]["reference_image"] == ["mugs/red/a_10.jpg"]
    assert lines["two.mp4"]["mask_path"] is None and lines["two.mp4"]["metadata"]["provenance"]["mask_path"].startswith("several: two")
    over = dict(found.passed_over)
    assert list(over) == ["link", "notes.pdf", "photo.heic", "stray.png", "two-mask.mp4", "two_mask.mp4"] and "link to a folder" in over["link"]


def test_names_that_no_manifest_can_hold_are_said(tmp_path: Path) -> None:
    put(tmp_path, "a\\b.mp4", "new\nline.mp4", "ü" * 120 + ".mp4", "日本語 の 動画.mp4")
    with open(os.path.join(os.fsencode(tmp_path), b"\xff\xfe.mp4"), "wb") as file:
        file.write(MP4)
    found = draft(tmp_path)
    assert sorted(by_video(found)) == ["ü" * 120 + ".mp4", "日本語 の 動画.mp4"]
    assert len(found.passed_over) == 3 and all("rename the file" in why for _, why in found.passed_over)
    assert [json.loads(line)["video_path"] for line in found.text().splitlines()] == [line["video_path"] for line in found.lines]


def test_one_folder_a_sample(tmp_path: Path) -> None:
    put(tmp_path, "mug/s1/video.mp4", "mug/s1/mask.mp4", "mug/s1/ref_1.png", "mug/s1/side.jpg", "mug/s2/clip.mp4", "mug/s2/masks/00000.png")
    put(
        tmp_path,
        "mug/s2/frames/00000.png",
        "mug/s2/references/00.png",
        "mug/s2/references/a.png",
        "s3/v.webm",
        "s3/mask.png",
        "s3/p.jpg",
        "s4/one.mp4",
        "s4/two.mp4",
        "s4/p.png",
    )
    (tmp_path / "mug" / "s1" / "prompt.txt").write_text("A mug.")
    (tmp_path / "s3" / "prompt.txt").write_text(" \n")
    assert layout_of(tmp_path) == "samples"
    found = draft(tmp_path)
    lines = by_video(found)
    first, second = lines["mug/s1/video.mp4"], lines["mug/s2/clip.mp4"]
    assert (first["reference_image"], first["mask_path"], first["text_prompt"]) == (
        ["mug/s1/ref_1.png", "mug/s1/side.jpg"],
        "mug/s1/mask.mp4",
        "A mug.",
    )
    assert first["metadata"]["product_id"] == "mug" and first["metadata"]["provenance"]["product_id"] == "the folder above the sample's"
    assert (second["reference_image"], second["mask_path"], second["text_prompt"]) == (
        ["mug/s2/references/00.png", "mug/s2/references/a.png"],
        "mug/s2/masks",
        None,
    )
    assert lines["s3/v.webm"]["text_prompt"] is None and "product_id" not in lines["s3/v.webm"]["metadata"]
    assert lines["s4/one.mp4"]["reference_image"] is None, "of two videos nobody can say whose the picture is"
    assert {file for file, _ in found.passed_over} == {"s4/p.png", "mug/s2/frames/00000.png"}
    assert draft(tmp_path, "videos").layout == "videos"
    with pytest.raises(ValueError, match="no layout 'sample'. Valid: manifest, pushed, benchmark"):
        draft(tmp_path, "sample")  # type: ignore[arg-type]


def benchmark(folder: Any) -> Path:
    """Two tasks on one video and one on another, real files, and three that cannot be done."""
    at = folder.path.parent / "bench"
    (at / "videos").mkdir(parents=True)
    shutil.copy(folder.path / "good.mp4", at / "videos" / "cup.mp4")
    shutil.copy(folder.path / folder.video("bag.mp4", 3), at / "videos" / "bag.mp4")
    shutil.copytree(folder.path / "masks", at / "masks" / "cup")
    shutil.copytree(folder.path / "masks", at / "masks" / "bag")
    for name in ("vase_1.png", "vase_2.png", "twice.png", "bags/twice.png"):
        put(at / "product_images", name, content=(folder.path / "p.png").read_bytes())
    size = {"video_width": 64, "video_height": 48}

    def task(n: int, video: Any, image: Any, **more: Any) -> dict[str, Any]:
        prompts = {"source_prompt": "A cup.", "target_prompt": "A blue vase.", "target_object": "blue vase"}
        return {"id": n, "video_name": video, "inference_image_id": image, "instruction": "swap", **prompts, **size, **more}

    bad = [task(4, "none", "vase_1"), task(5, "cup", "twice"), task(6, None, "vase_1")]
    tasks = [task(1, "cup", "vase_1"), task(2, "cup", "vase_2"), task(3, "bag.mp4", "vase_1", target_object="red vase"), *bad]
    (at / "tasks.json").write_text(json.dumps({"version": 1, "tasks": tasks}))
    return at


def test_the_benchmark_is_held_out_task_by_task(folder: Any, no_fetch: Any, tmp_path: Path) -> None:
    at = benchmark(folder)
    assert layout_of(at) == "benchmark" == layout_of(at / "tasks.json")
    scan = read_source(at, str(at), SPEC, no_fetch, tmp_path / "drafts")
    assert scan.draft is not None and scan.draft.parent == tmp_path / "drafts" and len(scan.draft.read_text().splitlines()) == 6
    again = read_source(at / "tasks.json", str(at / "tasks.json"), SPEC, no_fetch, tmp_path / "drafts")
    assert again.fingerprint == scan.fingerprint and again.draft == scan.draft
    assert [(r.line, r.kind) for r in scan.refusals] == [(4, "missing_video"), (5, "no_reference"), (6, "wrong_type")]
    rows = [inspect(line, SPEC, VIDEO)[0] for line in scan.lines]
    assert not any(isinstance(r, Refusal) for r in rows), rows
    assert len({r["clip_key"] for r in rows}) == 3, "two tasks on one video are two clips"  # type: ignore[index]
    first, _, third = rows
    facts = ("split", "product_id", "prompt", "product_words", "width", "num_frames", "mask_format")
    assert [first[f] for f in facts] == ["eval", "vase_1", "A blue vase.", "blue vase", 64, 9, "png"]  # type: ignore[index]
    assert third["product_words"] is None, "'red vase' is not in the prompt"  # type: ignore[index]
    kept = json.loads(first["metadata"])  # type: ignore[index]
    assert kept["benchmark_task"] == "1" and kept["instruction"] == "swap" and kept["provenance"]["text_prompt"] == "target_prompt"


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": [], "b": []}', "3", "[" * 100_000])
def test_a_json_that_is_no_benchmark_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(ValueError, match="t.json .* Give a JSON list of tasks"):
        draft(tmp_path / "t.json")


def test_a_draft_is_ingested_or_refused_by_what_is_there(folder: Any, no_fetch: Any, tmp_path: Path) -> None:
    at = tmp_path / "in"
    at.mkdir()
    for name in ("cup on a table.mp4", "IMG_1.mp4", "cup without picture.mp4"):
        shutil.copy(folder.path / folder.video(f"{len(name)}.mp4", len(name)), at / name)
    for name in ("cup on a table.png", "IMG_1.png"):
        shutil.copy(folder.path / "p.png", at / name)
    scan = read_source(at, str(at), SPEC, no_fetch, tmp_path / "drafts")
    assert [(r.source, r.kind) for r in scan.refusals] == [("IMG_1.mp4", "no_prompt"), ("cup without picture.mp4", "no_reference")]
    (row,) = [inspect(line, SPEC, VIDEO)[0] for line in scan.lines]
    assert not isinstance(row, Refusal), row
    assert (row["prompt"], row["width"], row["height"], row["fps"], row["num_frames"]) == ("cup on a table", 64, 48, 16.0, 9)
    (at / "manifest.jsonl").write_text(draft(at).text().replace('"text_prompt": null', '"text_prompt": "Eine Tasse."'))
    corrected = read_source(at, str(at), SPEC, no_fetch, tmp_path / "drafts")
    assert scan.draft is not None
    scan.draft.write_text("changed\n")
    with pytest.raises(ValueError, match="Copy it to .*in/manifest.jsonl, which then counts"):
        read_source(shutil.copytree(at, tmp_path / "again" / "in", ignore=lambda *_: ["manifest.jsonl"]), "x", SPEC, no_fetch, tmp_path / "drafts")
    assert corrected.draft is None, "a manifest in the folder is taken as it is"
    assert [r.kind for r in corrected.refusals] == ["no_reference"] and len(corrected.lines) == 2


def test_a_corrected_draft_is_not_written_over(tmp_path: Path) -> None:
    write_draft("a\n", tmp_path / "d" / "m.jsonl")
    write_draft("a\n", tmp_path / "d" / "m.jsonl")
    with pytest.raises(FileExistsError, match="Correct that file"):
        write_draft("b\n", tmp_path / "d" / "m.jsonl")
    assert [p.name for p in (tmp_path / "d").iterdir()] == ["m.jsonl"]


def test_the_shared_videos_are_drafted_with_their_masks(shared_data: Path) -> None:
    found = draft(shared_data / "videos")
    assert [(line["video_path"], line["mask_path"], line["text_prompt"]) for line in found.lines] == [
        ("mug_pour.mp4", "mug_pour_mask.mp4", "mug pour"),
        ("red_cups.mp4", "red_cups_mask.mp4", "red cups"),
    ]
    assert all(line["reference_image"] is None for line in found.lines) and not found.passed_over


@pytest.mark.parametrize(
    ("name", "mask"), [("matte-black-bottle.mp4", False), ("mask sheet.mp4", False), ("mug_mask.mp4", True), ("masks/mug.mp4", True)]
)
def test_a_first_word_makes_no_mask(name: str, mask: bool) -> None:
    assert is_mask(name) is mask
