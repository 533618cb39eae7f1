"""DINOv2 by timm: patch tokens for the reference adapter, the class token for product similarity. arXiv:2304.07193. ConvNets of timm's too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from pvtt_model.backbones.source import architecture_of, frozen, label, load_strictly, part_folder, read_safetensors, seeded, weight_files
from pvtt_model.specs import ModelSpec

NANO_SIDE = 64  # side of the nano models' own pictures; the ViT's positions are interpolated for others
PUBLISHED_SIDE = 224
CONVNET_CELL = 16  # px: of a ConvNet's stages, the last at this stride or below tells one thing from another and still says where it is
WHITE = (255, 255, 255)


class ImageEncoder:
    """Images to features, without gradients but for pooled_with_grad. `name` is to stand beside every number made with it; `side` is the picture it
    was trained on."""

    def __init__(self, model: Any, name: str, width: int, patch: int, side: int = PUBLISHED_SIDE) -> None:
        self.model, self.name, self.width, self.patch, self.side = model, name, width, patch, side
        self._mean = torch.tensor(model.pretrained_cfg["mean"]).view(1, 3, 1, 1)
        self._std = torch.tensor(model.pretrained_cfg["std"]).view(1, 3, 1, 1)

    def to(self, device: torch.device | str) -> ImageEncoder:
        self.model.to(device)
        return self

    def patch_tokens(self, images_BCHW: Tensor) -> Tensor:
        """Images (B, 3, H, W), RGB in [0, 1], as (B, P, C): P = H/patch * W/patch tokens in rows, class token dropped, after the last norm.

        Raises ValueError for a ConvNet, which has none.
        """
        return self.reference_tokens(images_BCHW)[0]

    def reference_tokens(self, images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """`patch_tokens` (B, P, C) and the class tokens of `embed` (B, C), in one pass. Raises ValueError as `patch_tokens`."""
        if not self.is_vit:
            raise ValueError(f"{self.name} is a ConvNet and has no patch tokens. Use a ViT as conditions.image_encoder, e.g. nano-dinov2.")
        features = self._features(images_BCHW)
        return features[:, self.model.num_prefix_tokens :], features[:, 0]

    def pooled_with_grad(self, images_BCHW: Tensor) -> Tensor:
        """Images as `patch_tokens` takes them, as the mean of their patch tokens (B, C); with gradients to the images."""
        features = self.model.forward_features(self._normalised(images_BCHW, self.patch))
        return features[:, self.model.num_prefix_tokens :].mean(1)

    @property
    def cell(self) -> int:
        """Pixels of the picture that a cell of `feature_map` stands for, either way."""
        return self.patch if self.is_vit else self._stages[self._stage]["reduction"]

    @torch.no_grad()
    def feature_map(self, images_BCHW: Tensor) -> Tensor:
        """Images (B, 3, H, W), RGB in [0, 1], as (B, C, H/cell, W/cell): a ViT's patch tokens in their places, a ConvNet's stage of stride 16.

        Raises ValueError for sides that are not in cells, and as `embed`.
        """
        if self.is_vit:
            tokens = self.patch_tokens(images_BCHW)
            return tokens.transpose(1, 2).unflatten(2, (images_BCHW.shape[2] // self.patch, images_BCHW.shape[3] // self.patch))
        return self.model.forward_intermediates(self._normalised(images_BCHW, self.cell), indices=[self._stage], intermediates_only=True)[0]

    @torch.no_grad()
    def last_keys(self, images_BCHW: Tensor) -> Tensor:
        """Images as `patch_tokens` takes them, as the keys of the last attention (B, 1 + P, C), heads side by side, class token first.

        Raises ValueError for a ConvNet, which has none, and as `embed`.
        """
        if not self.is_vit:
            raise ValueError(f"{self.name} is a ConvNet and has no keys. Use a ViT, e.g. nano-dinov2.")
        found: list[Tensor] = []
        hook = self.model.blocks[-1].attn.qkv.register_forward_hook(lambda _, __, qkv: found.append(qkv.chunk(3, dim=-1)[1]))
        try:
            self._features(images_BCHW)
        finally:
            hook.remove()
        return found[0]

    @property
    def _stages(self) -> list[dict[str, Any]]:
        return list(getattr(self.model.feature_info, "info", self.model.feature_info))

    @property
    def _stage(self) -> int:
        return max(i for i, stage in enumerate(self._stages) if stage["reduction"] <= CONVNET_CELL)

    @property
    def is_vit(self) -> bool:
        """It has patch tokens and keys; a ConvNet has a feature map alone."""
        return hasattr(self.model, "num_prefix_tokens")

    def embed(self, images_BCHW: Tensor) -> Tensor:
        """Images (B, 3, H, W), RGB in [0, 1], as (B, C): a ViT's class token after the last norm, a ConvNet's pooled features; not of unit length."""
        features = self._features(images_BCHW)
        return features[:, 0] if self.is_vit else self.model.forward_head(features, pre_logits=True)

    @torch.no_grad()
    def _features(self, images_BCHW: Tensor) -> Tensor:
        return self.model.forward_features(self._normalised(images_BCHW, self.patch))

    def _normalised(self, images_BCHW: Tensor, px: int) -> Tensor:
        if images_BCHW.dim() != 4 or images_BCHW.shape[1] != 3 or images_BCHW.shape[2] % px or images_BCHW.shape[3] % px:
            raise ValueError(
                f"images have shape {tuple(images_BCHW.shape)}; {self.name} takes (B, 3, H, W) with sides in {px}s. "
                f"Use letterbox(image, side) with side a multiple of {px}, e.g. {16 * px}."
            )
        low, high = images_BCHW.aminmax()
        if low < -0.001 or high > 1.001:
            raise ValueError(f"images lie in [{low:.3g}, {high:.3g}]; {self.name} takes [0, 1]. Divide uint8 by 255.")
        images = images_BCHW.to(next(self.model.parameters()))
        return (images - self._mean.to(images)) / self._std.to(images)


def build_image_model(config: dict[str, Any], **more: Any) -> Any:
    """The timm model of an architecture's config, random weights, no head; a ViT takes any size in patches."""
    import timm  # here: most of what imports this module builds none, and timm takes a second to load

    keep: dict[str, Any] = {}
    if "dims" in config:
        keep = {"depths": config["depths"], "dims": config["dims"], "patch_size": 2}
    elif "depth" in config:
        keep = {"depth": config["depth"], "num_heads": config["num_heads"], "embed_dim": config["width"], "patch_size": config["patch"]}
        keep |= {"img_size": NANO_SIDE, "dynamic_img_size": True}
    elif "convnet" not in config:
        keep = {"dynamic_img_size": True}
    return timm.create_model(config["model_name"], pretrained=False, num_classes=0, **keep, **more)


