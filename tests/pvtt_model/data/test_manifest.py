from __future__ import annotations

import json
import os
import shutil
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch

from pvtt_model.data.ingest import inspect
from pvtt_model.data.locate import mask_frames
from pvtt_model.data.manifest import CheckedLine, read_manifest
from pvtt_model.data.refusals import KINDS, Refusal, Refused
from pvtt_model.data.video_io import png_bytes, png_mask, write_mp4
from pvtt_model.specs import ClipSpec, VideoSpec

VIDEO = VideoSpec(width=64, height=48, num_frames=9)
SPEC = ClipSpec(decode_timeout_s=20)


def bomb_png(side: int) -> bytes:
    """A PNG whose header promises side x side pixels."""
    header = side.to_bytes(4, "big") * 2 + b"\x08\x02\x00\x00\x00"
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(len(d).to_bytes(4, "big") + k + d + zlib.crc32(k + d).to_bytes(4, "big") for k, d in chunks)


def truth(**changes: Any) -> dict[str, Any]:
    return {"product_id": "b", "video_path": "whole.mp4", "mask_path": "masks", **changes}


BAD_CAPTIONS: list[tuple[Any, str]] = [
    ("A mug.", "Give a list"),
    (["A mug."], "Give a list"),
    ({"human": "A mug."}, "Give a list"),
    ([{"text": "A mug."}], "has the fields ['text']"),
    ([{"text": "A mug.", "source": "human", "model": "x"}], "Give a list"),
    ([{"text": 1, "source": "human"}], "Give a list"),
    ([{"text": "A mug.", "source": "human", "fallback": "no"}], "Give a list"),
    ([{"text": "A mug.", "source": "human"}, {"text": " ", "source": "human"}], "caption 2 of metadata.captions has an empty text"),
    ([{"text": "A mug.", "source": "qwen2.5-vl-7b"}], "NAME@REVISION"),
    ([{"text": "A mug.", "source": "qwen2.5-vl-7b@"}], "NAME@REVISION"),
    ([{"text": "A mug.", "source": "qwen2.5-vl-7b@main"}], "main, master, latest, head move"),
    ([{"text": "A mug.", "source": ""}], "Write 'human'"),
]


