"""Floating-point operations of a training sample: matrix products only, a multiply-add counted as two.

Letters: L video tokens, T text tokens, N reference tokens, P image patches, D the DiT's width, F its feed-forward width,
R the reference width, r the LoRA rank, I tokens of the first frame that Wan2.1's image-to-video reads through cross-attention.
Norms, activations, rotary embedding, the optimizer and data loading are not counted.
Backward: a linear layer costs its forward once for the input's gradient and once more for the weight's; a frozen weight wants
none, and an input behind which nothing is trained wants none (text, a VACE branch that does not read the reference, the first
block's q, k, v). Attention costs 2.5 x its forward, as flash attention makes the scores again. Held against torch's own counter in
the test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pvtt_model.backbones.architectures import architecture, latent_grid
from pvtt_model.backbones.conditioning import TEXT_TOKENS
from pvtt_model.plan_parameters import dit_width
from pvtt_model.specs import LatentSpec, ModelSpec, RecipeSpec, ReferenceSpec, StageSpec


class PictureTokens(NamedTuple):
    """Of one reference picture: `patches` tokens of the image encoder, `image_width` channels each; of a CLIP likewise, where there is one."""

    patches: int
    image_width: int
    clip: int = 0
    clip_width: int = 0


def latent_size(latents: LatentSpec) -> tuple[int, int, int]:
    """(frames, height, width) of the largest bucket's latents. 81 frames of 832 x 480 are 21 x 60 x 104 by a 4 x 8 x 8 VAE: (T - 1) / 4 + 1, H / 8,
    W / 8; Wan2.2's halves the sides once more."""
    width, height = latents.video.largest
    _, time, cell = latent_grid(latents.vae.architecture)
    return (latents.video.num_frames - 1) // time + 1, height // cell, width // cell


