"""Parameters of a stage, counted on the meta device: shapes of the published classes, no weights and no memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import ceil
from typing import Any

from torch import nn

from pvtt_model.backbones.architectures import architecture
from pvtt_model.backbones.dit import build_on_meta
from pvtt_model.low_rank.nf4 import QUANTISED
from pvtt_model.specs import LoraSpec, ReferenceSpec, StageSpec


@dataclass(frozen=True)
class Parameters:
    """Counts of one stage. Frozen: base and vace. Trained: lora, resampler and reference_kv. block_linear: of the frozen ones, the weights of
    the blocks' linear layers, which QLoRA keeps in 4 bits."""

    base: int
    vace: int
    lora: int
    resampler: int
    reference_kv: int
    largest_block: int
    block_linear: int = 0

    @property
    def frozen(self) -> int:
        return self.base + self.vace

    @property
    def trained(self) -> int:
        return self.lora + self.resampler + self.reference_kv


def count_parameters(stage: StageSpec, image_width: int) -> Parameters:
    """All counts of a stage; image_width is the image encoder's channel count."""
    model = _on_meta(stage.backbone.architecture)
    config = architecture(stage.backbone.architecture, "dit").config
    vace = sum(p.numel() for name, p in model.named_parameters() if name.startswith("vace_"))
    total = sum(p.numel() for p in model.parameters())
    resampler, kv = reference_parameters(
        stage.reference, image_width, dit_width(config), config["num_layers"], config["text_dim"], len(config["vace_layers"])
    )
    largest = max(sum(p.numel() for p in block.parameters()) for block in [*model.blocks, *model.vace_blocks])
    linear = sum(m.weight.numel() for name, m in model.named_modules() if isinstance(m, nn.Linear) and QUANTISED.match(name))
    return Parameters(total - vace, vace, lora_parameters(model, stage.lora), resampler, kv, largest, linear)


@cache
def _on_meta(name: str) -> Any:
    return build_on_meta(name)


def lora_parameters(model: nn.Module, spec: LoraSpec) -> int:
    """Sum of rank (in + out) over the targeted linear layers of the main blocks, and of out where DoRA learns magnitudes; the VACE blocks
    carry no LoRA."""
    count = 0
    for name, module in model.named_modules():
        layer = spec.layer_of(name)
        if layer is not None and isinstance(module, nn.Linear):
            count += spec.rank_of(layer) * (module.in_features + module.out_features) + (module.out_features if spec.kind == "dora" else 0)
    return count


def reference_parameters(spec: ReferenceSpec, image_width: int, dit_width: int, layers: int, text_width: int, vace_layers: int) -> tuple[int, int]:
    """(resampler, decoupled K/V) parameters. With D = spec.width, N = num_tokens, I = image_width, W = dit_width, T = text_width:

    resampler: proj_in I D + D; latents N D; a layer 12 D^2 + 6 D (q D^2, kv 2 D^2, out D^2, feed-forward 8 D^2, three
    LayerNorms 2 D each); proj_out D^2 + D; LayerNorm 2 D.
    K/V: 2 D W a hooked layer, ceil(layers / every_nth_layer) of them and all VACE's where asked. In the space 'words' the resampler has
    T (D + 1) more, and a layer's K/V are 2 (W^2 + W) and a gate.
    """
    d = spec.width
    resampler = (image_width * d + d) + spec.num_tokens * d + spec.depth * (12 * d * d + 6 * d) + (d * d + d) + 2 * d
    hooked = hooked_layers(spec, layers) + (vace_layers if spec.vace_blocks else 0)
    if spec.space == "words":
        return resampler + text_width * (d + 1), (2 * dit_width * (dit_width + 1) + 1) * hooked
    return resampler, 2 * d * dit_width * hooked


def hooked_layers(spec: ReferenceSpec, layers: int) -> int:
    """How many main blocks read the reference."""
    return ceil(layers / spec.every_nth_layer)


def dit_width(config: dict[str, Any]) -> int:
    return int(config["num_attention_heads"] * config["attention_head_dim"])
