"""A folder of good, odd and broken files: each is accepted with the right facts, or refused by kind with a reason and a cure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pvtt_model.backbones.image import letterbox
from pvtt_model.data.ingest import inspect
from pvtt_model.data.refusals import Refusal
from pvtt_model.data.source import read_source
from pvtt_model.data.video_io import decode, read_reference
from pvtt_model.specs import ClipSpec, VideoSpec
from tests.pvtt_model.data.odd_files import CORNERS, cut_out, deep_grey, number_of, picture, sound, turn, turned_jpeg, write

VIDEO, SPEC = VideoSpec(width=64, height=48, num_frames=9), ClipSpec(decode_timeout_s=30)
LONG = "ein sehr langer Name " * 11 + "Ende"


def turned(path: Path, degrees: int) -> None:
    write(path, seed=degrees // 90)
    turn(path, degrees)


def truncated(path: Path, share: float) -> None:
    write(path, num_frames=200, seed=9)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def unevenly(path: Path, seed: int) -> None:
    write(path, times_ms=[i * 40 if i < 6 else 240 + (i - 6) * 200 for i in range(12)], seed=seed)


#: name -> (how it is made, the facts it is accepted with: width, height, fps, frames; or the kind it is refused by and a word of its cure)
VIDEOS: dict[str, tuple[Callable[[Path], Any], tuple[Any, ...]]] = {
    "red square plain.mp4": (lambda p: write(p), (64, 48, 16.0, 12)),
    "red square ten bit.mp4": (lambda p: write(p, pix_fmt="yuv420p10le"), (64, 48, 16.0, 12)),
    "red square odd sides.mp4": (lambda p: write(p, width=63, height=47, pix_fmt="yuv444p"), (63, 47, 16.0, 12)),
    "red square hevc.mp4": (lambda p: write(p, codec="libx265"), (64, 48, 16.0, 12)),
    "red square odd webm.webm": (lambda p: write(p, width=63, height=47, codec="libvpx-vp9"), (63, 47, 16.0, 12)),
    "red square motion jpeg.avi": (lambda p: write(p, codec="mjpeg", pix_fmt="yuvj420p"), (64, 48, 16.0, 12)),
    "red square upright.mp4": (lambda p: turned(p, 90), (48, 64, 16.0, 12)),
    "red square upside down.mp4": (lambda p: turned(p, 180), (64, 48, 16.0, 12)),
    "red square other way.mp4": (lambda p: turned(p, 270), (48, 64, 16.0, 12)),
    "red square wrong ending.dat": (lambda p: write(p, fmt="mp4", seed=4), (64, 48, 16.0, 12)),
    "rotes Quadrat – 赤い四角 🟥.mp4": (lambda p: write(p, seed=5), (64, 48, 16.0, 12)),
    f"{LONG}.mp4": (lambda p: write(p, seed=6), (64, 48, 16.0, 12)),
    "red square empty.mp4": (lambda p: p.touch(), ("empty_file", "Copy it again")),
    "red square cut off.mp4": (lambda p: truncated(p, 0.6), ("unreadable_video", "Re-encode")),
    "red square cut early.mkv": (lambda p: p.write_bytes(b"\x1a\x45\xdf\xa3" + b"\0" * 40), ("unreadable_video", "Re-encode")),
    "red square is text.mp4": (lambda p: p.write_text("not a video"), ("unreadable_video", "no mp4, mov")),
    "red square is picture.mp4": (lambda p: p.write_bytes(cut_out()), ("unreadable_video", "no mp4, mov")),
    "red square sound alone.mp4": (lambda p: sound(p), ("unreadable_video", "no video stream")),
    "red square one frame.mp4": (lambda p: write(p, num_frames=1), ("too_short", "Use a longer clip")),
    "red square uneven.mp4": (lambda p: unevenly(p, 7), ("variable_rate", "set latents.video.fps")),
    "red square far away.mp4": (lambda p: p.symlink_to("/etc/hostname"), ("path_trick", "allow_outside_root")),
}


@pytest.fixture(scope="module")
def odd_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("odd") / "in"
    at.mkdir()
    for name, (make, _) in VIDEOS.items():
        make(at / name)
        (at / name).with_suffix(".png").write_bytes(cut_out())
    return at


def judged(at: Path, spec: ClipSpec = SPEC, video: VideoSpec = VIDEO) -> dict[str, Any]:
    def fetch(uri: str) -> Path:
        raise AssertionError(uri)

    scan = read_source(at, str(at), spec, fetch, at.parent / "drafts")
    assert not scan.passed_over
    return {r.source: r for r in scan.refusals} | {line.source: inspect(line, spec, video)[0] for line in scan.lines}


def test_each_file_is_accounted_for(odd_folder: Path) -> None:
    found = judged(odd_folder)
    assert set(found) == set(VIDEOS)
    for name, (_, wanted) in VIDEOS.items():
        got = found[name]
        if isinstance(got, Refusal):
            assert (got.kind, wanted[1] in got.reason) == (wanted[0], True), got
            assert str(odd_folder) not in got.reason and "/tmp" not in got.reason and ". " in got.reason, got.reason
        else:
            assert (got["width"], got["height"], got["fps"], got["num_frames"]) == wanted, name


def test_what_is_accepted_decodes_in_order_and_upright(odd_folder: Path) -> None:
    found = judged(odd_folder)
    for name, row in found.items():
        if isinstance(row, Refusal):
            continue
        frames = decode(row["video"], 9)
        assert [number_of(f) for f in frames] == list(range(9)), name
        order = {"upright": (2, 0, 3, 1), "upside down": (3, 2, 1, 0), "other way": (1, 3, 0, 2)}
        turned = next((o for word, o in order.items() if word in name), (0, 1, 2, 3))
        corners = [frames[0, :, y, x] for y in (4, -4) for x in (4, -4)]
        wanted = [torch.tensor(CORNERS[i]) for i in turned]
        assert max(float((c.float() - w).abs().max()) for c, w in zip(corners, wanted, strict=True)) < 30, name


REFERENCES: dict[str, tuple[bytes, str | None]] = {
    "alpha.png": (cut_out(), None),
    "cmyk.jpg": (picture("CMYK", format="JPEG", quality=95), None),
    "turned.jpg": (turned_jpeg(), None),
    "palette.png": (picture("P", format="PNG", transparency=0), None),
    "grey.jpg": (picture("L", format="JPEG"), None),
    "webp.webp": (picture("RGB", format="WEBP"), None),
    "sixteen.png": (deep_grey(), "8-bit RGB"),
    "cut.jpg": (picture("RGB", format="JPEG", quality=95)[:300], "Save it as PNG or JPEG"),
    "text.png": (b"text", "Save it as PNG or JPEG"),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_odd_references(folder: Any, no_fetch: Any, name: str) -> None:
    data, cure = REFERENCES[name]
    (folder.path / name).write_bytes(data)
    path = folder.manifest([folder.line(reference_image=name)])
    (line,) = read_source(path, str(path), SPEC, no_fetch, folder.path).lines
    row = inspect(line, SPEC, VIDEO)[0]
    if cure is not None:
        assert isinstance(row, Refusal) and row.kind == "unreadable_reference" and cure in row.reason
        return
    assert not isinstance(row, Refusal), row
    square = letterbox(read_reference(row["references"][0]), 40)
    assert square.shape == (3, 40, 40) and square.min() >= 0 and square.max() <= 1


def test_alpha_cmyk_and_exif_come_out_as_they_look() -> None:
    red, blue, white = torch.tensor([200, 30, 30]) / 255, torch.tensor([30, 30, 200]) / 255, torch.ones(3)
    cut = letterbox(read_reference(cut_out()), 40)
    assert torch.allclose(cut[:, 20, 20], red, atol=0.02) and torch.allclose(cut[:, 2, 2], white), "transparent is not black"
    cmyk = letterbox(read_reference(picture("CMYK", format="JPEG", quality=95)), 40)
    assert (cmyk[:, 20, 5] - red).abs().max() < 0.1 and (cmyk[:, 20, 35] - blue).abs().max() < 0.1
    upright = letterbox(read_reference(turned_jpeg()), 40)  # turned clockwise: red, which was left, is above
    assert (upright[:, 5, 20] - red).abs().max() < 0.1 and (upright[:, 35, 20] - blue).abs().max() < 0.1
