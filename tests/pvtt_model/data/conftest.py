"""Real small files: a manifest's folder with one good clip in each way of giving a mask."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pvtt_model.data.video_io import png_bytes, write_mp4

SIZE = (48, 64)  # height, width


def moving_square(num_frames: int = 9, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 frames T,3,48,64 and their bool masks."""
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(90, 130, (1, 3, *SIZE), generator=generator, dtype=torch.uint8).repeat(num_frames, 1, 1, 1)
    mask = torch.zeros(num_frames, *SIZE, dtype=torch.bool)
    for t in range(num_frames):
        mask[t, 12:36, 16 + t : 40 + t] = True
    return torch.where(mask[:, None], torch.tensor([220, 30, 30], dtype=torch.uint8).view(1, 3, 1, 1), frames), mask


class Folder:
    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "p.png").write_bytes(png_bytes(torch.full((3, 32, 32), 200, dtype=torch.uint8)))
        self.video("good.mp4", 0)
        self.masks("masks")

    def video(self, name: str, seed: int, num_frames: int = 9, fps: float = 16) -> str:
        write_mp4(self.path / name, moving_square(num_frames, seed)[0], fps)
        return name

    def masks(self, name: str, num_frames: int = 9, crop: int = 0) -> str:
        (self.path / name).mkdir()
        for i, mask in enumerate(moving_square(num_frames)[1]):
            (self.path / name / f"{i:05d}.png").write_bytes(png_bytes(mask[crop:]))
        return name

    def line(self, **changes: Any) -> dict[str, Any]:
        metadata = {"resolution": [SIZE[1], SIZE[0]], "fps": 16, "num_frames": 9, **changes.pop("metadata", {})}
        line = {"video_path": "good.mp4", "reference_image": "p.png", "mask_path": "masks", "text_prompt": "A red square."}
        return copy.deepcopy({**line, "metadata": metadata, **changes})

    def manifest(self, lines: list[Any], name: str = "manifest.jsonl") -> Path:
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        (self.path / name).write_text("\n".join(texts) + "\n")
        return self.path / name


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    (tmp_path / "set").mkdir()
    return Folder(tmp_path / "set")


@pytest.fixture
def no_fetch() -> Callable[[str], Path]:
    def fetch(uri: str) -> Path:
        raise AssertionError(f"nothing is fetched here, but {uri} was")

    return fetch


@pytest.fixture(scope="session")
def shared_data() -> Path:
    default = Path(__file__).resolve().parents[4] / "shared" / "data"
    path = Path(os.environ.get("PVTT_SHARED_DATA", default))
    if not (path / "videos").is_dir():
        pytest.skip(f"no shared data at {path}; set PVTT_SHARED_DATA")
    return path
