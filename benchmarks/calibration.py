"""Does each metric move the right way, and by how much? Known faults in two real videos; writes the table of docs/evaluation.md.

    PYTHONPATH=. .venv/bin/python benchmarks/calibration.py [--data ../shared/data] [--frames 10] [--write]

Videos mug_pour and red_cups of the shared data, every second frame, 208 x 120 px. The fault is put in, the metric taken against the untouched
source: 'source' is the column of a perfect edit. EXPECTED says what must move and what must not; a cell that moves otherwise fails the run.
Networks are those with real weights here, and each carries its name: RAFT-small, EfficientNet-Lite0 in place of DINOv2 and CLIP, shift-tolerant
LPIPS, nano-video in place of I3D. Text metrics want a real CLIP, which is not to be had here: they are not in the table.
"""

from __future__ import annotations

import argparse
import functools
import re
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from pvtt_model.artifacts import sha256_of_file
from pvtt_model.backbones.flow import load_flow
from pvtt_model.backbones.image import load_image_encoder
from pvtt_model.backbones.perceptual import load_perceptual
from pvtt_model.backbones.video import load_video_features
from pvtt_model.data.video_io import decode
from pvtt_model.evaluation.background_lpips import background_lpips
from pvtt_model.evaluation.background_psnr import background_psnr_db
from pvtt_model.evaluation.background_ssim import background_ssim
from pvtt_model.evaluation.crops import mask_box
from pvtt_model.evaluation.distortions import distorted
from pvtt_model.evaluation.dynamic_degree import dynamic_degree
from pvtt_model.evaluation.fid import frame_moments
from pvtt_model.evaluation.flicker import added_flicker, temporal_flicker
from pvtt_model.evaluation.frame_ssim import frame_motion, frame_ssim
from pvtt_model.evaluation.frames import decode_reference
from pvtt_model.evaluation.frechet import Moments, distance_of
from pvtt_model.evaluation.fvd import video_features
from pvtt_model.evaluation.metric_cards import cards_markdown
from pvtt_model.evaluation.similarity import embed_reference, product_similarity
from pvtt_model.evaluation.structure_distance import structure_distance
from pvtt_model.evaluation.warp_error import warp_error
from pvtt_model.nano.shipped import FOLDER, shipped
from pvtt_model.specs import ModelSpec

VIDEOS = {"mug_pour": "duck_toy", "red_cups": "teapot"}  # and the product that is swapped in
HEIGHT, WIDTH, EVERY = 120, 208, 2
WINDOW, STEP = 5, 1  # frames of a clip of the video distance, and between two starts
FAULTS = (
    "noise inside", "noise outside", "blur inside", "blur outside", "hue inside", "hue outside", "shuffled", "frozen", "swapped product",
)  # fmt: skip
#: Of each metric what must become worse (-), better (+) or stay (0); what is left out may go either way. By the sign of the number: > rises.
EXPECTED: dict[str, dict[str, str]] = {
    "bg_psnr_db": {"noise inside": "=", "blur inside": "=", "hue inside": "=", "swapped product": "=", "noise outside": "<", "blur outside": "<",
                   "hue outside": "<", "shuffled": "<", "frozen": "<"},
    "bg_ssim": {"noise inside": "=", "blur inside": "=", "hue inside": "=", "swapped product": "=", "noise outside": "<", "blur outside": "<",
                "shuffled": "<", "frozen": "<"},
    "bg_lpips[stlpips-alex]": {"noise inside": "=", "blur inside": "=", "hue inside": "=", "swapped product": "=", "noise outside": ">",
                               "blur outside": ">", "hue outside": ">", "shuffled": ">", "frozen": ">"},
    "dino_i[tf-efficientnet-lite0]": {"noise inside": "<", "blur inside": "<", "hue inside": "<", "swapped product": "<", "noise outside": "=",
                                      "blur outside": "=", "hue outside": "="},
    "frame_ssim": {"noise outside": "<", "blur outside": ">", "shuffled": "<", "frozen": ">"},
    "frame_motion": {"noise outside": ">", "shuffled": ">", "frozen": "<"},
    "warp_error[raft-small]": {"noise outside": ">", "shuffled": ">", "frozen": "<"},
    "temporal_flicker": {"noise outside": "<", "shuffled": "<", "frozen": ">"},
    "added_flicker": {"noise inside": "=", "blur inside": "=", "hue inside": "=", "swapped product": "=", "noise outside": ">", "shuffled": ">",
                      "frozen": ">"},
    "dynamic_degree": {"shuffled": ">", "frozen": "<"},
    "structure_distance[tf-efficientnet-lite0]": {fault: ">" for fault in FAULTS},
    "fid[tf-efficientnet-lite0]": {fault: ">" for fault in FAULTS if fault != "shuffled"} | {"shuffled": "="},
    "fvd[nano-video]": {fault: ">" for fault in FAULTS},
}  # fmt: skip
START, END = "<!-- calibration -->", "<!-- /calibration -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--frames", type=int, default=10)
    parser.add_argument("--write", action="store_true", help="put the tables between the markers of docs/evaluation.md")
    args = parser.parse_args()
    if not args.data.is_dir():
        raise SystemExit(f"no shared data at {args.data}; give --data.")
    torch.set_num_threads(1)
    text, wrong = "", []
    for name, other in VIDEOS.items():
        table = measure_all(args.data, name, other, args.frames)
        wrong += [f"{name}: {line}" for line in misses(table)]
        text += f"\n`{name}`, {args.frames} frames, `{other}` swapped in\n\n{markdown(table)}\n"
    print(text)
    print("\n".join(wrong) or "every metric moved as it must")
    if args.write:
        write(Path(__file__).resolve().parents[1] / "docs" / "evaluation.md", text)
    sys.exit(bool(wrong))