def bad_lines(folder: Any) -> list[tuple[str, Any, str]]:
    """(kind, line, a word of its cure)"""
    at: Path = folder.path
    (at.parent / "outside.mp4").write_bytes((at / "good.mp4").read_bytes())
    os.symlink(at.parent / "outside.mp4", at / "link.mp4")
    (at / "empty.mp4").touch()
    (at / "a_folder").mkdir()
    (at / "noise.mp4").write_bytes(bytes(range(256)) * 40)
    (at / "playlist.mp4").write_bytes(b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n/etc/hostname\n")
    whole = (at / folder.video("whole.mp4", 50)).read_bytes()
    (at / "truncated.mp4").write_bytes(whole[: int(len(whole) * 0.6)])
    shutil.copy(at / "good.mp4", at / "copy.mp4")
    (at / "text.jpg").write_text("not a picture")
    (at / "bomb.png").write_bytes(bomb_png(30000))
    shutil.copytree(at / "masks", at / "masks_gap")
    (at / "masks_gap" / "00004.png").unlink()
    shutil.copytree(at / "masks", at / "masks_bad")
    (at / "masks_bad" / "00003.png").write_bytes(b"x")
    write_mp4(at / "tiny.mp4", torch.zeros(9, 3, 16, 16, dtype=torch.uint8), 16)
    seed = iter(range(100, 200))

    def fresh(**changes: Any) -> dict[str, Any]:
        n = next(seed)
        return folder.line(video_path=folder.video(f"v{n}.mp4", n), **changes)

    without = folder.line()
    del without["text_prompt"]
    return [
        ("not_json", '{"video_path": ', "Write one JSON"),
        ("not_json", '{"video_path": NaN}', "Write one JSON"),
        ("not_json", '{"a": 1, "a": 2}', "Write one JSON"),
        ("not_json", "[" * 100_000, "Write one JSON"),
        ("not_object", "[1, 2]", "object"),
        ("unknown_field", folder.line(prompt="x"), "Valid"),
        ("missing_field", without, "Add it"),
        ("missing_field", folder.line(metadata={}) | {"metadata": {"fps": 16}}, "Add resolution"),
        ("wrong_type", folder.line(reference_image=[]), "must be"),
        ("wrong_type", folder.line(metadata={"num_frames": "9"}), "must be"),
        ("bad_value", folder.line(metadata={"split": "test"}), "Use 'train'"),
        ("bad_value", folder.line(metadata={"product_words": "blue square"}), "letter by letter"),
        ("bad_value", folder.line(metadata={"product_words": " "}), "leave the field out"),
        ("wrong_type", folder.line(metadata={"product_words": ["red square"]}), "must be"),
        ("bad_value", folder.line(metadata={"look_alikes": ""}), "leave the field out"),
        ("wrong_type", folder.line(metadata={"truth": "t.mp4"}), "must be"),
        ("bad_value", folder.line(metadata={"truth": {"product_id": "b", "video_path": "whole.mp4"}}), "no others"),
        ("bad_value", folder.line(metadata={"truth": truth(note="x")}), "no others"),
        ("bad_value", folder.line(metadata={"truth": truth(product_id="")}), "Name the product"),
        ("wrong_type", folder.line(metadata={"truth": truth(video_path=None)}), "must be"),
        ("path_trick", fresh(metadata={"truth": truth(video_path="../outside.mp4")}), "Put the manifest"),
        ("path_trick", fresh(metadata={"truth": truth(mask_path="link.mp4")}), "allow_outside_root"),
        ("missing_video", fresh(metadata={"truth": truth(video_path="none.mp4")}), "correct the path"),
        ("missing_mask", fresh(metadata={"truth": truth(mask_path="none")}), "correct the path"),
        ("empty_file", fresh(metadata={"truth": truth(video_path="empty.mp4")}), "Copy it again"),
        ("mask_numbering", fresh(metadata={"truth": truth(mask_path="masks_gap")}), "Number the masks"),
        ("split_conflict", fresh(metadata={"product_id": "cup", "split": "validation"}), "Choose one"),
        ("unreadable_video", fresh(metadata={"truth": truth(video_path="truncated.mp4")}), "truth: "),
        ("size_mismatch", fresh(metadata={"truth": truth(video_path="tiny.mp4")}), "truth is 16x16"),
        ("fps_mismatch", fresh(metadata={"truth": truth(video_path=folder.video("slow.mp4", 70, fps=8))}), "truth has 8.000"),
        ("frame_count_mismatch", fresh(metadata={"truth": truth(video_path=folder.video("long.mp4", 71, 10))}), "frame by frame"),
        ("mask_frame_count", fresh(metadata={"truth": truth(mask_path=folder.masks("masks7", 7))}), "truth: mask has 7"),
        ("mask_size", fresh(metadata={"truth": truth(mask_path=folder.masks("masks_low", 9, crop=4))}), "truth: mask is"),
        ("unreadable_mask", fresh(metadata={"truth": truth(mask_path="masks_bad")}), "truth: mask of frame 3"),
        ("unreadable_mask", fresh(metadata={"truth": truth(mask_path="noise.mp4")}), "truth: mask"),
        ("bad_value", folder.line(metadata={"fps": 0}), "above 0"),
        ("bad_prompt", folder.line(text_prompt="  "), "Describe"),
        ("no_prompt", folder.line(text_prompt=None), "Describe the product"),
        ("no_reference", folder.line(reference_image=None), "Put a picture"),
        *[("bad_caption", folder.line(metadata={"captions": captions}), cure) for captions, cure in BAD_CAPTIONS],
        ("bad_value", folder.line(metadata={"benchmark_task": "1", "split": "train"}), "set split to 'eval'"),
        ("wrong_type", folder.line(metadata={"benchmark_task": 1, "split": "eval"}), "must be"),
        ("path_trick", folder.line(video_path="../outside.mp4"), "Put the manifest"),
        ("path_trick", folder.line(video_path=str(at.parent / "outside.mp4")), "allow_outside_root"),
        ("path_trick", folder.line(video_path="link.mp4"), "allow_outside_root"),
        ("path_trick", folder.line(video_path="file:///etc/passwd"), "Use a path"),
        ("path_trick", folder.line(reference_image="http://example.com/p.png"), "Use a path"),
        ("path_trick", folder.line(video_path="s3://bucket/../other/v.mp4"), "Put the manifest"),
        ("missing_video", folder.line(video_path="none.mp4"), "correct the path"),
        ("missing_video", folder.line(video_path="a" * 5000), "correct the path"),
        ("missing_video", folder.line(video_path="a_folder"), "Name the file"),
        ("missing_reference", fresh(reference_image=["p.png", "none.png"]), "correct the path"),
        ("missing_mask", fresh(mask_path="none"), "correct the path"),
        ("empty_file", folder.line(video_path="empty.mp4"), "Copy it again"),
        ("mask_numbering", fresh(mask_path="masks_gap"), "Number the masks"),
        ("duplicate", folder.line(video_path="copy.mp4"), "Remove one"),
        ("split_conflict", fresh(metadata={"product_id": "cup", "split": "eval"}), "Choose one"),
        ("unreadable_video", folder.line(video_path="noise.mp4"), "Re-encode"),
        ("unreadable_video", folder.line(video_path="playlist.mp4"), "Re-encode"),
        ("unreadable_video", folder.line(video_path="truncated.mp4"), "Re-encode"),
        ("too_short", folder.line(video_path=folder.video("short.mp4", 60, 5), metadata={"num_frames": 5}, mask_path=None), "longer clip"),
        ("too_small", folder.line(video_path="tiny.mp4", metadata={"resolution": [16, 16]}, mask_path=None), "larger one"),
        ("size_mismatch", fresh(metadata={"resolution": [48, 64]}), "Correct"),
        ("fps_mismatch", fresh(metadata={"fps": 24}), "Correct"),
        ("frame_count_mismatch", fresh(metadata={"num_frames": 10}), "Correct"),
        ("mask_frame_count", fresh(mask_path=folder.masks("masks8", 8)), "none is padded"),
        ("mask_size", fresh(mask_path=folder.masks("masks_small", 9, crop=2)), "video's size"),
        ("unreadable_mask", fresh(mask_path="masks_bad"), "Save it"),
        ("unreadable_mask", fresh(mask_path="noise.mp4"), "Re-encode"),
        ("unreadable_reference", fresh(reference_image="text.jpg"), "Save it"),
        ("unreadable_reference", fresh(reference_image=["p.png", "bomb.png"]), "Scale it down"),
    ]


def test_every_bad_line_is_refused_with_its_own_kind_and_cure(folder: Any, no_fetch: Any) -> None:
    bad = bad_lines(folder)
    good = [folder.line(metadata={"product_id": "cup", "split": "train", "shop": {"sku": 7}})]
    write_mp4(folder.path / "mask.mp4", torch.zeros(9, 3, 48, 64, dtype=torch.uint8), 16)
    good.append(folder.line(video_path=folder.video("g2.mp4", 2), mask_path="mask.mp4", reference_image=["p.png", "p.png"]))
    good.append(folder.line(video_path=folder.video("g3.mp4", 3), mask_path=None))
    path = folder.manifest([good[0], *[line for _, line, _ in bad], "", *good[1:]])
    scan = read_manifest(path, str(path), SPEC, no_fetch)
    results = [inspect(line, SPEC, VIDEO)[0] for line in scan.lines]
    refusals = {r.line: r for r in (*scan.refusals, *(r for r in results if isinstance(r, Refusal)))}
    rows = [r for r in results if not isinstance(r, Refusal)]

    assert [(r["source"], r["mask_format"], len(r["mask"])) for r in rows] == [("good.mp4", "png", 9), ("g2.mp4", "video", 1), ("g3.mp4", "none", 0)]
    assert sorted(refusals) == list(range(2, 2 + len(bad)))
    for number, (kind, line, cure) in enumerate(bad, 2):
        refusal = refusals[number]
        assert refusal.kind == kind, refusal
        assert cure in refusal.reason and len(refusal.reason) < 500 or len(str(line)) > 1000, refusal
        assert str(folder.path) not in refusal.reason or str(folder.path.parent) in str(line), "a reason holds no path of this machine"
        if isinstance(line, dict):
            assert refusal.source == line["video_path"]
    kinds = {kind for kind, _, _ in bad}
    assert kinds == set(KINDS) - {"changed", "decode_timeout", "variable_rate", "no_times", "shot_cut", "leaks_evaluation"} and len(kinds) >= 12


def test_outside_root_is_allowed_when_asked(folder: Any, no_fetch: Any) -> None:
    outside = folder.path.parent / "outside.mp4"
    shutil.copy(folder.path / "good.mp4", outside)
    path = folder.manifest([folder.line(video_path=str(outside))])
    scan = read_manifest(path, str(path), ClipSpec(allow_outside_root=True), no_fetch)
    assert not scan.refusals and scan.lines[0].video_path == str(outside)


def test_a_file_that_changes_after_the_scan_is_refused(folder: Any, no_fetch: Any) -> None:
    path = folder.manifest([folder.line()])
    line = read_manifest(path, str(path), SPEC, no_fetch).lines[0]
    folder.video("good.mp4", 9)
    refusal = inspect(line, SPEC, VIDEO)[0]
    assert isinstance(refusal, Refusal) and refusal.kind == "changed"


def test_fingerprint_follows_content_not_place_or_date(folder: Any, no_fetch: Any, tmp_path: Path) -> None:
    lines = [folder.line(), "broken", folder.line(video_path="none.mp4")]

    def scan(at: Path) -> str:
        return read_manifest(at / "manifest.jsonl", str(at / "manifest.jsonl"), SPEC, no_fetch).fingerprint

    folder.manifest(lines)
    first = scan(folder.path)
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder.path, moved)
    os.utime(moved / "good.mp4", (1, 1))
    assert scan(moved) == first
    (moved / "p.png").write_bytes(png_bytes(torch.zeros(3, 32, 32, dtype=torch.uint8)))
    assert scan(moved) != first
    folder.manifest([folder.line(text_prompt="another"), *lines[1:]])
    assert scan(folder.path) != first
    folder.manifest(lines[:2])
    assert scan(folder.path) != first


