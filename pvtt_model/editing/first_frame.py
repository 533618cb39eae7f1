"""The first-frame mode: a first frame with the new product in it, image-to-video from there, and the frames of a transition dropped.

The first frame is given, or a collage (collage.py). An image-to-video backbone takes it by curation/i2v_context.py; VACE takes it as a kept
frame before frames that are all to be made (arXiv:2503.07598, its image-to-video task). The motion is the model's own, so nothing is composited.

    raw.mp4  side_by_side.mp4  first_frame.png  report.json
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pvtt_model.artifacts import sha256_of_file
from pvtt_model.backbones.image import opaque
from pvtt_model.curation.mask_policy import box_of, widen
from pvtt_model.data.mp4_writer import Mp4Writer
from pvtt_model.data.video_io import fit, fit_mask, png_bytes, read_picture, unfit, unfit_mask
from pvtt_model.editing.collage import beside, pasted
from pvtt_model.editing.editor import Editor
from pvtt_model.editing.panels import panels
from pvtt_model.editing.request import EditRequest, Opened, open_request
from pvtt_model.editing.sample import EditInputs, each_of
from pvtt_model.editing.transition import transition_frames
from pvtt_model.editing.video_edit import Progress, describe, made_whole, write_report
from pvtt_model.specs import EditSpec
from pvtt_model.training.schedule import seed_of

Collage = Literal["paste", "beside"]
MODE = "first-frame"


def edit_from_first_frame(
    editor: Editor,
    request: EditRequest,
    out: str | Path,
    *,
    edit: EditSpec | None = None,
    collage: Collage = "paste",
    progress: Progress | None = None,
    crf: int = 12,
    force: bool = False,
) -> dict[str, Any]:
    """One video made from its first frame, into the folder `out`; its report, where 'transition_frames' says how many were dropped.

    collage: of what the first frame is made where request.first_frame is None: the cut-out 'paste'd into the old product's place, or the
    product on white 'beside' the cleaned frame. As many frames are made as the model takes, at most the video's. Raises as edit_video.
    """
    begun, edit = time.monotonic(), edit or editor.spec.edit
    if each_of(editor.teacher)[0].kind == "t2v":
        raise ValueError(
            f"backbone '{editor.spec.backbone.architecture}' is t2v: it takes no frame and no mask, so it edits nothing. Use another teacher."
        )
    with made_whole(Path(out), force) as folder:
        opened = open_request(request, editor.spec, editor.masks)
        first = first_frame(editor, request, opened, collage)
        count = min(editor.spec.latents.video.num_frames, (opened.facts.num_frames - 1) // 4 * 4 + 1)
        steps = iter(range(1, edit.num_steps + 1))

        def on_step() -> None:
            if progress is not None:
                progress("sampling", next(steps), edit.num_steps)

        inputs = first_frame_inputs(editor, request, opened, first, count)
        plain = edit if inputs.source_CFHW is not None else edit.model_copy(update={"background": "generated"})
        frames = editor.sample(inputs, plain, seed_of(edit.seed, MODE), on_step)
        dropped = transition_frames(frames)
        files = _written(folder, opened, frames[dropped:], first, editor, crf)
        report = describe(editor, request, opened, edit, f"{MODE} {collage}") | {
            "transition_frames": dropped,
            "frames": len(frames) - dropped,
            "seconds": {"all": round(time.monotonic() - begun, 3)},
            "files": files,
        }
        write_report(folder, report)
    return report


def widened(editor: Editor, opened: Opened) -> Tensor:
    """bool (1, H, W) of the first frame at the model's size."""
    return widen(fit_mask(opened.mask(0, 1), editor.spec.latents.video), editor.spec.latents.mask_policy)


def first_frame(editor: Editor, request: EditRequest, opened: Opened, collage: Collage) -> Tensor:
    """uint8 (3, H, W) at the model's size. A given picture must have the video's aspect, within 1 %."""
    video = editor.spec.latents.video
    if request.first_frame is not None:
        given = torch.from_numpy(np.array(opaque(read_picture(request.first_frame.read_bytes()))[0])).permute(2, 0, 1)
        height, width = given.shape[-2:]
        if abs(width * opened.facts.height / (height * opened.facts.width) - 1) > 0.01:
            raise ValueError(
                f"first frame {request.first_frame} is {width}x{height}, the video {opened.facts.width}x{opened.facts.height}: "
                "another aspect. Give it at the video's size."
            )
        return fit(given[None], video)[0]
    frame, mask = fit(opened.frames(0, 1), video)[0], fit_mask(opened.mask(0, 1), video)[0]
    region, picture = widened(editor, opened)[0], read_picture(opened.references[0])
    return pasted(frame, mask, region, picture) if collage == "paste" else beside(frame, region, picture)


def first_frame_inputs(editor: Editor, request: EditRequest, opened: Opened, first_CHW: Tensor, num_frames: int) -> EditInputs:
    """What sampling takes: by the backbone's kind VACE's context with the first frame kept, or an image-to-video context.

    VACE's packed mask takes the middle one of the frames that a latent frame stands for, so the first frame is kept in the inactive half alone,
    as in VACE's published code.
    """
    conditions = editor.conditions(opened.references, request.prompt, request.product_words)
    grey = torch.full_like(first_CHW, 128).expand(num_frames - 1, -1, -1, -1)
    frames = torch.cat([first_CHW[None], grey])
    made = torch.ones(num_frames, *first_CHW.shape[-2:], dtype=torch.bool)
    made[0] = False
    pictures = editor.pictures(conditions, opened.references, (frames.shape[-2], frames.shape[-1]))
    inputs = editor.inputs(frames, made, conditions["text_LD"], pictures, editor.text_LD(request.negative_prompt))
    return inputs if each_of(editor.teacher)[0].kind == "vace" else inputs._replace(source_CFHW=None, made_FHW=None)


def _written(folder: Path, opened: Opened, frames_TCHW: Tensor, first_CHW: Tensor, editor: Editor, crf: int) -> dict[str, str]:
    """The output's files and their hashes: at the source's scale, less what the model's crop left out, with even sides."""
    video, size = editor.spec.latents.video, (opened.facts.height, opened.facts.width)
    region = widened(editor, opened)
    seen = box_of(unfit_mask(torch.ones_like(region), size, video)[0])
    assert seen is not None  # the model sees something
    top, left = seen[:2]
    rows, columns = slice(top, top + (seen[2] - top) // 2 * 2), slice(left, left + (seen[3] - left) // 2 * 2)
    source, region_HW = opened.frames(0, len(frames_TCHW)), unfit_mask(region, size, video)[0][rows, columns]
    (folder / "first_frame.png").write_bytes(png_bytes(first_CHW))
    with Mp4Writer(folder / "raw.mp4", opened.facts.fps, crf) as raw, Mp4Writer(folder / "side_by_side.mp4", opened.facts.fps, crf) as side:
        for frame, before in zip(frames_TCHW, source, strict=True):
            large = unfit(frame[None], size, video)[..., rows, columns]
            raw.add(large)
            side.add(panels(before[:, rows, columns], region_HW, opened.references[0], large[0])[None])
    return {name: sha256_of_file(folder / name) for name in ("raw.mp4", "side_by_side.mp4", "first_frame.png")}