def video_tokens(latents: LatentSpec) -> int:
    """Tokens a sample of the largest bucket, by the 1 x 2 x 2 patch: 21 x 30 x 52 = 32,760 for 81 frames of 832 x 480."""
    frames, height, width = latent_size(latents)
    return frames * (height // 2) * (width // 2)


def first_frame_tokens(recipe: RecipeSpec) -> int:
    """Tokens of the recipe's latents.first_frame_clip; 0 where it has none. Only Wan2.1's image-to-video reads them."""
    return clip_tokens(recipe.latents.first_frame_clip)


def clip_tokens(clip: ModelSpec | None) -> int:
    """Tokens 1 + P that a CLIP makes of one picture; 257 of OpenCLIP ViT-H/14 at 224 pixels. 0 without one."""
    if clip is None:
        return 0
    vision = architecture(clip.architecture, "clip").config["vision_cfg"]
    return 1 + int(vision["image_size"] // vision["patch_size"]) ** 2


@dataclass
class Flops:
    """FLOPs of one sample. `recompute` is what gradient checkpointing repeats, at most: the forward pass of the main blocks, and of VACE's
    where they read the reference, less `kept`: what parallel.checkpointing keeps the outputs of."""

    linear: int = 0
    self_attention: int = 0
    cross_attention: int = 0
    vace: int = 0
    lora: int = 0
    reference: int = 0
    backward: int = 0
    repeated: int = field(default=0, repr=False)
    kept: int = field(default=0, repr=False)
    checkpointing: bool = False

    @property
    def forward(self) -> int:
        return self.linear + self.self_attention + self.cross_attention + self.vace + self.lora + self.reference

    @property
    def recompute(self) -> int:
        return self.repeated - self.kept if self.checkpointing else 0

    @property
    def total(self) -> int:
        return self.forward + self.backward + self.recompute


def not_counted(stage: StageSpec) -> tuple[str, ...]:
    """What of a stage neither FLOPs nor the memory of activations hold, in words."""
    found = []
    if stage.reference.injection == "reference_net":
        found.append("FLOPs and activations of the injection reference_net: its copied blocks, and the second attention to them")
    if set(stage.train.trained) & {"vace", "all"}:
        found.append("FLOPs and activations of the backbone's own weights' gradients")
    if stage.objective.identity_weight:
        found.append("FLOPs and activations of the identity loss: the VAE's decoder and the image encoder")
    return tuple(found)


def sample_flops(stage: StageSpec, video: int, text: int, picture: PictureTokens, first_frame: int = 0) -> Flops:
    """FLOPs of one training sample of `video` tokens, `text` tokens (padded) and one reference picture; without what not_counted() names.

    linear: frozen linear layers of the base. self_attention: 4 L^2 D a block. cross_attention: 4 L T D a block, and where the backbone
    reads `first_frame` tokens of an image, 4 L I D more; other kinds ignore them. vace: the frozen VACE blocks, if there are any, forward
    only unless they read the reference. lora: 2 r (in + out) a token; with DoRA also B A, once a step. reference: the resampler, and a hooked
    layer's K/V (4 N R D; in the space 'words' 4 N D D, behind the text projection of N tokens) and its attention (4 L N D); q and out are the
    text attention's. dual_path has a second set of tokens, with a resampler and such layers of its own; ip_adapter one linear layer for a resampler.
    """
    arch = architecture(stage.backbone.architecture, "dit")
    config = arch.config
    d, ffn, depth, n_vace = dit_width(config), config["ffn_dim"], config["num_layers"], len(config.get("vace_layers", ()))
    seen = first_frame if config.get("image_dim") is not None else 0
    text = TEXT_TOKENS if config.get("image_dim") is not None else text
    lora, ref = stage.lora, stage.reference
    sets = _token_sets(ref, picture)
    count = Flops(checkpointing=stage.parallel.gradient_checkpointing)
    kind = stage.parallel.checkpointing
    narrowed = 2 * video * ffn * d if kind == "keep_attention_and_ffn" else 0  # of one block

    def linear(tokens: int, inside: int, outside: int, *, grad: bool) -> None:
        flops = 2 * tokens * inside * outside
        count.linear += flops
        count.backward += flops if grad else 0

    def adapted(tokens: int, inside: int, outside: int, rank: int, *, grad: bool) -> None:
        """A frozen linear layer with its LoRA: W x + B A x; rank 0 is none. grad: whether the input wants a gradient."""
        base, low = 2 * tokens * inside * outside, 2 * tokens * rank
        count.linear += base
        count.backward += base if grad else 0
        count.lora += low * (inside + outside) + (2 * inside * rank * (inside + outside) if lora.kind == "dora" else 0)
        if rank:
            count.backward += low * inside * (1 + grad) + 2 * low * outside

    def attention(keys: int, part: str, *, grad: bool) -> None:
        flops = 4 * video * keys * d
        setattr(count, part, getattr(count, part) + flops)
        count.backward += 5 * flops // 2 if grad else 0
        if kind.startswith("keep_attention") or (kind == "keep_self_attention" and part == "self_attention"):
            count.kept += flops

    def read_reference() -> None:
        for tokens, *_ in sets:
            kv = 4 * tokens * (d if ref.space == "words" else ref.width) * d
            count.reference += kv
            count.backward += 2 * kv
            attention(tokens, "reference", grad=True)

    _embeddings(config, video, text, seen, timed=video if arch.kind == "ti2v" else 1, linear=linear)
    before = count.forward
    grad = False
    for layer in range(depth):
        own = {name: lora.rank_of(name) if lora.in_block(layer) else 0 for name in lora.layers()}
        q, k, v, out = (own.get(f"attn1.{name}", 0) for name in ("to_q", "to_k", "to_v", "to_out.0"))
        for rank in (q, k, v):
            adapted(video, d, d, rank, grad=grad)
        grad = grad or bool(q or k or v)
        attention(video, "self_attention", grad=grad)
        adapted(video, d, d, out, grad=grad)
        grad = grad or bool(out)
        hooked = bool(sets) and layer % ref.every_nth_layer == 0
        q, k, v, out = (own.get(f"attn2.{name}", 0) for name in ("to_q", "to_k", "to_v", "to_out.0"))
        adapted(video, d, d, q, grad=grad)
        for rank in (k, v):
            adapted(text, d, d, rank, grad=False)
        grad = grad or bool(q or k or v)
        attention(text, "cross_attention", grad=grad)
        if seen:
            linear(seen, d, 2 * d, grad=False)
            attention(seen, "cross_attention", grad=grad)
        grad = grad or hooked
        adapted(video, d, d, out, grad=grad)
        if hooked:
            read_reference()
        grad = grad or bool(out)
        inner, outer = own.get("ffn.net.0.proj", 0), own.get("ffn.net.2", 0)
        adapted(video, d, ffn, inner, grad=grad)
        grad = grad or bool(inner)
        adapted(video, ffn, d, outer, grad=grad)
        count.kept += narrowed
        grad = grad or bool(outer)
    count.repeated = count.forward - before
    linear(video, d, 4 * config["out_channels"], grad=grad)
    block = 12 * video * d * d + 4 * text * d * d  # q, k, v, out of attn1 (8), q and out of attn2 (4), text's k and v
    attentions, behind = 4 * video * video * d + 4 * video * text * d, 4 * video * d * ffn + 2 * video * d * d  # behind: ffn and proj_out
    count.vace = n_vace * (block + attentions + behind) + (2 * video * d * d if n_vace else 0)
    if ref.vace_blocks and sets:
        before = count.forward
        for i in range(n_vace):
            read_reference()
            count.backward += 2 * video * d * d + behind  # attn2's out and what is behind it
            count.backward += (10 * video * d * d + 5 * attentions // 2) if i else 0
        count.repeated += count.forward - before + n_vace * (block + attentions + behind)
        of_attention = attentions if kind.startswith("keep_attention") else 4 * video * video * d if kind == "keep_self_attention" else 0
        count.kept += n_vace * (of_attention + narrowed)
    for tokens, patches, width in sets:
        if ref.injection == "ip_adapter":
            count.reference += (flops := 2 * width * tokens * ref.width)
            count.backward += flops
        else:
            _resampler(count, ref, tokens, patches, width)
        if ref.space == "words":
            last, projection = 2 * tokens * ref.width * config["text_dim"], 2 * tokens * (config["text_dim"] * d + d * d)
            count.reference += last + projection
            count.backward += 2 * last + projection
    return count


def _token_sets(ref: ReferenceSpec, picture: PictureTokens) -> list[tuple[int, int, int]]:
    """(reference tokens, tokens of the picture that they are made of, their width) of each set that the hooked layers read."""
    match ref.injection:
        case "reference_net":
            return []
        case "dual_path":
            return [(ref.num_tokens, *picture[:2]), (ref.semantic_tokens, *picture[2:])]
        case _:
            return [(ref.num_tokens, *picture[:2])]


def _embeddings(config: dict[str, Any], video: int, text: int, seen: int, timed: int, linear: Callable[..., None]) -> None:
    """Patches (VACE: 64 and 384 inputs), projections of text and first frame, and the time embedding of `timed` tokens (of 'ti2v' all, else
    one): before anything trained."""
    d = dit_width(config)
    linear(video, 4 * config["in_channels"], d, grad=False)
    linear(video, 4 * config.get("vace_in_channels", 0), d, grad=False)
    if seen:
        linear(seen, config["image_dim"], config["image_dim"] + d, grad=False)
    linear(text, config["text_dim"], d, grad=False)
    linear(text, d, d, grad=False)
    linear(timed, config["freq_dim"], d, grad=False)
    linear(timed, d, 7 * d, grad=False)


def _resampler(count: Flops, ref: ReferenceSpec, n: int, patches: int, image_width: int) -> None:
    """proj_in on P patches (no gradient for the image), then a layer: K/V on P + N tokens, q, out and feed-forward on N."""
    d = ref.width
    proj_in = 2 * patches * image_width * d
    linear = ref.depth * (4 * (patches + n) * d * d + 4 * n * d * d + 16 * n * d * d) + 2 * n * d * d
    attention = ref.depth * 4 * n * (patches + n) * d
    count.reference += proj_in + linear + attention
    count.backward += proj_in + 2 * linear + 5 * attention // 2