def test_a_manifest_in_a_bucket_fetches_beside_itself(folder: Any) -> None:
    asked: list[str] = []

    def fetch(uri: str) -> Path:
        asked.append(uri)
        if "none" in uri:
            raise KeyError(uri)
        return folder.path / uri.removeprefix("s3://bucket/set/").removeprefix("s3://other/")

    path = folder.manifest(
        [folder.line(), folder.line(video_path="s3://other/none.mp4"), folder.line(video_path="/etc/hostname"), folder.line(mask_path="none.mp4")]
    )
    scan = read_manifest(path, "s3://bucket/set/manifest.jsonl", SPEC, fetch)
    assert len(scan.lines) == 1 and [r.kind for r in scan.refusals] == ["missing_video", "path_trick", "missing_mask"]
    assert "s3://bucket/set/masks/" in asked and "s3://bucket/set/good.mp4" in asked


def test_a_truth_is_kept_beside_its_clip(folder: Any, no_fetch: Any) -> None:
    write_mp4(folder.path / "mask.mp4", torch.full((9, 3, 48, 64), 255, dtype=torch.uint8), 16)
    folder.video("right.mp4", 5)
    told = {"split": "eval", "product_words": "red square", "look_alikes": "red", "product_id": "a"}
    lines = [
        folder.line(metadata=told | {"truth": truth(video_path="right.mp4")}),
        folder.line(video_path=folder.video("v2.mp4", 2), metadata={"truth": truth(video_path="right.mp4", mask_path="mask.mp4")}),
        folder.line(video_path=folder.video("v3.mp4", 3)),
    ]
    path = folder.manifest(lines)
    scan = read_manifest(path, str(path), SPEC, no_fetch)
    rows: list[Any] = [inspect(line, SPEC, VIDEO)[0] for line in scan.lines]
    assert not scan.refusals and not any(isinstance(r, Refusal) for r in rows), (scan.refusals, rows)
    assert [r["truth_product_id"] for r in rows] == ["b", "b", None] and rows[2]["truth_video"] is rows[2]["truth_mask"] is None
    assert (rows[0]["product_words"], rows[0]["look_alikes"], rows[0]["split"]) == ("red square", "red", "eval")
    assert rows[0]["truth_video"] == rows[1]["truth_video"] == (folder.path / "right.mp4").read_bytes()
    assert rows[0]["truth_mask"] == rows[0]["mask"]
    assert len(rows[1]["truth_mask"]) == 9 and all(png_mask(m).all() for m in rows[1]["truth_mask"])
    assert [r["product_words"] for r in rows[1:]] == [None, None]

    fingerprint = scan.fingerprint
    folder.video("right.mp4", 6)
    assert read_manifest(path, str(path), SPEC, no_fetch).fingerprint != fingerprint
    changed = inspect(scan.lines[0], SPEC, VIDEO)[0]
    assert isinstance(changed, Refusal) and changed.kind == "changed"