def load_image_encoder(spec: ModelSpec, folder: Path | None, dtype: torch.dtype = torch.float32) -> ImageEncoder:
    """The encoder of `spec`: random from its seed where `folder` is None, else from the folder's safetensors (a timm hub repository).

    Random weights: DINOv2's layer scale starts at 1e-5 and its class token at 1e-6, which would make every image's class token
    the same; a seeded model has layer scale 1 instead, so that features follow the image.
    """
    arch, seed = architecture_of(spec, "image", folder)
    if seed is not None:
        with seeded(seed):
            model = build_image_model(arch.config)
            for name, parameter in model.named_parameters():
                if name.endswith("gamma"):
                    torch.nn.init.ones_(parameter)
    else:
        from timm.models.vision_transformer import checkpoint_filter_fn

        assert folder is not None
        part = part_folder(folder, "image")
        state = read_safetensors(weight_files(part, spec.sha256))
        model = build_image_model(arch.config)
        if "convnet" in arch.config:
            head = f"{model.pretrained_cfg['classifier']}."  # the published file's classes, which are not asked for
            state = {name: tensor for name, tensor in state.items() if not name.startswith(head)}
        else:
            state = checkpoint_filter_fn(state, model)
        load_strictly(model, state, part)
    side = NANO_SIDE if arch.nano else PUBLISHED_SIDE
    return ImageEncoder(frozen(model.to(dtype)), label(spec), int(arch.config["width"]), int(arch.config["patch"]), side)


def letterbox(image: Image.Image, side: int) -> Tensor:
    """The whole image in a square of `side` pixels, (3, side, side), RGB in [0, 1]; nothing cut, aspect kept.

    Transparency is laid on the image's own border colour (the median of its opaque border pixels; white where the border is
    transparent), and the square is filled up with it. EXIF rotation is applied. Raises ValueError for 16-bit or float images.
    """
    flat, colour = opaque(image)
    scale = side / max(flat.size)
    width, height = (max(1, round(s * scale)) for s in flat.size)
    square = Image.new("RGB", (side, side), colour)
    square.paste(flat.resize((width, height), Image.Resampling.BICUBIC), ((side - width) // 2, (side - height) // 2))
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 255


def opaque(image: Image.Image, ground: tuple[int, int, int] | None = None) -> tuple[Image.Image, tuple[int, int, int]]:
    """The upright image as RGB, its transparency laid on `ground` (its own border colour where that is None), and the ground's colour.

    Raises ValueError for 16-bit or float images.
    """
    if image.mode.startswith("I") or image.mode == "F":
        raise ValueError(f"image has mode {image.mode}; its range is not known. Save the reference as 8-bit RGB or RGBA.")
    rgba = ImageOps.exif_transpose(image).convert("RGBA")
    colour = border_colour(rgba) if ground is None else ground
    flat = Image.new("RGBA", rgba.size, (*colour, 255))
    flat.alpha_composite(rgba)
    return flat.convert("RGB"), colour


def border_colour(rgba: Image.Image) -> tuple[int, int, int]:
    """Median RGB of the opaque pixels of the outermost ring; white where none is opaque."""
    pixels = np.asarray(rgba.convert("RGBA"))
    ring = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    opaque = ring[ring[:, 3] == 255, :3]
    if not len(opaque):
        return WHITE
    red, green, blue = (int(v) for v in np.median(opaque, axis=0))
    return red, green, blue
