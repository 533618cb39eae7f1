"""The nano video network in place of I3D: clips to 128 features for a Fréchet video distance. A small 3D ConvNet, exported as TorchScript."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvtt_model.nano.pretrain.optimise import Progress, descend, rate_at
from pvtt_model.nano.pretrain.stream import clips
from pvtt_model.nano.pretrain.vision import ATTRIBUTES, labels
from pvtt_model.nano.products import Split
from pvtt_model.nano.render import GROUNDS

BATCH, LR, WIDTH = 16, 2e-3, 128
WAYS = ("right", "down", "left", "up")


class VideoFeatures(nn.Module):
    """Clips (N, 3, T >= 3, H, W) in [-1, 1] -> (N, 128)."""

    def __init__(self) -> None:
        super().__init__()
        widths = [12, 24, 48, 96, WIDTH]
        layers: list[nn.Module] = [nn.Conv3d(3, widths[0], (1, 4, 4), (1, 4, 4))]
        for a, b in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.GroupNorm(4, a), nn.SiLU(), nn.Conv3d(a, b, 3, (1, 2, 2) if b < WIDTH else 1, 1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).mean((2, 3, 4))


def train_video(seed: int, steps: int, folder: Path, progress: Progress) -> dict[str, float]:
    """Learn to say what is shown, on what, moving where. Score: shares right on unseen products."""
    torch.manual_seed(seed)
    model = VideoFeatures()
    heads = nn.ModuleList(nn.Linear(WIDTH, n) for n in [*(len(a) for a in ATTRIBUTES), len(GROUNDS), len(WAYS), 2])
    parameters = [*model.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=LR, weight_decay=0.01)
    for step in range(steps):
        loss, right = _answers(model, heads, seed, step)
        descend(loss, optimizer, parameters, rate_at(step, steps, LR, warmup=50))
        if step % 50 == 0 or step == steps - 1:
            progress(step, {"loss": loss.item(), "right": float(right.mean())})
    folder.mkdir(parents=True, exist_ok=True)
    model.eval()
    torch.jit.script(model).save(str(folder / "video_features.pt"))
    with torch.no_grad():
        _, right = _answers(model, heads, seed + 1, 0, 128, "eval")
    return {"product": float(right[: len(ATTRIBUTES)].mean()), "ground": float(right[-3]), "way": float(right[-2]), "nearer": float(right[-1])}


def _answers(model: nn.Module, heads: nn.ModuleList, seed: int, step: int, size: int = BATCH, split: Split = "train") -> tuple[Tensor, Tensor]:
    batch = clips(seed, step, size, 5, split)
    moved = [[s.ground, WAYS.index(s.moves.split()[1]), int("closer" in s.moves)] for s in batch.scenes]
    wanted = torch.cat([labels(batch.products), torch.tensor(moved)], 1)
    features = model(batch.frames_NCTHW)
    answers = [head(features) for head in heads]
    loss = torch.stack([F.cross_entropy(a, wanted[:, i]) for i, a in enumerate(answers)]).mean()
    return loss, torch.stack([(a.argmax(1) == wanted[:, i]).float().mean() for i, a in enumerate(answers)])
