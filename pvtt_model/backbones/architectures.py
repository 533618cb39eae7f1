"""The published architectures by name, and nano ones of the same classes. Plain data: importing this loads no torch.

Sizes: Wan2.1 and VACE, arXiv:2503.20314 and 2503.07598 (the config.json of the released diffusers folders); UMT5-XXL,
arXiv:2304.09151; DINOv2 ViT-L/14, arXiv:2304.07193; OpenCLIP ViT-H/14; SAM 2.1, arXiv:2408.00714 (the configs in its
package). Wan2.1-1.3B has the same full spatio-temporal attention as 14B: 30 layers of width 1536 against 40 of 5120.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

Family = Literal["dit", "vae", "text", "image", "clip", "video", "sam2"]
Kind = Literal["vace", "t2v", "i2v", "ti2v"]
Expert = Literal["high", "low"]


class Architecture(NamedTuple):
    family: Family
    library_class: str  # dotted path of the published class
    config: dict[str, Any]
    nano: bool = False  # may be made from a seed; the big ones want real weights
    kind: Kind | None = None  # of a backbone, by what it is given beside text and noisy latents
    boundary: float | None = None  # of two experts: the noise level at and above which the high one works


def _vace(heads: int, head_dim: int, ffn_dim: int, layers: int, vace_every: int, text_dim: int, **more: Any) -> dict[str, Any]:
    return {
        "patch_size": [1, 2, 2],
        "num_attention_heads": heads,
        "attention_head_dim": head_dim,
        "in_channels": 16,
        "out_channels": 16,
        "text_dim": text_dim,
        "freq_dim": 256,
        "ffn_dim": ffn_dim,
        "num_layers": layers,
        "vace_layers": list(range(0, layers, vace_every)),  # must contain 0
        "vace_in_channels": 96,  # 2 x 16 latent channels + 8 x 8 mask pixels
        **more,
    }


def _sam2(size: str, *changes: str) -> Architecture:
    """A config of the sam2 package by its published name, with Hydra overrides."""
    config = {"config": f"configs/sam2.1/sam2.1_hiera_{size}.yaml", "changes": changes}
    return Architecture("sam2", "sam2.sam2_video_predictor.SAM2VideoPredictor", config, nano=bool(changes))


_NANO_SAM2 = (
    "image_size=128",
    "image_encoder.trunk.embed_dim=16",
    "image_encoder.trunk.stages=[1,1,2,1]",
    "image_encoder.trunk.global_att_blocks=[3]",
    "image_encoder.neck.d_model=32",
    "image_encoder.neck.backbone_channel_list=[128,64,32,16]",
    "image_encoder.neck.position_encoding.num_pos_feats=32",
    "memory_attention.d_model=32",
    "memory_attention.num_layers=2",
    "memory_attention.layer.d_model=32",
    "memory_attention.layer.dim_feedforward=64",
    "memory_attention.layer.self_attention.embedding_dim=32",
    "memory_attention.layer.cross_attention.embedding_dim=32",
    "memory_attention.layer.cross_attention.kv_in_dim=16",
    "memory_encoder.in_dim=32",
    "memory_encoder.out_dim=16",
    "memory_encoder.position_encoding.num_pos_feats=16",
    "memory_encoder.mask_downsampler.embed_dim=32",
    "memory_encoder.fuser.layer.dim=32",
)

_NANO_DIT = {"freq_dim": 64, "in_channels": 32, "out_channels": 32, "vace_in_channels": 128}  # 2 x 32 latent channels + 64 mask pixels
_DIT, _WAN, _VAE = "diffusers.WanVACETransformer3DModel", "diffusers.WanTransformer3DModel", "diffusers.AutoencoderKLWan"


def _nano(**changes: Any) -> dict[str, Any]:
    plain = {k: v for k, v in _vace(4, 32, 512, 4, 2, 96, **_NANO_DIT).items() if not k.startswith("vace_")}
    return plain | changes


ARCHITECTURES: dict[str, Architecture] = {
    "wan2.1-vace-1.3b": Architecture("dit", _DIT, _vace(12, 128, 8960, 30, 2, 4096), kind="vace"),
    "wan2.1-vace-14b": Architecture("dit", _DIT, _vace(40, 128, 13824, 40, 5, 4096), kind="vace"),
    "nano-s": Architecture("dit", _DIT, _vace(4, 32, 512, 4, 2, 96, **_NANO_DIT), nano=True, kind="vace"),
    "nano-m": Architecture("dit", _DIT, _vace(6, 32, 768, 6, 2, 96, **_NANO_DIT), nano=True, kind="vace"),
    "nano-t2v": Architecture("dit", _WAN, _nano(), nano=True, kind="t2v"),
    "nano-i2v": Architecture("dit", _WAN, _nano(in_channels=68, image_dim=96, added_kv_proj_dim=128), nano=True, kind="i2v"),
    "nano-t2v-a14b": Architecture("dit", _WAN, _nano(), nano=True, kind="t2v", boundary=0.875),
    "nano-i2v-a14b": Architecture("dit", _WAN, _nano(in_channels=68), nano=True, kind="i2v", boundary=0.9),
    "nano-ti2v": Architecture("dit", _WAN, _nano(in_channels=48, out_channels=48), nano=True, kind="ti2v"),
    "wan2.1-vae": Architecture("vae", _VAE, {"base_dim": 96, "z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2}),
    "nano-vae": Architecture(
        "vae",
        _VAE,
        {
            "base_dim": 16,
            "z_dim": 32,
            "latents_mean": [0.0] * 32,  # the trained weights' own config says better
            "latents_std": [1.0] * 32,
            "dim_mult": [1, 2, 4],
            "num_res_blocks": 1,
            "temperal_downsample": [True, True],
            "patch_size": 2,
            "in_channels": 12,
            "out_channels": 12,
            "scale_factor_temporal": 4,
            "scale_factor_spatial": 8,
        },
        nano=True,
    ),
    "umt5-xxl": Architecture(
        "text",
        "transformers.UMT5EncoderModel",
        {"vocab_size": 256384, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "feed_forward_proj": "gated-gelu"},
    ),
    "nano-umt5": Architecture(
        "text",
        "transformers.UMT5EncoderModel",
        {"vocab_size": 512, "d_model": 96, "d_kv": 24, "d_ff": 256, "num_layers": 2, "num_heads": 4, "feed_forward_proj": "gated-gelu"},
        nano=True,
    ),
    "dinov2-vit-l14": Architecture("image", "timm.create_model", {"model_name": "vit_large_patch14_dinov2", "width": 1024, "patch": 14}),
    "nano-dinov2": Architecture(
        "image", "timm.create_model", {"model_name": "vit_small_patch14_dinov2", "width": 128, "patch": 8, "depth": 4, "num_heads": 4}, nano=True
    ),
    "nano-judge": Architecture(  # of another kind than what conditions the adapter, so that it cannot be pleased by its habits
        "image",
        "timm.create_model",
        {"model_name": "convnext_atto", "depths": [1, 2, 2, 1], "dims": [32, 64, 128, 160], "width": 160, "patch": 16, "convnet": True},
        nano=True,
    ),
    "tf-efficientnet-lite0": Architecture(  # ImageNet classes, arXiv:1905.11946: a small stand-in for DINOv2 where masks are found by a reference
        "image", "timm.create_model", {"model_name": "tf_efficientnet_lite0", "width": 1280, "patch": 32, "convnet": True}
    ),
    "sam2.1-hiera-t": _sam2("t"),
    "sam2.1-hiera-s": _sam2("s"),
    "sam2.1-hiera-b+": _sam2("b+"),
    "sam2.1-hiera-l": _sam2("l"),
    "nano-sam2": _sam2("t", *_NANO_SAM2),
    "openclip-vit-h14": Architecture(  # open_clip knows the rest by the model's name; the plan counts by these
        "clip",
        "open_clip.create_model",
        {"model_name": "ViT-H-14", "embed_dim": 1024, "vision_cfg": {"layers": 32, "width": 1280, "patch_size": 14, "image_size": 224}},
    ),
    "nano-openclip": Architecture(
        "clip",
        "open_clip.CLIP",
        {
            "embed_dim": 64,
            "vision_cfg": {"layers": 3, "width": 96, "head_width": 32, "patch_size": 8, "image_size": 64},
            "text_cfg": {"context_length": 40, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
        },
        nano=True,
    ),
    "i3d": Architecture("video", "torch.jit.ScriptModule", {"width": 400, "least_frames": 9}),
    "nano-video": Architecture("video", "torch.jit.ScriptModule", {"width": 128, "least_frames": 3}, nano=True),
}


def architecture(name: str, family: Family | None = None) -> Architecture:
    """The architecture called `name`. Raises ValueError listing the valid names, of `family` where it is given."""
    found = ARCHITECTURES.get(name)
    valid = [n for n, a in ARCHITECTURES.items() if family in (None, a.family)]
    if found is None or name not in valid:
        raise ValueError(f"no {family or ''} architecture '{name}'. Valid: {', '.join(valid)}.")
    return found


_FILES: dict[Family, tuple[str, ...]] = {
    "dit": ("transformer/*", "config.json", "diffusion_pytorch_model*"),
    "vae": ("vae/*", "config.json", "diffusion_pytorch_model*"),
    "text": ("text_encoder/*", "tokenizer/*", "config.json", "model*.safetensors*", "tokenizer*", "special_tokens_map.json", "spiece.model"),
    "image": ("model.safetensors", "config.json"),
    "clip": ("open_clip_model.safetensors", "open_clip_config.json"),
    "video": ("*.pt",),
    "sam2": ("sam2*.safetensors", "sam2*.pt"),  # published as .pt: read by hash, tensors only
}


def files_wanted(name: str) -> tuple[str, ...]:
    """Glob patterns of the files that loading the architecture reads, of a whole diffusers repository or of the part's own."""
    return _FILES[architecture(name).family]


#: Linear layers of a Wan main block that a LoRA target names, as patterns below `blocks.N.`. One table: what is trained is what is counted.
LORA_LAYERS = {
    "attn1": r"attn1\.(to_q|to_k|to_v|to_out\.0)",
    "attn2": r"attn2\.(to_q|to_k|to_v|to_out\.0)",
    "ffn": r"ffn\.net\.(0\.proj|2)",
}
