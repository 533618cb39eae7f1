"""From a trained model's folder to shipped weights: half precision, one file a model, its hash and its card in index.json."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from pvtt_model.artifacts import sha256_of_file
from pvtt_model.nano.shipped import FOLDER, INDEX

#: name -> architecture, and the part's folder and weight file below the model's own folder.
PARTS: dict[str, tuple[str, str, str]] = {
    "vae": ("nano-vae", "", "diffusion_pytorch_model.safetensors"),
    "text": ("nano-umt5", "text_encoder", "model.safetensors"),
    "dinov2": ("nano-dinov2", "", "model.safetensors"),
    "judge": ("nano-judge", "", "model.safetensors"),
    "clip": ("nano-openclip", "", "open_clip_model.safetensors"),
    "nano-s": ("nano-s", "", "diffusion_pytorch_model.safetensors"),
    "nano-m": ("nano-m", "", "diffusion_pytorch_model.safetensors"),
    "video": ("nano-video", "", "video_features.pt"),
}


def pack(name: str, source: Path, card: dict[str, Any], into: Path = FOLDER) -> dict[str, Any]:
    """Copy the model of `source` to into/name and enter it in the index; returns its entry. card: data, steps, minutes, score, seed."""
    architecture, part, file = PARTS[name]
    target = into / name
    shutil.rmtree(target, ignore_errors=True)
    (target / part).mkdir(parents=True)
    if file.endswith(".safetensors"):
        state = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in load_file(source / part / file).items()}
        save_file(state, target / part / file, metadata={"format": "pt"})
    else:
        shutil.copy(source / part / file, target / part / file)
    if (source / part / "config.json").is_file():
        config = json.loads((source / part / "config.json").read_text())
        kept = {k: v for k, v in config.items() if k not in ("_name_or_path", "dtype", "torch_dtype")}
        (target / part / "config.json").write_text(json.dumps(kept, indent=1) + "\n")
    if (source / "tokenizer").is_dir():
        shutil.copytree(source / "tokenizer", target / "tokenizer")
    entry = {"architecture": architecture, "sha256": sha256_of_file(target / part / file), "bytes": (target / part / file).stat().st_size, **card}
    index = json.loads(INDEX.read_text()) if INDEX.is_file() else {}
    index[name] = entry
    INDEX.write_text(json.dumps(dict(sorted(index.items())), indent=1) + "\n")
    return entry
