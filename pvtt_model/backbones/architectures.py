"""The published architectures by name, and nano ones of the same classes. Plain data: importing this loads no torch.

Sizes: Wan, wan_configs.py; UMT5-XXL, arXiv:2304.09151; DINOv2 ViT-L/14, arXiv:2304.07193; OpenCLIP ViT-H/14; SAM 2.1, arXiv:2408.00714
(the configs in its package).
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from pvtt_model.backbones.wan_configs import LARGE, MIDDLE, SMALL, WAN21_VAE, WAN22_VAE, wan, with_image, with_vace

Family = Literal["dit", "vae", "text", "image", "clip", "video", "sam2", "flow", "perceptual", "inception"]
Kind = Literal["vace", "t2v", "i2v", "ti2v"]
#: The diffusers pipeline that loads a backbone of the kind as it is trained here: TI2V-5B with its first frame given.
PIPELINES: dict[Kind, str] = {"vace": "WanVACEPipeline", "t2v": "WanPipeline", "i2v": "WanImageToVideoPipeline", "ti2v": "WanImageToVideoPipeline"}
Expert = Literal["high", "low"]


class Published(NamedTuple):
    """What its authors sample a backbone with (generate.py, wan/configs and README of the original repositories)."""

    shift: float
    guidance: tuple[float, ...] = (5.0,)  # uncond + scale (cond - uncond); one a network, the high expert first
    num_steps: int = 50
    fps: int = 16
    num_frames: int = 81


class Architecture(NamedTuple):
    """A published class and its sizes. Of a backbone also its kind, by what it is given beside text and noisy latents: 'vace' a context at a
    branch of its own; 't2v' nothing; 'i2v' mask and first frame in further input channels; 'ti2v' first-frame latents in place of noise, with
    a time of their own for each token.

    boundary: the noise level, of 1, at and above which the high expert works and below which the low one does (Wan2.2's A14B). Both experts
    have these sizes, and weights of their own.
    """

    family: Family
    library_class: str  # dotted path of the published class
    config: dict[str, Any]
    nano: bool = False  # may be made from a seed; the big ones want real weights
    kind: Kind | None = None
    boundary: float | None = None
    vae: str | None = None  # whose latents the backbone was trained on
    published: Published | None = None


def _dit(kind: Kind, config: dict[str, Any], published: Published | None, boundary: float | None = None) -> Architecture:
    """A Wan backbone; one that was not published is nano."""
    name = "WanVACETransformer3DModel" if kind == "vace" else "WanTransformer3DModel"
    vae = ("wan2.2-vae" if kind == "ti2v" else "wan2.1-vae") if published else ("nano-vae22" if kind == "ti2v" else "nano-vae")
    return Architecture("dit", f"diffusers.{name}", config, published is None, kind, boundary, vae, published)


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

_NANO_S, _NANO_M = (wan(*sizes, 96, channels=32, freq_dim=64) for sizes in ((4, 32, 512, 4), (6, 32, 768, 6)))
_NANO_TI2V = wan(4, 32, 512, 4, 96, channels=48, freq_dim=64)
_VAE = "diffusers.AutoencoderKLWan"

ARCHITECTURES: dict[str, Architecture] = {
    "wan2.1-vace-1.3b": _dit("vace", with_vace(wan(*SMALL), 2), Published(16.0)),
    "wan2.1-vace-14b": _dit("vace", with_vace(wan(*LARGE), 5), Published(16.0)),
    "wan2.1-t2v-1.3b": _dit("t2v", wan(*SMALL), Published(8.0, (6.0,))),
    "wan2.1-t2v-14b": _dit("t2v", wan(*LARGE), Published(5.0)),
    "wan2.1-i2v-14b-480p": _dit("i2v", with_image(wan(*LARGE), 1280), Published(3.0, num_steps=40)),
    "wan2.1-i2v-14b-720p": _dit("i2v", with_image(wan(*LARGE), 1280), Published(5.0, num_steps=40)),
    "wan2.2-t2v-a14b": _dit("t2v", wan(*LARGE), Published(12.0, (4.0, 3.0), 40), boundary=0.875),
    "wan2.2-i2v-a14b": _dit("i2v", with_image(wan(*LARGE), None), Published(5.0, (3.5, 3.5), 40), boundary=0.9),
    "wan2.2-ti2v-5b": _dit("ti2v", wan(*MIDDLE, channels=48), Published(5.0, fps=24, num_frames=121)),
    "nano-s": _dit("vace", with_vace(_NANO_S, 2), None),
    "nano-m": _dit("vace", with_vace(_NANO_M, 2), None),
    "nano-t2v": _dit("t2v", _NANO_S, None),
    "nano-i2v": _dit("i2v", with_image(_NANO_S, 96), None),  # nano-openclip's tokens
    "nano-t2v-a14b": _dit("t2v", _NANO_S, None, boundary=0.875),
    "nano-i2v-a14b": _dit("i2v", with_image(_NANO_S, None), None, boundary=0.9),
    "nano-ti2v": _dit("ti2v", _NANO_TI2V, None),
    "wan2.1-vae": Architecture("vae", _VAE, WAN21_VAE),
    "wan2.2-vae": Architecture("vae", _VAE, WAN22_VAE),
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
    "nano-vae22": Architecture(
        "vae",
        _VAE,
        WAN22_VAE | {"base_dim": 8, "decoder_base_dim": 8, "num_res_blocks": 1, "latents_mean": [0.0] * 48, "latents_std": [1.0] * 48},
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
    "dino-vit-b8": Architecture("image", "timm.create_model", {"model_name": "vit_base_patch8_224.dino", "width": 768, "patch": 8}),
    "dinov2-vit-b14": Architecture("image", "timm.create_model", {"model_name": "vit_base_patch14_dinov2", "width": 768, "patch": 14}),
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
    "openclip-vit-b32": Architecture(  # OpenAI's weights (their GELU) in open_clip's layout: what the benchmark's compat mode is defined by
        "clip",
        "open_clip.create_model",
        {"model_name": "ViT-B-32-quickgelu", "embed_dim": 512, "vision_cfg": {"layers": 12, "width": 768, "patch_size": 32, "image_size": 224}},
    ),
    "i3d": Architecture("video", "torch.jit.ScriptModule", {"width": 400, "least_frames": 9}),
    "nano-video": Architecture("video", "torch.jit.ScriptModule", {"width": 128, "least_frames": 3}, nano=True),
    "raft-small": Architecture("flow", "torchvision.models.optical_flow.raft_small", {"model_name": "raft_small"}),
    "raft-large": Architecture("flow", "torchvision.models.optical_flow.raft_large", {"model_name": "raft_large"}),
    "lpips-alex": Architecture("perceptual", "lpips.LPIPS", {"net": "alex"}),
    "lpips-vgg": Architecture("perceptual", "lpips.LPIPS", {"net": "vgg"}),
    "stlpips-alex": Architecture("perceptual", "lpips.LPIPS", {"net": "alex", "shift_tolerant": True}),  # its scores are not those of LPIPS
    "fid-inception": Architecture("inception", "torch.jit.ScriptModule", {"width": 2048}),  # the export of the FID's own network
    "torchvision-inception": Architecture("inception", "torchvision.models.inception_v3", {"width": 2048}),  # other weights and pooling
}


def architecture(name: str, family: Family | None = None) -> Architecture:
    """The architecture called `name`. Raises ValueError listing the valid names, of `family` where it is given."""
    found = ARCHITECTURES.get(name)
    valid = [n for n, a in ARCHITECTURES.items() if family in (None, a.family)]
    if found is None or name not in valid:
        raise ValueError(f"no {family or ''} architecture '{name}'. Valid: {', '.join(valid)}.")
    return found


def latent_grid(vae: str) -> tuple[int, int, int]:
    """(channels, frames a latent frame stands for after the first, pixels a cell stands for either way) of a VAE's latents: 16, 4, 8 of Wan2.1's."""
    config = architecture(vae, "vae").config
    return int(config["z_dim"]), int(config["scale_factor_temporal"]), int(config["scale_factor_spatial"])


def clip_channels(clip: str) -> int:
    """Channels of a CLIP's image tokens."""
    return int(architecture(clip, "clip").config["vision_cfg"]["width"])


def refuse_wrong_expert(name: str, expert: Expert | None) -> None:
    """Raises ValueError where a backbone of two experts is named without one, or one that has none with one."""
    boundary = architecture(name, "dit").boundary
    if boundary is not None and expert is None:
        raise ValueError(
            f"backbone '{name}' is two experts, split at noise level {boundary:g}, and `expert` names none. Set backbone.expert to 'high' (at and "
            "above it) or 'low'; a stage trains one."
        )
    if boundary is None and expert is not None:
        two = [n for n, a in ARCHITECTURES.items() if a.boundary is not None]
        raise ValueError(f"backbone '{name}' is one network, but `expert` is '{expert}'. Leave it out, or use one of two experts: {', '.join(two)}.")


#: Where a backbone lies in a repository: diffusers' name, then the original's. One without experts may also be the repository itself.
DIT_FOLDERS: dict[Expert | None, tuple[str, ...]] = {
    None: ("transformer",),
    "high": ("transformer", "high_noise_model"),
    "low": ("transformer_2", "low_noise_model"),
}
_FILES: dict[Family, tuple[str, ...]] = {
    "dit": ("config.json", "diffusion_pytorch_model*"),
    "vae": ("vae/*", "config.json", "diffusion_pytorch_model*"),
    "text": ("text_encoder/*", "tokenizer/*", "config.json", "model*.safetensors*", "tokenizer*", "special_tokens_map.json", "spiece.model"),
    "image": ("model.safetensors", "config.json"),
    "clip": ("open_clip_model.safetensors", "open_clip_config.json"),
    "video": ("*.pt",),
    "flow": ("*.safetensors",),
    "perceptual": ("*.safetensors", "*.pth"),  # published as .pth: read by hash, tensors only
    "inception": ("*.safetensors", "*.pt"),
    "sam2": ("sam2*.safetensors", "sam2*.pt"),  # published as .pt: read by hash, tensors only
}


def pipeline_of(name: str) -> str:
    """The diffusers pipeline of a backbone."""
    return PIPELINES[architecture(name, "dit").kind or "vace"]


def files_wanted(name: str, expert: Expert | None = None) -> tuple[str, ...]:
    """Glob patterns of the files that loading the architecture reads, of a whole repository in diffusers' or Wan's own layout, or of the
    part's own; of two experts those of one."""
    family = architecture(name).family
    folders = DIT_FOLDERS[expert] if family == "dit" else ()
    return (*(f"{folder}/*" for folder in folders), *_FILES[family])