def test_a_network_fault_is_not_a_refusal(folder: Any) -> None:
    def fetch(uri: str) -> Path:
        raise ConnectionError("reset")

    path = folder.manifest([folder.line(video_path="s3://bucket/v.mp4")])
    with pytest.raises(ConnectionError):
        read_manifest(path, str(path), SPEC, fetch)


def test_missing_manifest_says_so(tmp_path: Path, no_fetch: Any) -> None:
    with pytest.raises(FileNotFoundError, match="no manifest"):
        read_manifest(tmp_path / "none.jsonl", "", SPEC, no_fetch)


def test_product_id_defaults_to_the_first_reference(folder: Any, no_fetch: Any) -> None:
    path = folder.manifest([folder.line()])
    line: CheckedLine = read_manifest(path, str(path), SPEC, no_fetch).lines[0]
    assert line.product_id == "ref-" + line.reference_sha256[0][:12]
    row = inspect(line, SPEC, VIDEO)[0]
    assert not isinstance(row, Refusal) and json.loads(row["metadata"]) == line.metadata


def test_real_clips_with_masks_are_accepted(shared_data: Path, folder: Any, no_fetch: Any) -> None:
    lines = [
        {
            "video_path": str(shared_data / "videos" / f"{name}.mp4"),
            "reference_image": [str(p) for p in sorted((shared_data / "products" / product).glob("*.jpg"))[:2]],
            "mask_path": str(shared_data / "videos" / f"{name}_mask.mp4"),
            "text_prompt": name,
            "metadata": {"resolution": [832, 480], "fps": 15, "num_frames": 81},
        }
        for name, product in (("mug_pour", "teapot"), ("red_cups", "can"))
    ]
    path = folder.manifest(lines)
    scan = read_manifest(path, str(path), ClipSpec(allow_outside_root=True), no_fetch)
    assert not scan.refusals
    for line in scan.lines:
        row = inspect(line, ClipSpec(allow_outside_root=True), VideoSpec())[0]
        assert not isinstance(row, Refusal), row
        assert (row["width"], row["height"], row["num_frames"], row["fps"]) == (832, 480, 81, 15.0)


