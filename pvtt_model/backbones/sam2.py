"""SAM 2's video predictor: a prompt on the first frame, a mask on every frame. arXiv:2408.00714; the `sam2` package, unchanged.

Frames come from memory and are resized one at a time, so a window of a long video costs its uint8 frames and what SAM 2 remembers of
them, about 1 MB a frame. The package's hole filling wants a compiled extension that not every machine has; it is left out, so
that the mask does not depend on the machine.
"""

from __future__ import annotations

import contextlib
import io
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sam2.build_sam import build_sam2_video_predictor
from torch import Tensor

from pvtt_model.artifacts import sha256_of_file
from pvtt_model.backbones.source import architecture_of, frozen, label, load_strictly, read_safetensors, seeded, weight_files
from pvtt_model.specs import ModelSpec

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # the package's, of RGB in [0, 1]
PRODUCT = 1  # the one object's number


class VideoSegmenter:
    """Frames and a prompt to masks, without gradients. `name` is to stand beside every mask made with it."""

    def __init__(self, model: Any, name: str) -> None:
        self.model, self.name = model, name

    def to(self, device: torch.device | str) -> VideoSegmenter:
        self.model.to(device)
        return self

    @torch.inference_mode()
    def segment(
        self,
        frames_TCHW: Tensor,
        points: Sequence[tuple[float, float]] = (),
        box: tuple[float, float, float, float] | None = None,
        mask_HW: Tensor | None = None,
    ) -> Tensor:
        """bool T,H,W of the product in uint8 RGB frames, all kept in SAM 2's memory until the call ends.

        The prompt is on frame 0: points (x, y) on the product and box (left, top, right, bottom) in pixels, or a bool mask, which goes before both.
        bfloat16 on a GPU, as published; float32 on a CPU. Raises ValueError without a prompt.
        """
        if mask_HW is None and box is None and not points:
            raise ValueError("segment was given no prompt. Give points, a box or a mask of the first frame.")
        device = next(self.model.parameters()).device
        state = new_state(self.model, frames_TCHW)
        masks = torch.zeros(frames_TCHW[:, 0].shape, dtype=torch.bool)
        fast = torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else contextlib.nullcontext()
        with fast, contextlib.redirect_stderr(io.StringIO()):  # the package draws a progress bar a call
            if mask_HW is not None:
                self.model.add_new_mask(state, 0, PRODUCT, mask_HW)
            else:
                where = torch.tensor(points, dtype=torch.float32) if points else None
                labels = torch.ones(len(points), dtype=torch.int32) if points else None
                self.model.add_new_points_or_box(state, 0, PRODUCT, where, labels, box=box)
            for i, _, logits in self.model.propagate_in_video(state):
                masks[i] = (logits[0, 0] > 0).cpu()
        return masks


class _Frames:
    """Frames as the package's own loader of pictures gives them, made when asked for: (3, S, S), about zero mean."""

    def __init__(self, frames_TCHW: Tensor, side: int) -> None:
        self.frames, self.side = frames_TCHW, side
        self.mean, self.std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, i: int) -> Tensor:
        picture = Image.fromarray(self.frames[i].permute(1, 2, 0).contiguous().numpy()).resize((self.side, self.side))
        return (torch.from_numpy(np.array(picture) / 255.0).permute(2, 0, 1).float() - self.mean) / self.std


def new_state(model: Any, frames_TCHW: Tensor) -> dict[str, Any]:
    """What the predictor's init_state makes of a video file, from frames in memory; results are kept on the CPU."""
    state: dict[str, Any] = {
        "images": _Frames(frames_TCHW, model.image_size),
        "num_frames": len(frames_TCHW),
        "offload_video_to_cpu": True,
        "offload_state_to_cpu": True,
        "video_height": frames_TCHW.shape[2],
        "video_width": frames_TCHW.shape[3],
        "device": model.device,
        "storage_device": torch.device("cpu"),
        "obj_id_to_idx": OrderedDict(),
        "obj_idx_to_id": OrderedDict(),
        "obj_ids": [],
    }
    per_object = ("point_inputs_per_obj", "mask_inputs_per_obj", "output_dict_per_obj", "temp_output_dict_per_obj", "frames_tracked_per_obj")
    return state | {name: {} for name in (*per_object, "cached_features", "constants")}


def load_sam2(spec: ModelSpec, folder: Path | None) -> VideoSegmenter:
    """The predictor of `spec`: random from its seed where `folder` is None, else from a checkpoint file or the folder that holds one.

    Raises ValueError where keys, shapes or the hash differ, FileNotFoundError where there is no checkpoint.
    """
    arch, seed = architecture_of(spec, "sam2", folder)
    changes = [f"++model.{change}" for change in arch.config["changes"]]
    with seeded(seed or 0):
        model: Any = build_sam2_video_predictor(arch.config["config"], None, device="cpu", hydra_overrides_extra=changes)
    model.fill_hole_area = 0
    if folder is not None:
        load_strictly(model, _checkpoint(Path(folder), spec.sha256), Path(folder))
    return VideoSegmenter(frozen(model), label(spec))


def checkpoint_file(place: Path) -> Path:
    """sam2*.safetensors or sam2*.pt in a folder, or the file itself. Raises FileNotFoundError."""
    files = [place] if place.is_file() else [*sorted(place.glob("sam2*.safetensors")), *sorted(place.glob("sam2*.pt"))]
    return files[0] if files else weight_files(place)[0]


def _checkpoint(place: Path, sha256: str | None) -> dict[str, Tensor]:
    """The tensors of the checkpoint. A .pt only by its hash, and of it only tensors."""
    pickle = checkpoint_file(place)
    if pickle.suffix != ".pt":
        return read_safetensors(weight_files(pickle, sha256))
    if sha256 is None:
        raise ValueError(
            f"{pickle} is a pickle and is read only by its hash. Set masks.sam2.sha256 to the one published, or convert it to safetensors."
        )
    got = sha256_of_file(pickle)
    if got != sha256.lower():
        raise ValueError(f"{pickle} has SHA-256 {got}; the spec says {sha256}. Fetch the file again, or correct `sha256`.")
    state = torch.load(pickle, map_location="cpu", weights_only=True)
    return dict(state.get("model", state))
