"""docs/parameters.md: parameters of every backbone, injection and LoRA rank, counted on the meta device.

python -m pvtt_model.plan_table > docs/parameters.md
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import get_args

from pvtt_model.backbones.architectures import ARCHITECTURES, Architecture, architecture, clip_channels
from pvtt_model.plan_parameters import Trained, dit_width, frozen_parameters, trained_parameters
from pvtt_model.specs import LoraSpec, ReferenceSpec

RANKS = (64, 128, 256)
IMAGE_ENCODER, CLIP_ENCODER = "dinov2-vit-l14", "openclip-vit-h14"

HEAD = """# Parameters

Made by `python -m pvtt_model.plan_table > docs/parameters.md`, which builds each teacher on torch's meta device and counts what is frozen and what is
trained; `pvtt plan` counts in the same way. Nothing here is estimated. M is 1e6, B is 1e9. Of a backbone of two experts the figures are of one:
a stage trains one, and sampling wants both.
"""

BACKBONES = """## Backbones

Frozen. GB is 1e9 bytes in bfloat16, of one network.
"""

TRAINED = f"""## Trained

LoRA is on q, k, v and out of both attentions of the main blocks (`LoraSpec`'s default), rank {", ".join(map(str, RANKS))}; the last three columns are
all that is trained with it. The reference encoder stands beside the backbone and reads {IMAGE_ENCODER}'s tokens (dual_path {CLIP_ENCODER}'s too,
reference_net the pictures' latents); K/V are what its layers read by.
Options of ReferenceSpec stand behind the injection's name.
"""


def injections() -> dict[str, ReferenceSpec]:
    """What the table lists: every choice at its default, and the default one's two economies."""
    field = ReferenceSpec.model_fields.get("injection")
    choices = {name: ReferenceSpec.model_validate({"injection": name}) for name in get_args(field.annotation)} if field else {}
    default = field.default if field else "ip_adapter_plus"
    return {
        default: ReferenceSpec(),
        f"{default}, every_nth_layer 4": ReferenceSpec(every_nth_layer=4),
        f"{default}, width 256": ReferenceSpec(width=256, num_heads=4),
        **{name: spec for name, spec in choices.items() if name != default},
    }


def published() -> list[str]:
    return [name for name, arch in ARCHITECTURES.items() if arch.published]


def table(backbones: Sequence[str] | None = None) -> str:
    """The whole page, or that of some backbones."""
    names = published() if backbones is None else list(backbones)
    head = ("backbone", "kind", "blocks", "width", "base", "VACE", "GB")
    frozen = [_frozen_row(name, architecture(name)) for name in names]
    trained = [row for name in names for row in _trained_rows(name)]
    columns = ("backbone", "injection", "reference encoder", "K/V", f"LoRA r{RANKS[0]}", *(f"trained, r{rank}" for rank in RANKS))
    return "\n".join([HEAD, BACKBONES, *_lines(head, frozen), "", TRAINED, *_lines(columns, trained), ""])


def _frozen_row(name: str, arch: Architecture) -> list[str]:
    base, vace = frozen_parameters(name)
    blocks = f"{arch.config['num_layers']}" + (f" + {len(arch.config['vace_layers'])}" if vace else "")
    width, said = f"{dit_width(arch.config):,}", f"{arch.kind}, two experts" if arch.boundary else f"{arch.kind}"
    return [name, said, blocks, width, _count(base), _count(vace) if vace else "", f"{2 * (base + vace) / 1e9:.1f}"]


def _trained_rows(name: str) -> Iterator[list[str]]:
    """A row an injection. What LoRA counts hangs on no injection, so that of the other ranks is counted with the default one."""
    widths = (int(architecture(IMAGE_ENCODER, "image").config["width"]), clip_channels(CLIP_ENCODER))
    like = _alike(name)
    ranks: dict[int, Trained] = {}
    for label, spec in injections().items():
        counted = trained_parameters(like, spec, _lora(RANKS[0]), *widths)
        for rank in RANKS[1:]:
            ranks[rank] = ranks.get(rank) or trained_parameters(like, spec, _lora(rank), *widths)
        totals = [counted.total, *(counted.total - counted.lora + ranks[rank].lora for rank in RANKS[1:])]
        yield [name, label, *map(_count, (counted.reference_encoder, counted.reference_kv, counted.lora, *totals))]


def _alike(name: str) -> str:
    """The first architecture of the same class and sizes, so that none is counted twice."""
    arch = architecture(name)
    return next(n for n, a in ARCHITECTURES.items() if (a.library_class, a.config) == (arch.library_class, arch.config))


def _lora(rank: int) -> LoraSpec:
    return LoraSpec(rank=rank, alpha=rank)


def _count(n: int) -> str:
    return f"{n / 1e9:,.2f} B" if n >= 1e9 else f"{n / 1e6:,.2f} M"


def _lines(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    for cells in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    print(table(), end="")
