"""The nano bases: WanVACETransformer3DModel in two sizes, trained captioned to fill masked squares. They draw words; they know no pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import WanVACETransformer3DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from pvtt_model.backbones.architectures import architecture
from pvtt_model.backbones.text import TextEncoder
from pvtt_model.backbones.vae import VideoAutoencoder
from pvtt_model.curation.latents import pack_mask
from pvtt_model.curation.mask_policy import jittered, widen
from pvtt_model.nano.captions import phrase, sentence
from pvtt_model.nano.pretrain.optimise import Progress, descend, rate_at
from pvtt_model.nano.pretrain.stream import clips, contents
from pvtt_model.nano.products import Product
from pvtt_model.nano.render import Scene
from pvtt_model.objectives.noise_levels import sample_sigma
from pvtt_model.objectives.rectified_flow import TIMESTEPS, flow_loss, interpolate, mask_weights
from pvtt_model.specs import MaskPolicy
from pvtt_model.training.samples import pad_rows

POLICY = MaskPolicy(kind="square", grow_px=2, jitter_px=2)
NUM_FRAMES, CHUNK, MAX_TOKENS = 5, 64, 24
BATCH, SHIFT, MASK_WEIGHT = 32, 5.0, 8.0  # at the noisy end words are worth most
UNNAMED, EMPTY = 0.12, 0.10  # share of captions without the product's words, and of no caption at all


class Latents(NamedTuple):
    """Clips of one seed, encoded: what the bases are trained on."""

    seed: int
    x0_NCFHW: Tensor
    inactive_NVCFHW: Tensor
    mask_NVMFHW: Tensor
    grey_CFHW: Tensor

    def control(self, index: Tensor, variant: Tensor) -> Tensor:
        """VACE's context (B, M, F, H, W) of clips and their mask variants."""
        inactive, mask = self.inactive_NVCFHW[index, variant].float(), self.mask_NVMFHW[index, variant].float()
        return torch.cat([inactive, self.grey_CFHW.float().expand_as(inactive), mask], 1)


def encode_world(vae: VideoAutoencoder, seed: int, chunks: Sequence[int], path: Path, progress: Progress) -> None:
    """The latents of chunks of 64 clips, two mask variants each, as one safetensors file."""
    x0, inactive, masks = [], [], []
    for step in chunks:
        batch = clips(seed, step, CHUNK, NUM_FRAMES)
        variants = [widen(m, POLICY) for m in batch.mask_NTHW]
        moved = [jittered(m, POLICY, torch.Generator().manual_seed(step * CHUNK + i)) for i, m in enumerate(batch.mask_NTHW)]
        wide = torch.stack([torch.stack(variants), torch.stack(moved)], 1)  # N, V, T, H, W
        kept = batch.frames_NCTHW[:, None] * (~wide)[:, :, None].float()
        x0.append(vae.encode(batch.frames_NCTHW).half())
        inactive.append(vae.encode(kept.flatten(0, 1)).unflatten(0, kept.shape[:2]).half())
        masks.append(torch.stack([torch.stack([pack_mask(m) for m in pair]) for pair in wide]))
        progress(step, {"clips": float((len(x0)) * CHUNK)})
    grey = vae.encode(torch.zeros(1, 3, NUM_FRAMES, 64, 64))[0].half()
    save_file(
        {"x0": torch.cat(x0), "inactive": torch.cat(inactive), "mask": torch.cat(masks), "grey": grey, "chunks": torch.tensor(list(chunks))}, path
    )


def load_latents(paths: Sequence[Path], seed: int) -> tuple[Latents, list[tuple[Product, Scene]]]:
    """The files of encode_world together, and what each clip shows."""
    files = [load_file(p) for p in paths]
    whose = [pair for f in files for step in f["chunks"].tolist() for pair in zip(*contents(seed, step, CHUNK, NUM_FRAMES), strict=True)]
    return Latents(
        seed, torch.cat([f["x0"] for f in files]), torch.cat([f["inactive"] for f in files]), torch.cat([f["mask"] for f in files]), files[0]["grey"]
    ), whose