def measure_all(data: Path, name: str, other: str, frames: int) -> dict[str, dict[str, float]]:
    """metric -> column ('source' and each fault) -> value."""
    video, mask = footage(data, name, frames)
    faults = distorted(video, mask, decode_reference((data / "products" / other / "00.jpg").read_bytes()))
    videos = {"source": video} | {fault: faults[fault] for fault in FAULTS}
    return {metric: {column: value(edit) for column, edit in videos.items()} for metric, value in metrics(data, video, mask).items()}


def footage(data: Path, name: str, frames: int) -> tuple[Tensor, Tensor]:
    video, mask = (decode((data / "videos" / f"{name}{end}.mp4").read_bytes())[::EVERY][:frames] for end in ("", "_mask"))
    small = F.interpolate(video.float(), size=(HEIGHT, WIDTH), mode="bilinear", antialias=True).round().clamp(0, 255).to(torch.uint8)
    covered = F.interpolate((mask.float().mean(1, keepdim=True) > 127).float(), size=(HEIGHT, WIDTH), mode="area")
    return small, covered[:, 0] > 0.5


def metrics(data: Path, source: Tensor, mask: Tensor) -> dict[str, Callable[[Tensor], float]]:
    weights = data / "weights"
    raft, lite0, lpips = (weights / n for n in (
        "raft_small_torchvision.safetensors", "tf_efficientnet_lite0_timm.safetensors", "stlpips_alex_shift_tolerant.pth"
    ))  # fmt: skip
    flow = load_flow(ModelSpec(architecture="raft-small", weights=str(raft)), raft)
    image = load_image_encoder(ModelSpec(architecture="tf-efficientnet-lite0", weights=str(lite0)), lite0)
    perceptual = load_perceptual(ModelSpec(architecture="stlpips-alex", weights=str(lpips), sha256=sha256_of_file(lpips)), lpips)
    video_net = load_video_features(shipped("video", ModelSpec), FOLDER / "video")
    top, bottom, left, right = mask_box(mask[len(mask) // 2], 0.0)
    middle = torch.where(mask[len(mask) // 2], source[len(mask) // 2], torch.tensor(128, dtype=torch.uint8))
    reference = embed_reference(image, middle[:, top:bottom, left:right])
    clips = functools.partial(clip_moments, video_net)
    real_frames, real_clips = frame_moments(image, image.width, [source]), clips(source)
    return {
        "bg_psnr_db": lambda edit: background_psnr_db(edit, source, mask),
        "bg_ssim": lambda edit: background_ssim(edit, source, mask),
        "bg_lpips[stlpips-alex]": lambda edit: background_lpips(perceptual, edit, source, mask),
        "dino_i[tf-efficientnet-lite0]": lambda edit: product_similarity(image, edit, mask, reference, 0.1),
        "frame_ssim": frame_ssim,
        "frame_motion": frame_motion,
        "warp_error[raft-small]": lambda edit: warp_error(flow, edit).value,
        "temporal_flicker": temporal_flicker,
        "added_flicker": lambda edit: added_flicker(edit, source, mask),
        "dynamic_degree": dynamic_degree,
        "structure_distance[tf-efficientnet-lite0]": lambda edit: structure_distance(image, edit, source),
        "fid[tf-efficientnet-lite0]": lambda edit: distance_of(real_frames, frame_moments(image, image.width, [edit])),
        "fvd[nano-video]": lambda edit: distance_of(real_clips, clips(edit)),
    }


def clip_moments(network, video_TCHW: Tensor) -> Moments:  # type: ignore[no-untyped-def]
    """Of all windows of five frames: a distance of six samples, good for its order alone."""
    moments = Moments(network.width)
    for start in range(0, len(video_TCHW) - WINDOW + 1, STEP):
        moments.add(video_features(network, video_TCHW[start : start + WINDOW]))
    return moments


def misses(table: dict[str, dict[str, float]]) -> list[str]:
    """Cells that do not move as EXPECTED says."""
    found = []
    for metric, row in table.items():
        for fault, sign in EXPECTED[metric].items():
            before, after = row["source"], row[fault]
            close = abs(after - before) <= 1e-6 * max(1.0, abs(before))
            right = close if sign == "=" else not close and (after > before) == (sign == ">")
            if not right:
                found.append(f"{metric} under '{fault}' should be {sign} the source's {before:.6g}, is {after:.6g}")
    return found


def markdown(table: dict[str, dict[str, float]]) -> str:
    """A row a metric; a cell that had to move is followed by its sign."""
    columns = ("source", *FAULTS)
    lines = ["| metric | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for metric, row in table.items():
        cells = [f"{row[c]:.4g}" + (f" {EXPECTED[metric][c]}" if c in EXPECTED[metric] else "") for c in columns]
        lines.append(f"| `{metric}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write(path: Path, text: str) -> None:
    whole = path.read_text()
    whole = re.sub(f"{START}.*?{END}", lambda _: f"{START}\n{text}\n{END}", whole, flags=re.S)
    whole = re.sub("<!-- cards -->.*?<!-- /cards -->", lambda _: f"<!-- cards -->\n\n{cards_markdown()}\n\n<!-- /cards -->", whole, flags=re.S)
    path.write_text(whole)


if __name__ == "__main__":
    main()
