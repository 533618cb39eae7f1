"""`pvtt edit` as a call: one video edited at the model's size, window by window, and put back at the source's own size, length and rate.

composited.mp4    the edit inside the mask, the source's own pixels outside
raw.mp4           the model's whole output, scaled to the source's size; what its crop left out is the source's
side_by_side.mp4  source | edited region | reference | composited
mask.mp4          the product's mask as used, lossless
report.json       settings, seeds, hashes, windows, colour matches, timings, warnings; written last
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pvtt_model.artifacts import digest, sha256_of_file
from pvtt_model.curation.mask_policy import widen
from pvtt_model.data.mp4_writer import Mp4Writer
from pvtt_model.data.video_io import fit, fit_mask, unfit, unfit_mask
from pvtt_model.editing.composite import composite_at_source, match_colours
from pvtt_model.editing.editor import Editor
from pvtt_model.editing.panels import panels
from pvtt_model.editing.request import EditRequest, Opened, open_request, sha256_of
from pvtt_model.editing.sample import each_of
from pvtt_model.editing.windows import Window, joined, plan_windows
from pvtt_model.evaluation.psnr import CAP_DB
from pvtt_model.reference.features import PictureFeatures
from pvtt_model.specs import EditSpec
from pvtt_model.training.schedule import seed_of

REPORT = "report.json"
VIDEOS = ("composited", "raw", "side_by_side", "mask")

#: progress(what is done now, steps done, steps in all), called after every step.
Progress = Callable[[str, int, int], None]


def edit_video(
    editor: Editor,
    request: EditRequest,
    out: str | Path,
    *,
    edit: EditSpec | None = None,
    progress: Progress | None = None,
    crf: int = 12,
    force: bool = False,
) -> dict[str, Any]:
    """Edit one video into the folder `out` (made whole or not at all), and return its report.

    edit: sampling; the editor's own where None. crf: of the mp4s, 0 lossless to 51. Raises FileExistsError where `out` is there and not `force`,
    FloatingPointError where sampling diverges, and as open_request.
    """
    begun, edit = time.monotonic(), edit or editor.spec.edit
    kind = each_of(editor.teacher)[0].kind
    if kind != "vace":
        raise ValueError(f"masked editing is VACE's; the backbone '{editor.spec.backbone.architecture}' is of kind {kind}. Use the first-frame mode.")
    with made_whole(Path(out), force) as folder:
        opened = open_request(request, editor.spec, editor.masks)
        windows = plan_windows(opened.facts.num_frames, editor.spec.latents.video.num_frames, edit.window_overlap)
        work = _Windows(editor, request, opened, edit, len(windows), progress)
        opened_s = time.monotonic() - begun
        with ExitStack() as stack:
            writers = {name: stack.enter_context(_writer(folder, name, opened, crf)) for name in VIDEOS}
            for start, parts in joined(windows, work.make):
                for name, frame in work.shown(start, parts):
                    writers[name].add(frame[None])
        report = describe(editor, request, opened, edit, "masked") | {
            "windows": [window._asdict() for window in windows],
            "colour_match": work.matches,
            "raw_background_psnr_db": work.background_psnr_db(),
            "seconds": {"open": round(opened_s, 3), "model": round(work.model_s, 3), "all": round(time.monotonic() - begun, 3)},
            "files": {f"{name}.mp4": sha256_of_file(folder / f"{name}.mp4") for name in VIDEOS},
        }
        write_report(folder, report)
    return report


class _Windows:
    """The windows' work, with what it leaves for the report."""

    def __init__(self, editor: Editor, request: EditRequest, opened: Opened, edit: EditSpec, count: int, progress: Progress | None) -> None:
        self.editor, self.opened, self.edit, self.video = editor, opened, edit, editor.spec.latents.video
        self.conditions = editor.conditions(opened.references, request.prompt, request.product_words)
        self.empty_LD = editor.text_LD(request.negative_prompt)
        self.matches: list[dict[str, Any]] = []
        self._progress, self._done, self._all = progress, 0, count * edit.num_steps
        self._error, self._pixels, self.model_s = 0.0, 0, 0.0
        self._pictures: PictureFeatures | None = None
        self._size = opened.facts.height, opened.facts.width

    def make(self, window: Window, before: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        """The window's raw frames at the model's size, and these with the source's colours; frames of `before` are its context."""
        source = fit(self.opened.frames(window.start, window.stop), self.video)
        wide = self.widened(window.start, window.stop)
        shown, made = source, wide
        if before is not None and window.given:
            shown, made = torch.cat([before["matched"][: window.given], source[window.given :]]), wide.clone()
            made[: window.given] = False
        begun = time.monotonic()
        if self._pictures is None:
            self._pictures = self.editor.pictures(self.conditions, self.opened.references, (source.shape[-2], source.shape[-1]))
        inputs = self.editor.inputs(shown, made, self.conditions["text_LD"], self._pictures, self.empty_LD)
        raw = self.editor.sample(inputs, self.edit, seed_of(self.edit.seed, f"frames from {window.start}"), self._step)
        self.model_s += time.monotonic() - begun
        new = slice(window.given, None)
        match = match_colours(raw[new], source[new], wide[new], self.edit.colour_match)
        values = {"gain": match.gain_C.tolist(), "offset": match.offset_C.tolist(), "pixels": match.pixels}
        self.matches.append({"start": window.start} | values)
        self._count_background(raw[new], source[new], ~wide[new])
        return {"raw": raw, "matched": match.apply(raw)}

    def widened(self, start: int, stop: int) -> Tensor:
        return widen(fit_mask(self.opened.mask(start, stop), self.video), self.editor.spec.latents.mask_policy)

    def shown(self, start: int, parts: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """(name of the mp4, frame uint8 3,H,W) of final frames, at the source's size."""
        stop = start + len(parts["raw"])
        source, mask, wide = self.opened.frames(start, stop), self.opened.mask(start, stop), self.widened(start, stop)
        seen = unfit_mask(torch.ones_like(wide[:1]), self._size, self.video)
        composited = composite_at_source(parts["matched"], source, wide, self.video, self.edit.feather_px)
        for i, frame in enumerate(composited):
            region = unfit_mask(wide[i : i + 1], self._size, self.video)
            yield "composited", frame
            yield "raw", torch.where(seen, unfit(parts["raw"][i : i + 1], self._size, self.video)[0], source[i])
            yield "mask", mask[i].to(torch.uint8).mul(255).expand(3, -1, -1)
            yield "side_by_side", panels(source[i], region[0], self.opened.references[0], frame)

    def background_psnr_db(self) -> float | None:
        """Of the raw output outside the widened mask, at the model's size; dB, higher is better; the VAE's round trip bounds it."""
        if not self._pixels:
            return None
        mse = torch.tensor(self._error / self._pixels, dtype=torch.float64)
        return round(min(CAP_DB, float(10 * torch.log10(255**2 / mse.clamp(min=1e-6)))), 2)

    def _count_background(self, raw_TCHW: Tensor, source_TCHW: Tensor, where_THW: Tensor) -> None:
        error = (raw_TCHW.float() - source_TCHW.float()).square().mean(1)
        self._error, self._pixels = self._error + float(error[where_THW].double().sum()), self._pixels + int(where_THW.sum())

    def _step(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress("sampling", self._done, self._all)


def describe(editor: Editor, request: EditRequest, opened: Opened, edit: EditSpec, mode: str) -> dict[str, Any]:
    """The part of a report that every mode has."""
    asked = {name: value for name, value in request._asdict().items() if value not in (None, "", ())}
    return {
        "key": request_key(editor, request, edit, mode),
        "mode": mode,
        "teacher": editor.trained,
        "request": json.loads(json.dumps(asked, default=str)),
        "settings": editor.spec.model_copy(update={"edit": edit}).model_dump(mode="json"),
        "video": opened.facts._asdict(),
        "mask": {"provenance": opened.mask_provenance} | opened.mask_figures,
        "sha256": opened.sha256,
        "warnings": opened.warnings,
        "device": str(editor.device),
    }


def request_key(editor: Editor, request: EditRequest, edit: EditSpec, mode: str) -> str:
    """A digest of all that decides the output, the files by their content: a finished edit is known again by it."""
    values = request._asdict()
    for name in ("video", "mask", "first_frame"):
        values[name] = sha256_of(values[name]) if values[name] else None
    for name in ("references", "source_references"):
        values[name] = [sha256_of(path) for path in values[name]]
    return digest(mode, editor.trained, editor.spec.model_copy(update={"edit": edit}).identity(), sorted(values.items()))


def write_report(folder: Path, report: Mapping[str, Any]) -> None:
    (folder / REPORT).write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _writer(folder: Path, name: str, opened: Opened, crf: int) -> Mp4Writer:
    """The mask without loss; 4:4:4 where the source has an odd side, which 4:2:0 cannot hold. What is only looked at is encoded fast."""
    odd = bool(opened.facts.width % 2 or opened.facts.height % 2) and name != "side_by_side"
    if name == "mask":
        return Mp4Writer(folder / f"{name}.mp4", opened.facts.fps, 0, "veryfast", "444")
    preset = "medium" if name == "composited" else "veryfast"
    return Mp4Writer(folder / f"{name}.mp4", opened.facts.fps, crf, preset, "444" if odd else "420")


@contextmanager
def made_whole(out: Path, force: bool = False) -> Iterator[Path]:
    """A folder beside `out` that takes its name when all went well, and is deleted when not. Raises FileExistsError where `out` is there."""
    if out.exists() and not force:
        raise FileExistsError(f"{out} is there already. Give another --out, or --force to replace it.")
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        if out.exists():
            shutil.rmtree(out)
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
