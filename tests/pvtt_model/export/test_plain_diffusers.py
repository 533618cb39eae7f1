"""A released LoRA in plain diffusers, in a fresh process that cannot import this project: the same video as ours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanVACEPipeline, WanVACETransformer3DModel
from PIL import Image
from safetensors.torch import load_file, save_file

from pvtt_model.backbones.dit import load_transformer
from pvtt_model.export.lora_file import lora_bytes, read_lora
from pvtt_model.export.release import write_release
from pvtt_model.recipes import recipe_by_name
from pvtt_model.specs import BackboneSpec
from pvtt_model.training.teacher import Teacher
from pvtt_model.training.trained_tensors import split_trainable

#: Wan2.1's shape, for the pipeline counts a VAE's scale by its stages; nano-s has 32 latent channels.
VAE: dict[str, Any] = {"base_dim": 8, "z_dim": 32, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 1, "temperal_downsample": [False, True, True]}
VAE |= {"latents_mean": [0.0] * 32, "latents_std": [1.0] * 32}
SEEDS = {"latents.vae.weights": "seed:0", "stages.*.backbone.architecture": "nano-s", "stages.*.backbone.weights": "seed:7"}
LORAS: dict[str, dict[str, Any]] = {
    "lora": {"rank": 4, "alpha": 6, "dropout": 0.0, "targets": ["attn1", "attn2.to_k", "attn2.to_v", "ffn"], "rank_pattern": {"ffn": 2}},
    "dora": {"rank": 4, "alpha": 4, "dropout": 0.0, "kind": "dora"},
}

#: What a user without this project runs. argv: pipeline folder, inputs, then pairs of LoRA and where its frames go ('-': no LoRA).
SCRIPT = """
import sys
from importlib.util import find_spec
from pathlib import Path

sys.path = [p for p in sys.path if not (Path(p) / "pvtt_model").exists()]
sys.meta_path = [f for f in sys.meta_path if "editable" not in repr(f)]
assert find_spec("pvtt_model") is None

import numpy, torch
from PIL import Image
from diffusers import WanVACEPipeline
from safetensors.torch import load_file, save_file

torch.set_num_threads(1)
folder, given, *pairs = sys.argv[1:]
pipe = WanVACEPipeline.from_pretrained(folder, text_encoder=None, tokenizer=None)
pipe.set_progress_bar_config(disable=True)
given = load_file(given)
video, mask = ([Image.fromarray(frame.numpy()) for frame in given[name]] for name in ("video", "mask"))
for lora, out in zip(pairs[::2], pairs[1::2]):
    if lora != "-":
        pipe.load_lora_weights(lora)
    frames = pipe(
        video=video, mask=mask, prompt_embeds=given["text"], negative_prompt_embeds=given["empty"],
        height=32, width=32, num_frames=5, num_inference_steps=2, guidance_scale=3.0, output_type="np",
        generator=torch.Generator().manual_seed(1),
    ).frames
    save_file({"frames": torch.from_numpy(numpy.ascontiguousarray(frames))}, out)
    if lora != "-":
        pipe.unload_lora_weights()
