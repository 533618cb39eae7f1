"""`pvtt export` through typer, on real files."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from cli.main import app
from pvtt_model.export.lora_file import lora_bytes
from pvtt_model.low_rank.layers import LowRankLayer
from pvtt_model.nano.shipped import shipped_folder


def run(*args):
    return CliRunner().invoke(app, ["export", *map(str, args)])


@pytest.fixture
def lora(tmp_path):
    g = torch.Generator().manual_seed(0)
    layers = {f"blocks.{b}.attn1.to_q": LowRankLayer(torch.randn(2, 128, generator=g), torch.randn(128, 2, generator=g), 4.0) for b in range(4)}
    path = tmp_path / "lora.safetensors"
    path.write_bytes(lora_bytes(layers, "diffusers"))
    return path, layers


def test_there_and_back(lora, tmp_path):
    path, _ = lora
    for format in ("comfyui", "diffsynth", "original", "diffusers"):
        answer = run(path, "--format", format, "--out", tmp_path / "out" / f"{format}.safetensors")
        assert answer.exit_code == 0, answer.output
        assert "4 layers, rank 2, " in answer.stdout and answer.stdout.rstrip().endswith(f"-> {format}")
        path = tmp_path / "out" / f"{format}.safetensors"
    assert path.read_bytes() == lora[0].read_bytes()
    assert "diffusion_model.blocks.0.self_attn.q.lora_up.weight" in load_file(tmp_path / "out" / "comfyui.safetensors")
    again = run(lora[0], "--format", "comfyui", "--out", path)
    assert again.exit_code == 1 and "exists" in again.stderr.lower() and path.read_bytes() == lora[0].read_bytes()


def test_merged(lora, tmp_path):
    path, layers = lora
    base = shipped_folder("nano:nano-s")
    answer = run(path, "--format", "merged", "--base", base, "--out", tmp_path / "merged", "--dtype", "float32")
    assert answer.exit_code == 0, answer.output
    (file,) = (tmp_path / "merged").glob("*.safetensors")
    was, now = load_file(next(base.glob("*.safetensors"))), load_file(file)
    assert {n for n in was if not torch.equal(was[n].float(), now[n])} == {f"{m}.weight" for m in layers}
    assert torch.equal(now["blocks.2.attn1.to_q.weight"], layers["blocks.2.attn1.to_q"].updated(was["blocks.2.attn1.to_q.weight"].float()))
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["_class_name"] == "WanVACETransformer3DModel"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("nowhere", "--format", "comfyui"), "nowhere is not here"),
        (("{lora}", "--format", "merged"), "names no base. Give --base"),
        (("{lora}", "--format", "comfyui", "--original-names"), "of --format merged alone"),
        (("{folder}", "--format", "comfyui"), "is no release of PVTT"),
    ],
)
def test_refusals(lora, tmp_path, args, words):
    given = [a.format(lora=lora[0], folder=tmp_path) for a in args]
    answer = run(*given, "--out", tmp_path / "out.safetensors")
    assert answer.exit_code == 1 and words in answer.stderr and not (tmp_path / "out.safetensors").exists()
