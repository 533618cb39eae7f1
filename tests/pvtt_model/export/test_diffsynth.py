"""A LoRA written in DiffSynth-Studio's names, taken by its own loader into its own network: the same velocity as ours. It is
no dependency of the project, and the test is skipped where it is not installed."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig

from pvtt_model.backbones.dit import load_transformer
from pvtt_model.backbones.original_keys import to_original
from pvtt_model.export.lora_file import trained_layers
from pvtt_model.export.lora_formats import write_layers
from pvtt_model.specs import BackboneSpec, LoraSpec
from pvtt_model.training.trained_tensors import split_trainable

dit = pytest.importorskip("diffsynth.models.wan_video_dit", reason="DiffSynth-Studio is not installed")
wan_video = pytest.importorskip("diffsynth.pipelines.wan_video", reason="DiffSynth-Studio is not installed")
general = pytest.importorskip("diffsynth.utils.lora.general", reason="DiffSynth-Studio is not installed")


@pytest.mark.parametrize("alpha", [4, 6])
def test_its_loader_takes_our_lora(alpha: int) -> None:
    torch.manual_seed(0)
    ours = load_transformer(BackboneSpec(architecture="nano-t2v", weights="seed:3"), None).eval()
    config = ours.config
    width = config.num_attention_heads * config.attention_head_dim
    theirs = dit.WanModel(
        dim=width, in_dim=config.in_channels, ffn_dim=config.ffn_dim, out_dim=config.out_channels, text_dim=config.text_dim,
        freq_dim=config.freq_dim, eps=config.eps, patch_size=tuple(config.patch_size), num_heads=config.num_attention_heads,
        num_layers=config.num_layers, has_image_input=False,
    ).eval()  # fmt: skip
    theirs.load_state_dict(to_original(ours.state_dict()))
    noisy, text, time = torch.randn(1, config.in_channels, 2, 8, 8), torch.randn(1, 7, config.text_dim), torch.tensor([500.0])

    def differ() -> float:
        with torch.no_grad():
            one = ours(noisy, time, text, return_dict=False)[0]
            return float((one - wan_video.model_fn_wan_video(dit=theirs, latents=noisy, timestep=time, context=text)).abs().max() / one.abs().max())

    assert differ() < 1e-5, "the base alone"
    targets = ["to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2"]
    ours.add_adapter(LoraConfig(r=4, lora_alpha=alpha, target_modules=targets, init_lora_weights=False))
    assert differ() > 1e-3
    lora = {f"transformer.{name}": p.detach() for name, p in ours.named_parameters() if ".lora_" in name}
    layers = trained_layers(
        {k: v.contiguous() for k, v in split_trainable(lora).lora.items()}, LoraSpec(rank=4, alpha=alpha, targets=("attn1", "attn2", "ffn"))
    )
    written, _ = write_layers(layers, "diffsynth")
    general.GeneralLoRALoader().fuse_lora_to_base_model(theirs, written)
    assert differ() < 1e-5
