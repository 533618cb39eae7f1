"""A first frame with the product in it, without a model: the cut-out reference in the old product's place, or beside the cleaned frame.

Cleaned: the old product's region filled from its rim (Telea, 2004, by OpenCV).
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from pvtt_model.backbones.image import WHITE, border_colour, opaque
from pvtt_model.curation.mask_policy import box_of

NEAR, FAR = 12.0, 36.0  # RGB distance from the ground's colour: ground up to NEAR, product from FAR, between in proportion
UNEVEN = 14.0  # RGB: a border whose mean distance from its median colour is above it is no plain ground
PRODUCT_SHARE = 1 / 3  # of the width, for the product beside the frame


def cut_out(picture: Image.Image) -> Image.Image:
    """The product as RGBA, cropped to what is opaque: by the picture's own alpha, else what differs from the plain ground that its border shows.

    Raises ValueError where there is neither, or nothing is left.
    """
    rgba = ImageOps.exif_transpose(picture).convert("RGBA")
    pixels = np.asarray(rgba)
    alpha = pixels[..., 3]
    if alpha.min() == 255:
        alpha = _matte(pixels[..., :3].astype(np.float32), np.array(border_colour(rgba), np.float32))
    rows, columns = np.nonzero(alpha.max(1) > 127)[0], np.nonzero(alpha.max(0) > 127)[0]
    if not len(rows):
        raise ValueError("nothing of the reference stands out from its ground. Give a PNG whose alpha is the product.")
    cut = np.dstack([pixels[..., :3], alpha])[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Image.fromarray(cut, "RGBA")


def _matte(rgb_HWC: np.ndarray, ground_C: np.ndarray) -> np.ndarray:
    """uint8 H,W: 0 where a pixel has the ground's colour and hangs together with the border; holes in the product stay product."""
    distance = np.linalg.norm(rgb_HWC - ground_C, axis=-1)
    ring = np.concatenate([distance[0], distance[-1], distance[:, 0], distance[:, -1]])
    if ring.mean() > UNEVEN:
        raise ValueError(
            f"the reference has no plain ground: its border differs by {ring.mean():.0f} of 255 from its median colour. Give a PNG with alpha."
        )
    _, labels = cv2.connectedComponents((distance < FAR).astype(np.uint8), connectivity=4)
    outside = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    ground = np.isin(labels, outside[outside > 0])
    soft = np.clip((distance - NEAR) / (FAR - NEAR), 0, 1) * 255
    return np.where(ground, soft, 255).round().astype(np.uint8)


def cleaned(frame_CHW: Tensor, region_HW: Tensor) -> Tensor:
    """The uint8 frame with `region` (bool) filled from its rim."""
    pixels = np.ascontiguousarray(frame_CHW.permute(1, 2, 0).numpy())
    filled = cv2.inpaint(pixels, region_HW.numpy().astype(np.uint8), 5, cv2.INPAINT_TELEA)
    return torch.from_numpy(filled).permute(2, 0, 1).contiguous()


def pasted(frame_CHW: Tensor, mask_HW: Tensor, region_HW: Tensor, picture: Image.Image) -> Tensor:
    """The cleaned frame with the cut-out scaled whole into the mask's box, standing on its lower edge. Raises ValueError for an empty mask."""
    box = box_of(mask_HW)
    if box is None:
        raise ValueError("the mask of the first frame is empty, so nothing says where the product goes. Start the clip where it is seen.")
    top, left, bottom, right = box
    product = cut_out(picture)
    scale = min((right - left) / product.width, (bottom - top) / product.height)
    width, height = max(1, round(product.width * scale)), max(1, round(product.height * scale))
    product = product.resize((width, height), Image.Resampling.LANCZOS)
    canvas = Image.fromarray(cleaned(frame_CHW, region_HW).permute(1, 2, 0).contiguous().numpy())
    canvas.paste(product, (left + (right - left - width) // 2, bottom - height), product)
    return torch.from_numpy(np.array(canvas)).permute(2, 0, 1).contiguous()


def beside(frame_CHW: Tensor, region_HW: Tensor, picture: Image.Image) -> Tensor:
    """The cleaned frame, whole, on the left two thirds of a white canvas of its size, and the product on the right third."""
    height, width = frame_CHW.shape[-2:]
    right = round(width * PRODUCT_SHARE)
    canvas = Image.new("RGB", (width, height), WHITE)
    scene = Image.fromarray(cleaned(frame_CHW, region_HW).permute(1, 2, 0).contiguous().numpy())
    try:
        product = cut_out(picture)
    except ValueError:  # a photograph: whole, on white
        product = opaque(picture, WHITE)[0].convert("RGBA")
    for image, left, room in ((scene.convert("RGBA"), 0, width - right), (product, width - right, right)):
        scale = min(room / image.width, height / image.height)
        small = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.LANCZOS)
        canvas.paste(small, (left + (room - small.width) // 2, (height - small.height) // 2), small)
    return torch.from_numpy(np.array(canvas)).permute(2, 0, 1).contiguous()
