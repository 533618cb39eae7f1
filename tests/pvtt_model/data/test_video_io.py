from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from pvtt_model.data import video_io
from pvtt_model.data.decoder import DECODER, DecoderKilled
from pvtt_model.data.video_io import (
    DecodeTimeout,
    VideoUnreadable,
    decode,
    decode_at,
    fit,
    fit_mask,
    png_bytes,
    png_frame,
    png_mask,
    probe,
    probe_ends,
    write_mp4,
)
from pvtt_model.nano.world import render_clip
from pvtt_model.specs import NanoWorldSpec, VideoSpec


def colours(num_frames: int = 5, height: int = 32, width: int = 48) -> torch.Tensor:
    frames = torch.empty(num_frames, 3, height, width, dtype=torch.uint8)
    for t in range(num_frames):
        frames[t] = torch.tensor([200, 40 + 20 * t, 60], dtype=torch.uint8).view(3, 1, 1)
    return frames


def test_written_video_reads_back_in_colour_and_order(tmp_path: Path) -> None:
    frames = colours()
    write_mp4(tmp_path / "a.mp4", frames, 15)
    write_mp4(tmp_path / "b.mp4", frames, 15)
    data = (tmp_path / "a.mp4").read_bytes()
    assert data == (tmp_path / "b.mp4").read_bytes() and data.find(b"moov") < data.find(b"mdat")
    assert probe(tmp_path / "a.mp4") == (48, 32, 15.0, 5)
    assert (decode(data).int() - frames.int()).abs().max() <= 5
    facts, ends = decode_at(data, [0, -1])
    assert facts.num_frames == 5 and torch.equal(ends, decode(tmp_path / "a.mp4")[[0, 4]])
    assert decode(data, 3).shape == (3, 3, 32, 48)