assert not any(name.partition(".")[0] in ("pvtt_model", "infra", "tasks") for name in sys.modules)
"""


def pipeline(transformer) -> WanVACEPipeline:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = AutoencoderKLWan(**VAE).eval()
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    pipe = WanVACEPipeline(tokenizer=None, text_encoder=None, transformer=transformer, vae=vae, scheduler=scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def frames_of(pipe, given) -> torch.Tensor:
    video, mask = ([Image.fromarray(frame.numpy()) for frame in given[name]] for name in ("video", "mask"))
    frames = pipe(
        video=video, mask=mask, prompt_embeds=given["text"], negative_prompt_embeds=given["empty"],
        height=32, width=32, num_frames=5, num_inference_steps=2, guidance_scale=3.0, output_type="np", generator=torch.Generator().manual_seed(1),
    ).frames  # fmt: skip
    return torch.from_numpy(np.ascontiguousarray(frames))


def trained_release(folder: Path, lora: dict[str, Any]) -> Teacher:
    """A release of a teacher whose every trained tensor was drawn, written as training and publishing do; the teacher."""
    recipe = recipe_by_name("nano", SEEDS | {f"stages.*.lora.{name}": value for name, value in lora.items()})
    stage = recipe.stages[-1]
    teacher = Teacher(load_transformer(BackboneSpec(architecture="nano-s", weights="seed:7"), None), stage.reference, stage.lora, 128, 0).eval()
    g = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, p in teacher.trainable().items():
            if name.endswith(".lora_magnitude_vector.default.weight"):
                p.mul_(1 + 0.2 * torch.rand(p.shape, generator=g))
            else:
                p.add_(0.1 * torch.randn(p.shape, generator=g))
    tensors, adapter, _ = split_trainable({name: p.detach().contiguous() for name, p in teacher.trainable().items()})
    folder.mkdir()
    save_file(tensors, folder / "lora.safetensors")
    save_file(adapter, folder / "adapter.safetensors")
    write_release(
        folder / "release",
        adapter=folder / "adapter.safetensors",
        lora=folder / "lora.safetensors",
        recipe=recipe.model_dump(mode="json"),
        stages=[],
        reports=[],
        verdicts=[],
        lineage={},
        contact_sheet=None,
        created="2026-01-01T00:00:00Z",
    )
    return teacher


@pytest.fixture(scope="module")
def given():
    g = torch.Generator().manual_seed(2)
    mask = torch.zeros(5, 32, 32, 3, dtype=torch.uint8)
    mask[:, 8:24, 8:24] = 255
    texts = torch.randn(2, 1, 6, 96, generator=g)
    return {
        "video": torch.randint(256, (5, 32, 32, 3), generator=g, dtype=torch.uint8),
        "mask": mask,
        "text": texts[0].clone(),
        "empty": texts[1].clone(),
    }


def test_plain_diffusers_makes_our_video(tmp_path, given):
    torch.set_num_threads(1)
    teachers = {kind: trained_release(tmp_path / kind, lora) for kind, lora in LORAS.items()}
    base = load_transformer(BackboneSpec(architecture="nano-s", weights="seed:7"), None)
    assert isinstance(base, WanVACETransformer3DModel)
    pipeline(base).save_pretrained(tmp_path / "pipe")
    save_file(given, tmp_path / "given.safetensors")
    _, layers = read_lora(tmp_path / "lora" / "release" / "pytorch_lora_weights.safetensors")
    (tmp_path / "comfyui.safetensors").write_bytes(lora_bytes(layers, "comfyui"))
    loras = {"base": "-", "comfyui": tmp_path / "comfyui.safetensors", **{kind: tmp_path / kind / "release" for kind in LORAS}}
    pairs = [str(word) for name, lora in loras.items() for word in (lora, tmp_path / f"{name}.frames")]
    (tmp_path / "script.py").write_text(SCRIPT)
    run = subprocess.run(
        [sys.executable, "-I", "script.py", "pipe", "given.safetensors", *pairs], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr[-3000:]
    theirs = {name: load_file(tmp_path / f"{name}.frames")["frames"] for name in loras}
    ours = {kind: frames_of(pipeline(teacher.transformer), given) for kind, teacher in teachers.items()}
    assert theirs["base"].shape == (1, 5, 32, 32, 3)
    for kind in LORAS:
        assert (theirs[kind] - theirs["base"]).abs().max() > 0.01, "the LoRA changes the video"
        torch.testing.assert_close(theirs[kind], ours[kind], rtol=0, atol=1e-5)
    torch.testing.assert_close(theirs["comfyui"], theirs["lora"], rtol=0, atol=1e-5)
    index = json.loads((tmp_path / "lora" / "release" / "model_index.json").read_text())
    assert index["lora"]["modules"] == len(layers) == 4 * (4 + 2 + 2) and {m.rank for m in layers.values()} == {2, 4}
