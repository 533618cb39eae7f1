"""The nano VAE: AutoencoderKLWan, 8 x 8 x 4, 16 channels, trained to give clips back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pvtt_model.backbones.architectures import architecture
from pvtt_model.nano.pretrain.optimise import Progress, descend, rate_at
from pvtt_model.nano.pretrain.stream import clips

BATCH, LR, KL = 4, 2e-3, 2e-6
LEAST_STD = 0.5
LONG_SHARE = 8  # every so many steps a batch of longer clips, so that the causal cache learns to go on


def train_vae(
    seed: int,
    steps: int,
    folder: Path,
    progress: Progress,
    resume: Path | None = None,
    lr: float = LR,
    decoder_only: bool = False,
    first: int = 0,
) -> dict[str, float]:
    """Train and save; returns PSNR of the round trip, whole and in the product, on unseen products.

    decoder_only: the encoder stays as it is, and so do the latents that others are trained on; what comes back gets sharper.
    """
    torch.manual_seed(seed)
    config = dict(architecture("nano-vae").config)
    model: Any = AutoencoderKLWan(**config)
    if resume is not None:
        model.load_state_dict(torch.load(resume, weights_only=True))
    if decoder_only:
        model.encoder.requires_grad_(False), model.quant_conv.requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=lr, betas=(0.9, 0.95), weight_decay=0.01)
    model.train()
    for step in range(steps):
        long = step % LONG_SHARE == LONG_SHARE - 1
        batch = clips(seed, first + step, BATCH // 2 if long else BATCH, 9 if long else 5)
        x = batch.frames_NCTHW
        with torch.autocast("cpu", torch.bfloat16):
            posterior = model.encode(x).latent_dist
            decoded = _decode(model, posterior.sample())
        weight = 1 + 2.0 * batch.mask_NTHW[:, None].float()
        error = decoded.float() - x
        edges = _edges(decoded.float()) - _edges(x)
        kl = posterior.kl().mean()
        loss = (weight * (error.abs() + 2 * error**2)).mean() + 0.5 * edges.abs().mean() + KL * posterior.kl().mean()
        descend(loss, optimizer, trained, rate_at(step, steps, lr))
        if step % 50 == 0 or step == steps - 1:
            record = {"loss": loss.item(), "psnr_db": psnr(decoded.float(), x), "kl": kl.item()}
            progress(step, record)
        if step % 500 == 499 or step == steps - 1:
            folder.mkdir(parents=True, exist_ok=True)
            torch.save(model.state_dict(), folder / "vae.part.pt")
    return save_vae(model, seed, folder)


class _Unclamped(TorchFunctionMode):
    """Inside, torch.clamp gives back what it got: the class's own clamp would stop gradients beyond [-1, 1]."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if function is torch.clamp else function(*args, **(kwargs or {}))


def _decode(model: Any, z: Tensor) -> Tensor:
    """As the class decodes, without its clamp."""
    with _Unclamped():
        return model.decode(z, return_dict=False)[0]


def _edges(x: Tensor) -> Tensor:
    return torch.cat([(x[..., 1:] - x[..., :-1]).flatten(1), (x[..., 1:, :] - x[..., :-1, :]).flatten(1)], 1)


def psnr(a: Tensor, b: Tensor, mask: Tensor | None = None) -> float:
    """dB of two videos in [-1, 1]; inside `mask` N,T,H,W alone where it is given."""
    error = (a.clamp(-1, 1) - b) ** 2
    mse = error.mean() if mask is None else error.mean(1)[mask].mean()
    return float(10 * torch.log10(4 / mse))


@torch.no_grad()
def save_vae(model: Any, seed: int, folder: Path) -> dict[str, float]:
    """Measure latents' mean and deviation a channel, write them into the config, save, and judge."""
    model.eval()
    means, squares, count = torch.zeros(model.config.z_dim), torch.zeros(model.config.z_dim), 0
    for step in range(8):
        z = model.encode(clips(seed + 1, step, 16, 5).frames_NCTHW).latent_dist.mode()
        means += z.mean((0, 2, 3, 4))
        squares += (z**2).mean((0, 2, 3, 4))
        count += 1
    mean = means / count
    std = (squares / count - mean**2).sqrt().clamp(min=LEAST_STD)  # a channel that says little shall not be blown up
    model.register_to_config(latents_mean=[round(float(v), 4) for v in mean], latents_std=[round(float(v), 4) for v in std])
    model.save_pretrained(folder, safe_serialization=True)
    whole, inside = [], []
    for step in range(4):
        batch = clips(seed + 2, step, 16, 5, "eval")
        back = model.decode(model.encode(batch.frames_NCTHW).latent_dist.mode(), return_dict=False)[0]
        whole.append(psnr(back, batch.frames_NCTHW))
        inside.append(psnr(back, batch.frames_NCTHW, batch.mask_NTHW))
    return {"psnr_db": sum(whole) / 4, "in_product_psnr_db": sum(inside) / 4}
