"""LPIPS by its package, and its shift-tolerant variant: a perceptual distance of two pictures. arXiv:1801.03924, arXiv:2207.13686."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lpips
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvtt_model.artifacts import sha256_of_file
from pvtt_model.backbones.source import architecture_of, frozen, label, load_strictly, part_folder, read_safetensors, weight_files
from pvtt_model.specs import ModelSpec

LEAST_SIDE = 32  # px: AlexNet's third pooling has nothing left below


class PerceptualModel:
    """Pairs of pictures to a distance, 0 = the same, lower is nearer; without gradients. `name` is to stand beside every number made with it."""

    def __init__(self, model: lpips.LPIPS, name: str) -> None:
        self.model, self.name = model, name

    def to(self, device: torch.device | str) -> PerceptualModel:
        self.model.to(device)
        return self

    @torch.no_grad()
    def layer_distances(self, one_BCHW: Tensor, other_BCHW: Tensor) -> list[Tensor]:
        """A map of distances (B, 1, h, w) for each of the network's layers, whose means add up to LPIPS. Pictures: RGB in [0, 1].

        Raises ValueError for unlike shapes, another range, or sides under 32 px.
        """
        shape = tuple(one_BCHW.shape)
        if shape != tuple(other_BCHW.shape) or len(shape) != 4 or shape[1] != 3 or min(shape[2:]) < LEAST_SIDE:
            raise ValueError(
                f"pictures have shapes {shape} and {tuple(other_BCHW.shape)}; {self.name} takes (B, 3, H, W) twice, sides {LEAST_SIDE} px or more."
            )
        if max(float(one_BCHW.max()), float(other_BCHW.max())) > 1.001:
            raise ValueError(f"pictures go up to {float(one_BCHW.max()):.3g}; {self.name} takes [0, 1]. Divide uint8 by 255.")
        scaled = (self.model.scaling_layer(2 * pictures.to(self.model.scaling_layer.shift) - 1) for pictures in (one_BCHW, other_BCHW))
        ones, others = (self.model.net(pictures) for pictures in scaled)
        layers = zip(self.model.lins, ones, others, strict=True)
        return [linear((lpips.normalize_tensor(a) - lpips.normalize_tensor(b)).square()).float() for linear, a, b in layers]


class Blur(nn.Module):
    """A fixed binomial filter of 3 x 3 on each channel, then every second pixel; edges mirrored over 2 px."""

    filt: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        row = torch.tensor([0.25, 0.5, 0.25])
        self.register_buffer("filt", torch.outer(row, row).expand(channels, 1, 3, 3).clone())

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return F.conv2d(F.pad(x_BCHW, (2, 2, 2, 2), mode="reflect"), self.filt, stride=2, groups=x_BCHW.shape[1])


class ShiftTolerantAlexNet(nn.Module):
    """AlexNet's five convolutions with blurs where it strides (arXiv:2207.13686, variant 'shift_tolerant'). Answers the five rectified maps."""

    def __init__(self) -> None:
        super().__init__()
        layers: Sequence[nn.Module] = (
            nn.Conv2d(3, 64, 11, padding=2), Blur(64), nn.ReLU(),
            nn.MaxPool2d(3, 1), Blur(64), nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(),
            nn.MaxPool2d(3, 1), Blur(192), nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        for number, (start, stop) in enumerate(((0, 3), (3, 7), (7, 11), (11, 13), (13, 15)), 1):
            part = nn.Sequential()
            for index in range(start, stop):
                part.add_module(str(index), layers[index])  # the published file counts through
            self.add_module(f"slice{number}", part)

    def forward(self, x_BCHW: Tensor) -> list[Tensor]:
        found = []
        for part in self.children():
            x_BCHW = part(x_BCHW)
            found.append(x_BCHW)
        return found


def build_perceptual_model(config: dict[str, Any]) -> lpips.LPIPS:
    """The package's LPIPS with random weights; of the shift-tolerant variant with its own trunk."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the package calls torchvision by names that it has since changed
        model = lpips.LPIPS(net=config["net"], pretrained=False, pnet_rand=True, verbose=False)
    if config.get("shift_tolerant"):
        model.net = ShiftTolerantAlexNet()
    return model


def load_perceptual(spec: ModelSpec, folder: Path | None) -> PerceptualModel:
    """The model of `spec`: a whole state under the package's names, or torchvision's AlexNet or VGG16, to which the package brings the linear layers.

    A safetensors, or a .pth where the spec names its hash (read as tensors only). Raises ValueError for a seed, a pickle without a hash or with
    a wrong one, or tensors that do not fit.
    """
    arch, seed = architecture_of(spec, "perceptual", folder)
    if seed is not None or folder is None:
        raise ValueError(f"'{spec.architecture}' cannot be made from a seed: a random network's distance is not calibrated. Set `weights`.")
    part = part_folder(folder, "perceptual")
    state = _read(part, spec.sha256)
    with torch.device("meta"):
        model = build_perceptual_model(arch.config)
    if any(name.startswith("features.") for name in state):
        state = _with_linear_layers(model, state, arch.config["net"])
    state = {name: tensor for name, tensor in state.items() if not name.startswith("lins.")}  # the same tensors as lin0 to lin4, a second time
    state |= {name.replace("lin", "lins.", 1): tensor for name, tensor in state.items() if name.startswith("lin")}
    load_strictly(model, state, part, assign=True)
    return PerceptualModel(frozen(model), label(spec))


def _read(part: Path, sha256: str | None) -> dict[str, Tensor]:
    pickles = [part] if part.suffix == ".pth" else sorted(part.glob("*.pth")) if part.is_dir() else []
    if not pickles or (part.is_dir() and any(part.glob("*.safetensors"))):
        return read_safetensors(weight_files(part, sha256))
    if len(pickles) != 1 or sha256 is None:
        raise ValueError(f"{part} holds {len(pickles)} .pth; one is read, tensors only, where `sha256` names its hash. Set it.")
    got = sha256_of_file(pickles[0])
    if got != sha256.lower():
        raise ValueError(f"{pickles[0]} has SHA-256 {got}; the spec says {sha256}. Fetch the file again, or correct `sha256`.")
    state: dict[str, Tensor] = torch.load(pickles[0], map_location="cpu", weights_only=True)
    return state


def _with_linear_layers(model: lpips.LPIPS, trunk: dict[str, Tensor], net: str) -> dict[str, Tensor]:
    """torchvision's `features.N` under the package's slices, and the linear layers v0.1 that the package ships."""
    slices = {key.split(".")[2]: key.split(".")[1] for key in model.state_dict() if key.startswith("net.slice")}
    found = {f"scaling_layer.{name}": tensor for name, tensor in lpips.ScalingLayer().state_dict().items()}
    for name, tensor in trunk.items():
        where, _, rest = name.removeprefix("features.").partition(".")
        if name.startswith("features.") and where in slices:
            found[f"net.{slices[where]}.{where}.{rest}"] = tensor
    shipped = Path(lpips.__file__).parent / "weights" / "v0.1" / f"{net}.pth"
    return found | torch.load(shipped, map_location="cpu", weights_only=True)
