"""A small video on disk with its mask and reference, and an untrained nano editor for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

SIZE, FRAMES = (48, 80), 13  # H, W of the source; the model sees 32 x 48, 5 frames


@pytest.fixture(scope="session")
def small_editor() -> Any:
    """The shipped nano models, an adapter at its start, at 48 x 32 and 5 frames."""
    from pvtt_model.editing import load_editor
    from pvtt_model.recipes import recipe_by_name
    from pvtt_model.specs import EditorSpec

    overrides = {
        "latents.video.width": 48, "latents.video.height": 32, "latents.video.fit": "stretch", "latents.mask_policy.grow_px": 1,
        "stages.refine.edit.num_steps": 2,
    }  # fmt: skip
    return load_editor(EditorSpec.of(recipe_by_name("nano", overrides)))


@pytest.fixture
def small_files(tmp_path: Path) -> dict[str, Path]:
    """video.mp4 (a grey scene with a red box that moves), mask.mp4, masks/ (pictures), product.png."""
    import torch

    from pvtt_model.data.video_io import png_bytes, write_mp4

    ramp = torch.linspace(60, 200, SIZE[1]).expand(3, *SIZE)
    frames, mask = torch.stack([ramp] * FRAMES), torch.zeros(FRAMES, *SIZE, dtype=torch.bool)
    for i in range(FRAMES):
        mask[i, 14:32, 20 + i : 40 + i] = True
    frames = torch.where(mask[:, None], torch.tensor([200.0, 30.0, 30.0]).view(1, 3, 1, 1), frames).round().to(torch.uint8)
    write_mp4(tmp_path / "video.mp4", frames, 12)
    write_mp4(tmp_path / "mask.mp4", mask[:, None].expand(-1, 3, -1, -1).to(torch.uint8) * 255, 12)
    (tmp_path / "masks").mkdir()
    for i, one in enumerate(mask):
        (tmp_path / "masks" / f"{i:05d}.png").write_bytes(png_bytes(one))
    product = torch.full((3, 20, 16), 255, dtype=torch.uint8)
    product[:, 4:16, 4:12] = torch.tensor([20, 40, 220], dtype=torch.uint8).view(3, 1, 1)
    (tmp_path / "product.png").write_bytes(png_bytes(product))
    return {"folder": tmp_path, **{path.stem: path for path in tmp_path.iterdir()}}