def test_what_may_lie_in_a_mask_folder(tmp_path: Path) -> None:
    masks, second = tmp_path / "masks", tmp_path / "masks" / "00001.png"
    masks.mkdir()
    (masks / "00000.png").write_bytes(b"x")
    (tmp_path / "outside.png").write_bytes(b"x")
    second.symlink_to("00000.png")
    assert mask_frames(masks, "masks") == (masks / "00000.png", second)
    for target, kind in (("../outside.png", "path_trick"), ("gone.png", "path_trick"), (".", "path_trick")):
        second.unlink()
        second.symlink_to(target)
        with pytest.raises(Refused, match="00001.png") as refused:
            mask_frames(masks, "masks")
        assert refused.value.kind == kind
    second.unlink()
    second.touch()
    with pytest.raises(Refused, match="0 bytes"):
        mask_frames(masks, "masks")


def test_a_folder_reached_through_a_link_is_held_inside_too(folder: Any, no_fetch: Any) -> None:
    """Of files in one folder the folder is resolved once: each line is judged all the same."""
    at: Path = folder.path
    (at / "inside").mkdir()
    for name in ("one.mp4", "two.mp4"):
        shutil.copy(at / "good.mp4", at / "inside" / name)
        (at / "inside" / name).open("ab").write(name.encode())
    (at / "way").symlink_to("inside")
    (at.parent / "beside").mkdir()
    shutil.copy(at / "good.mp4", at.parent / "beside" / "three.mp4")
    (at / "out").symlink_to(at.parent / "beside")
    (at / "inside" / "link.mp4").symlink_to(at.parent / "beside" / "three.mp4")
    videos = ["way/one.mp4", "way/two.mp4", "out/three.mp4", "way/link.mp4", "way/gone.mp4", "good.mp4/x.mp4"]
    path = at / "m.jsonl"
    path.write_text("".join(json.dumps(folder.line(video_path=video)) + "\n" for video in videos))
    scan = read_manifest(path, str(path), SPEC, no_fetch)
    assert [line.video_path for line in scan.lines] == [str(at.resolve() / "inside" / name) for name in ("one.mp4", "two.mp4")]
    assert [r.kind for r in scan.refusals] == ["path_trick", "path_trick", "missing_video", "missing_video"]
