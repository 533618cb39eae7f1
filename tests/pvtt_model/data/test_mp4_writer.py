"""mp4s written piece by piece."""

from __future__ import annotations

import pytest
import torch

from pvtt_model.data.mp4_writer import Mp4Writer
from pvtt_model.data.video_io import decode, probe, write_mp4


def frames(count: int, height: int = 32, width: int = 48) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, height, width), generator=torch.Generator().manual_seed(count), dtype=torch.uint8)


def test_pieces_give_the_bytes_of_the_whole(tmp_path):
    video = frames(9)
    write_mp4(tmp_path / "whole.mp4", video, 29.97)
    with Mp4Writer(tmp_path / "pieces.mp4", 29.97) as writer:
        for piece in video.split(4):
            writer.add(piece)
    assert writer.num_frames == 9 and (tmp_path / "pieces.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()


def test_odd_sides_are_held_in_444(tmp_path):
    video = torch.full((3, 3, 33, 51), 120, dtype=torch.uint8)
    with pytest.raises(ValueError, match="even sides"), Mp4Writer(tmp_path / "v.mp4", 8) as writer:
        writer.add(video)
    with Mp4Writer(tmp_path / "v.mp4", 8, chroma="444") as writer:
        writer.add(video)
    assert probe(tmp_path / "v.mp4")[:2] == (51, 33) and (decode(tmp_path / "v.mp4").int() - 120).abs().max() <= 2


def test_black_and_white_at_crf_0_is_lossless(tmp_path):
    video = (frames(4)[:, :1] > 127).to(torch.uint8).expand(-1, 3, -1, -1) * 255
    with Mp4Writer(tmp_path / "v.mp4", 8, 0, "veryfast", "444") as writer:
        writer.add(video)
    assert torch.equal(decode(tmp_path / "v.mp4")[:, 0] > 127, video[:, 0] > 127)


def test_nothing_is_left_of_a_video_that_was_not_finished(tmp_path):
    with pytest.raises(ValueError, match="those before 48x32"), Mp4Writer(tmp_path / "v.mp4", 8) as writer:
        writer.add(frames(2))
        writer.add(frames(2, 16, 16))
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="no frame"):
        write_mp4(tmp_path / "v.mp4", frames(1)[:0], 8)