@pytest.mark.parametrize("width", [16, 32, 34, 48, 50, 62, 64])
def test_narrow_videos_decode_right(tmp_path: Path, width: int) -> None:
    frames = colours(width=width)
    frames[:, :, :, : width // 2] = 20
    write_mp4(tmp_path / "a.mp4", frames, 15)
    assert (decode(tmp_path / "a.mp4").int() - frames.int()).abs().float().mean() < 6
    assert probe(tmp_path / "a.mp4")[:2] == (width, 32)


@pytest.mark.parametrize("how", [{}, {"preset": "veryfast", "chroma": "444"}])
def test_the_same_frames_give_the_same_file_whatever_lies_in_memory(tmp_path: Path, how: dict[str, Any]) -> None:
    frames = render_clip(NanoWorldSpec(num_clips=3, num_frames=9), 1).frames_TCHW  # x264 with mbtree gave four files on an AVX-512 machine
    files = set()
    for i in range(40):
        rubbish = [torch.randint(0, 255, (1000 * (i + j) + 7,), dtype=torch.uint8) for j in range(20)]
        write_mp4(tmp_path / "a.mp4", frames, 16, **how)
        files.add((tmp_path / "a.mp4").read_bytes())
        del rubbish
    assert len(files) == 1


def test_whole_colour_planes_keep_small_pictures(tmp_path: Path) -> None:
    frames = render_clip(NanoWorldSpec(), 0).frames_TCHW
    error = {}
    for chroma in ("420", "444"):
        write_mp4(tmp_path / "a.mp4", frames, 8, chroma=chroma)  # type: ignore[arg-type]
        error[chroma] = float((decode(tmp_path / "a.mp4").float() - frames.float()).pow(2).mean())
    assert error["444"] < 8 and error["444"] < error["420"] / 4


@pytest.mark.parametrize("width", [48, 64])
def test_frames_in_order_are_those_asked_for_one_by_one(tmp_path: Path, width: int) -> None:
    spec = NanoWorldSpec(num_frames=21, width=width)
    write_mp4(tmp_path / "a.mp4", render_clip(spec, 0).frames_TCHW, 8)
    single = torch.cat([decode_at(tmp_path / "a.mp4", [i])[1] for i in range(21)])
    assert torch.equal(decode(tmp_path / "a.mp4"), single) and torch.equal(decode(tmp_path / "a.mp4", 9), single[:9])
    assert torch.equal(decode_at(tmp_path / "a.mp4", [3, 1, 20])[1], single[[3, 1, 20]])


def test_probing_the_ends_decodes_them(tmp_path: Path) -> None:
    write_mp4(tmp_path / "a.mp4", torch.randint(0, 256, (30, 3, 64, 64), dtype=torch.uint8), 8)
    whole = (tmp_path / "a.mp4").read_bytes()
    assert probe_ends(whole, 9) == probe_ends(whole, 99) == probe(whole) == (64, 64, 8.0, 30)
    (tmp_path / "b.mp4").write_bytes(whole[: len(whole) * 6 // 10])
    with pytest.raises(VideoUnreadable):
        probe_ends(tmp_path / "b.mp4", 9)


def test_fewer_frames_than_asked_for_are_not_padded(tmp_path: Path) -> None:
    write_mp4(tmp_path / "a.mp4", colours(), 15)
    with pytest.raises(VideoUnreadable, match="holds 5 frames; 9 are asked for"):
        decode(tmp_path / "a.mp4", 9)


def test_one_child_serves_many_reads(tmp_path: Path) -> None:
    write_mp4(tmp_path / "a.mp4", colours(), 15)
    probe(tmp_path / "a.mp4")
    child = DECODER.child_pid
    for _ in range(5):
        decode(tmp_path / "a.mp4")
    assert child is not None and DECODER.child_pid == child


def test_a_hanging_decoder_is_killed_and_replaced(tmp_path: Path) -> None:
    write_mp4(tmp_path / "a.mp4", colours(), 15)
    os.mkfifo(tmp_path / "hangs.mp4")  # opening it waits for a writer that never comes
    probe(tmp_path / "a.mp4")
    child = DECODER.child_pid
    assert child is not None
    begun = time.monotonic()
    with pytest.raises(DecodeTimeout, match="decoder was killed"):
        decode(tmp_path / "hangs.mp4", timeout_s=0.5)
    assert time.monotonic() - begun < 5
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    assert probe(tmp_path / "a.mp4").num_frames == 5


def kill_children(how: signal.Signals, times: int) -> None:
    """Kill the decoder's child in mid-request, `times` times, each time another child."""
    last = None
    while times:
        time.sleep(0.3)
        child = DECODER.child_pid
        if child is not None and child != last:
            time.sleep(0.5)
            os.kill(child, how)
            last, times = child, times - 1


@pytest.mark.parametrize(
    ("how", "error", "says"), [(signal.SIGSEGV, VideoUnreadable, "crashed its decoder twice"), (signal.SIGKILL, DecoderKilled, "killed from outside")]
)
def test_a_file_is_blamed_only_for_two_crashes_and_never_for_a_kill(tmp_path: Path, how: signal.Signals, error: type[Exception], says: str) -> None:
    write_mp4(tmp_path / "a.mp4", colours(), 15)
    os.mkfifo(tmp_path / "hangs.mp4")
    DECODER.close()
    killer = threading.Thread(target=kill_children, args=(how, 2))
    killer.start()
    with pytest.raises(error, match=says):
        decode(tmp_path / "hangs.mp4", timeout_s=30)
    killer.join()
    assert not issubclass(DecoderKilled, ValueError)  # else a clip would be refused, and the task not tried again
    assert probe(tmp_path / "a.mp4").num_frames == 5


@pytest.mark.parametrize("content", [b"", b"hello", b"#EXTM3U\n/etc/passwd\n", b"\0\0\0\x20ftypisom" + b"\0" * 500])
def test_no_video_is_an_exception_that_names_no_place(content: bytes) -> None:
    with pytest.raises(VideoUnreadable, match="^the video cannot be decoded"):
        decode(content, timeout_s=20)


def test_odd_sizes_are_refused_with_a_cure(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Crop to 46x32"):
        write_mp4(tmp_path / "a.mp4", colours(width=47), 15)
    with pytest.raises(ValueError, match="uint8"):
        write_mp4(tmp_path / "a.mp4", colours().float(), 15)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [(48, 64), (100, 60), (64, 48), (33, 97), (16, 16)])
@pytest.mark.parametrize("way", ["crop", "stretch"])
def test_fit_keeps_frames_and_mask_together(size: tuple[int, int], way: Any) -> None:
    video = VideoSpec(width=64, height=48, num_frames=1, fit=way)
    height, width = size
    mask = torch.zeros(2, height, width, dtype=torch.bool)
    mask[:, height // 4 : height // 2, width // 4 : width // 2] = True
    frames = mask[:, None].repeat(1, 3, 1, 1).to(torch.uint8) * 255
    fitted, fitted_mask = fit(frames, video), fit_mask(mask, video)
    assert fitted.shape == (2, 3, 48, 64) and fitted.dtype == torch.uint8 and fitted_mask.shape == (2, 48, 64)
    unlike = (fitted[:, 0] > 127) != fitted_mask
    assert unlike.float().mean() < 0.06  # nearest and bilinear part by a pixel at the rim
    assert fitted.max() == 255 or size == (16, 16)


def test_fit_of_the_right_size_changes_nothing() -> None:
    frames = torch.randint(0, 256, (2, 3, 48, 64), dtype=torch.uint8)
    assert torch.equal(fit(frames, VideoSpec(width=64, height=48, num_frames=1)), frames)


def test_png_is_lossless() -> None:
    frame, mask = torch.randint(0, 256, (3, 17, 23), dtype=torch.uint8), torch.rand(17, 23) > 0.5
    assert torch.equal(png_frame(png_bytes(frame)), frame)
    assert torch.equal(png_mask(png_bytes(mask)), mask)
    assert video_io.read_picture(png_bytes(mask)).mode == "1"
    with pytest.raises(ValueError, match="png_bytes wants"):
        png_bytes(frame.float())