def embed_captions(text: TextEncoder, texts: Sequence[str]) -> Tensor:
    """(N, 24, D), zeros behind each caption's end."""
    return torch.stack([pad_rows(t, MAX_TOKENS) for t in text.embed([sentence(t) for t in texts], MAX_TOKENS)])


def train_base(
    name: str,
    seed: int,
    steps: int,
    latents: Latents,
    whose: list[tuple[Product, Scene]],
    text: TextEncoder,
    folder: Path,
    progress: Progress,
    lr: float = 1.5e-3,
    resume: Path | None = None,
    first: int = 0,
    save_every: int = 500,
) -> Any:
    """Train nano-s or nano-m and save it with an average of its weights (0.999 a step); returns that average."""
    torch.manual_seed(seed)
    model: Any = WanVACETransformer3DModel(**architecture(name).config)
    for block in model.vace_blocks:  # as the released training code starts: VACE adds nothing at first
        torch.nn.init.zeros_(block.proj_out.weight), torch.nn.init.zeros_(block.proj_out.bias)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=0.01)
    average: Any = WanVACETransformer3DModel(**architecture(name).config).requires_grad_(False)
    average.load_state_dict(model.state_dict())
    if resume is not None:
        state = torch.load(resume, weights_only=True)
        model.load_state_dict(state["model"]), average.load_state_dict(state["average"]), optimizer.load_state_dict(state["optimizer"])
    named = embed_captions(text, [phrase(p, s) for p, s in whose])
    unnamed = embed_captions(text, [phrase(None, s) for _, s in whose])
    empty = embed_captions(text, [""])[0]
    model.train()
    running = 0.0
    for step in range(first, steps):
        rate = rate_at(step, steps, lr, warmup=200, least=0.03)
        g = torch.Generator().manual_seed(seed * 10_000_019 + step)
        index = torch.randint(len(whose), (BATCH,), generator=g)
        control = latents.control(index, torch.randint(2, (BATCH,), generator=g))
        x0 = latents.x0_NCFHW[index].float()
        kind = torch.rand(BATCH, generator=g)
        words = named[index].clone()
        words[kind < UNNAMED + EMPTY] = unnamed[index][kind < UNNAMED + EMPTY]
        words[kind < EMPTY] = empty
        sigma = sample_sigma(BATCH, "logit_normal", SHIFT, g)
        noise = torch.randn(x0.shape, generator=g)
        predicted = model(
            hidden_states=interpolate(x0, noise, sigma),
            timestep=sigma * TIMESTEPS,
            encoder_hidden_states=words,
            control_hidden_states=control,
            return_dict=False,
        )[0]
        loss = flow_loss(predicted, x0, noise, mask_weights(control[:, 2 * x0.shape[1] :], MASK_WEIGHT)).mean()
        descend(loss, optimizer, model.parameters(), rate)
        decay = min(0.999, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
        running = loss.item() if step == first else 0.98 * running + 0.02 * loss.item()
        if step % 50 == 0 or step == steps - 1:
            progress(step, {"loss": running, "lr": rate})
        if step % save_every == save_every - 1 or step == steps - 1:
            folder.mkdir(parents=True, exist_ok=True)
            torch.save({"model": model.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict()}, folder / "state.part.pt")
            average.save_pretrained(folder, safe_serialization=True)
    return average.eval()


@torch.no_grad()
def sample(model: Callable[..., Tensor], control_BMFHW: Tensor, channels: int, steps: int, seed: int, shift: float = 2.0) -> Tensor:
    """Euler along the flow. model(noisy, sigma_B) -> velocity."""
    b, _, f, h, w = control_BMFHW.shape
    x = torch.randn(b, channels, f, h, w, generator=torch.Generator().manual_seed(seed))
    grid = torch.linspace(1, 0, steps + 1)
    grid = shift * grid / (1 + (shift - 1) * grid)
    for now, then in zip(grid[:-1], grid[1:], strict=True):
        x = x + (then - now) * model(x, now.expand(b))
    return x
