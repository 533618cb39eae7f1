"""Typed, frozen settings. A spec says what is made; where and how fast is the infrastructure's business.

A field that cannot change the output is marked `Execution(...)`: it stays out of an artifact's identity, so raising a
retry limit re-trains nothing. Every unknown field is refused (`extra="forbid"`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


def Execution(default: Any, **kwargs: Any) -> Any:
    """A field of how, not what, or one that stored figures are judged by where they are shown: left out of `identity()`."""
    return Field(default=default, json_schema_extra={"execution": True}, **kwargs)


def Added(default: Any, **kwargs: Any) -> Any:
    """A field that came later. Its default is what was done before, and is left out of `identity()`: what was made then keeps its name."""
    return Field(default=default, json_schema_extra={"added": True}, **kwargs)


class Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)

    def identity(self) -> dict[str, Any]:
        """The fields that decide the output, as plain JSON values."""
        kept: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            extra = field.json_schema_extra
            if isinstance(extra, dict) and extra.get("execution"):
                continue
            value = getattr(self, name)
            if isinstance(extra, dict) and extra.get("added") and value == field.default:
                continue
            kept[name] = _plain(value)
        return kept


def _plain(value: Any) -> Any:
    if isinstance(value, Spec):
        return value.identity()
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class ModelSpec(Spec):
    """A frozen model: its architecture by name, and where the weights are."""

    architecture: str = Field(description="a name of pvtt_model.backbones.architectures, e.g. 'wan2.1-vae', 'nano-vae'")
    weights: str = Field(
        description="'nano:NAME' (trained, shipped in pvtt_model/nano/weights), 'seed:N' (random, nano sizes only), a local folder, "
        "s3://bucket/prefix, or hf://owner/name"
    )
    revision: str | None = Field(default=None, description="commit of the hub repository; required for hf://")
    sha256: str | None = Field(default=None, description="of the single weight file, checked before loading")

    @field_validator("weights")
    @classmethod
    def _known_form(cls, weights: str) -> str:
        if "@" in weights.partition("://")[2].split("/")[0]:
            raise ValueError("weights hold a credential before '@'. Leave it to the AWS environment, and write s3://bucket/prefix.")
        scheme = weights.partition("://")[0] if "://" in weights else weights.partition(":")[0] if weights.startswith(("seed:", "nano:")) else "path"
        unnamed = (scheme == "seed" and not weights.removeprefix("seed:").isdigit()) or weights == "nano:"
        if scheme not in ("path", "s3", "hf", "seed", "nano") or unnamed or not weights:
            raise ValueError(
                f"weights '{weights}' are of no known form. Use 'nano:NAME', 'seed:N', a local folder, s3://bucket/prefix or hf://owner/name."
            )
        return weights

    @model_validator(mode="after")
    def _hub_is_pinned(self) -> ModelSpec:
        if self.weights.startswith("hf://") and not self.revision:
            raise ValueError(f"weights '{self.weights}' name no revision. Set `revision` to the hub commit, so that the run can be repeated.")
        return self


class VideoSpec(Spec):
    """The frames the model sees. Wan's VAE wants 4k+1 frames; its 8x8 compression and the DiT's 2x2 patches want sides in sixteens.

    With `buckets` there are several sizes, and each clip is cut (or stretched) to the one nearest to its own aspect.
    """

    width: Positive = Field(default=832, multiple_of=16)
    height: Positive = Field(default=480, multiple_of=16)
    num_frames: Positive = 81
    fit: Literal["crop", "stretch"] = Field(default="crop", description="crop: cover the frame and cut the centre; stretch: change the aspect")
    fps: Annotated[float, Field(gt=0)] | None = Added(
        None, description="frames a second that the model sees, taken by their times in the file; null: the file's own frames, one after the other"
    )
    buckets: tuple[tuple[int, int], ...] = Added(
        (), description="further [width, height] beside width x height, e.g. a portrait one: each clip takes the one nearest to its own aspect"
    )

    @field_validator("num_frames")
    @classmethod
    def _four_k_plus_one(cls, n: int) -> int:
        if n % 4 != 1:
            raise ValueError(f"num_frames is {n}; Wan's VAE takes 4k+1 frames. Use {n // 4 * 4 + 1} or {n // 4 * 4 + 5}.")
        return n

    @model_validator(mode="after")
    def _buckets_are_sizes(self) -> VideoSpec:
        for width, height in self.buckets:
            if max(width, height) > 8192:
                raise ValueError(f"bucket {width}x{height} is larger than 8192 pixels a side. Name a size that the model is run at.")
            if min(width, height) < 16 or width % 16 or height % 16:
                near = "x".join(str(max(1, round(side / 16)) * 16) for side in (width, height))
                raise ValueError(f"bucket {width}x{height} has a side that is no positive multiple of 16. Use {near}.")
        twice = next((size for i, size in enumerate(self.sizes) if size in self.sizes[:i]), None)
        if twice:
            raise ValueError(f"bucket {twice[0]}x{twice[1]} stands twice among {list(self.sizes)}, width x height first. Name each size once.")
        return self

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(width, height) of every bucket, width x height first."""
        return ((self.width, self.height), *self.buckets)

    @property
    def largest(self) -> tuple[int, int]:
        """(width, height) of the bucket with most pixels, by which memory is planned."""
        return max(self.sizes, key=lambda size: size[0] * size[1])

    def bucket_of(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) of the bucket that a picture of that size is fitted to: the least |log(aspect / its aspect)|.

        Of two that are as near the one with more pixels, then the first of `sizes`.
        """
        return max(self.sizes, key=lambda size: (_shared_aspect((width, height), size), size[0] * size[1]))

    def kept_share(self, width: int, height: int) -> float:
        """The share of a picture of that size that is left once it is cut to its bucket's aspect, (0, 1]."""
        return _shared_aspect((width, height), self.bucket_of(width, height))


def _shared_aspect(one: tuple[int, int], other: tuple[int, int]) -> float:
    """The smaller of two aspects over the larger, exp(-|log ratio|): 1 where they are equal. A quotient of integers, so ties are exact."""
    a, b = one[0] * other[1], one[1] * other[0]
    return min(a, b) / max(a, b)


class NanoWorldSpec(Spec):
    """The procedural clips of pvtt_model.nano.world, used where no manifest is given. No product is in two splits."""

    num_clips: Positive = Field(default=24, description="training clips, each of a product of its own")
    num_validation: Annotated[int, Field(ge=0)] = 0
    num_eval: Annotated[int, Field(ge=2)] = Field(default=8, description="held-out clips, each with its ground-truth edit")
    look_alikes: Annotated[int, Field(ge=1)] = Field(default=8, description="held-out products that share their two colours with one another")
    references: Annotated[int, Field(ge=1, le=4)] = Field(default=2, description="reference pictures a product")
    width: Positive = 64
    height: Positive = 64
    num_frames: Positive = 5
    fps: Positive = 8
    seed: int = 0


class ClipSpec(Spec):
    """What is accepted from the manifest, and how it is packed. Refused lines are quarantined with their reason."""

    min_side_px: Positive = 32
    clips_per_shard: Positive = Field(default=64, description="lines a shard of new clips; shards that are there stay as they are")
    shots: Literal["refuse", "split", "ignore"] = Field(
        default="refuse",
        description="where the used frames hold a cut: refuse the clip; split: every shot of the video that is long enough is a clip; or ignore it",
    )
    shot_threshold: Annotated[float, Field(gt=0, le=255)] = Field(default=20.0, description="PySceneDetect's content value from which a cut is one")
    near_duplicate_bits: Annotated[float, Field(ge=0, le=16)] | None = Field(
        default=5.0,
        description="clips whose perceptual hashes differ by so many of 64 bits or fewer are near-duplicates; null: none are looked for",
    )
    eval_share: Share = Field(default=0.1, description="share of product identities held out for evaluation, by hash; at least one")
    allow_outside_root: bool = Field(default=False, description="allow absolute paths outside the manifest's folder")
    decode_timeout_s: float = Field(default=120.0, gt=0, description="a clip that takes longer is refused, so this decides what is in the data")

    @property
    def cut_value(self) -> float | None:
        """The content value from which a cut is one; None where cuts are ignored."""
        return None if self.shots == "ignore" else self.shot_threshold


class MaskSpec(Spec):
    """Where a mask comes from and what is believed of it. Values above `threshold` (of 255) are product.

    A provider that has to find the product looks at the manifest's metadata.point or box; else for the reference picture, with image_encoder.
    """

    provider: Literal["given", "grabcut", "sam2"] = Field(
        default="given", description="given: the manifest's mask, and where it has none, when_missing; the others ask nobody's mask"
    )
    when_missing: Literal["grabcut", "sam2", "reject"] = "grabcut"
    sam2: ModelSpec | None = Field(
        default=None, description="SAM 2's video predictor, e.g. architecture 'sam2.1-hiera-b+', weights a .pt with sha256"
    )
    window_frames: Positive = Field(
        default=96, description="SAM 2 tracks so many frames, forgets them, and goes on from its last mask: memory is bounded by it"
    )
    image_encoder: ModelSpec | None = Field(
        default=None, description="finds the reference picture's product in the frames; None: grabcut believes in the centre, contrast and motion"
    )
    min_match: Annotated[float, Field(ge=-1, le=1)] = Field(
        default=-1.0,
        description="smallest believed cosine of frame 0's best cell and the reference, below which the clip is refused; -1 believes any",
    )
    rematch_every: Positive = Field(default=8, description="grabcut looks for the reference again every so many frames, which ends the flow's drift")
    threshold: Annotated[int, Field(ge=0, le=254)] = 127
    min_area: Share = Field(default=0.002, description="smallest believed mean share of the frame")
    max_area: Share = Field(default=0.8, description="largest believed mean share of the frame")
    compare: Literal["none", "given", "grabcut", "sam2"] = Field(
        default="none", description="a second provider, asked too: the row then says how far the two agree"
    )
    # What is shown as risky (mask_risk.py); nothing is made anew for another threshold.
    # Seen by teams on VACE at 832x480: 18 % and 10 px are fine, 37 % and 30 px are noise; the first two lie midway. The others are ours.
    risky_area: Share = Execution(0.275, description="a mean share of the frame above it predicts failure: the clip is flagged, not refused")
    risky_jitter: Share = Execution(0.042, description="so does jitter above this share of the frame's height: 20 px of 480")
    risky_temporal_iou: Share = Execution(0.6, description="so does a lower IoU of neighbouring frames' masks, one shift compensated")
    risky_agreement: Share = Execution(0.5, description="so does a lower IoU of the two providers")

    def risky(self) -> dict[str, float]:
        """The thresholds of risk, by their names."""
        return {name: getattr(self, name) for name in type(self).model_fields if name.startswith("risky_")}

    @property
    def finds_with_a_model(self) -> bool:
        """Whether a frozen model may be asked for a mask."""
        return "sam2" in (self.provider, self.when_missing, self.compare) or self.image_encoder is not None

    @model_validator(mode="after")
    def _sam2_is_named(self) -> MaskSpec:
        if "sam2" in (self.provider, self.when_missing, self.compare) and self.sam2 is None:
            raise ValueError(
                "masks are to be made by sam2, but masks.sam2 names no model. Set masks.sam2.architecture and .weights, or use 'grabcut'."
            )
        return self


class MaskPolicy(Spec):
    """How the mask is widened before the model sees it: a precise mask keeps the old product's silhouette, a box replaces it."""

    kind: Literal["precise", "grow", "blocks", "box", "square", "full"] = "grow"
    grow_px: Annotated[int, Field(ge=0)] = Field(default=8, description="radius for grow; block side for blocks; margin for box and square")
    jitter_px: Annotated[int, Field(ge=0)] = Field(
        default=0, description="training's augmentation: each further variant of a mask is grown and moved by up to so much"
    )
    erode_px: Annotated[int, Field(ge=0)] = Added(
        0,
        description="and grown by up to so much less than grow_px (precise: than 0). Up to grow_px that uncovers nothing; what goes beyond erodes "
        "the product's own mask, so that training sees the rim of the old product. Without effect for blocks and full",
    )


class VideoAugmentSpec(Spec):
    """How a clip's variants in time differ from it (the survey's 10.6): see pvtt_model.curation.video_variants."""

    seed: int = 0
    offset_s: Annotated[float, Field(ge=0)] = Field(default=1.0, description="most that a variant begins before or after the clip, seconds")
    rate_jitter: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.1,
        description="most that the rate at which frames are taken differs, share of it; never above the file's own, where frames would repeat",
    )


class LatentSpec(Spec):
    """VAE latents of the clip and of VACE's two halves: inactive (kept background) and reactive (to be made)."""

    video: VideoSpec = VideoSpec()
    vae: ModelSpec
    mask_policy: MaskPolicy = MaskPolicy()
    fill: Literal["neutral", "black", "original", "scaled"] = Field(
        default="neutral",
        description="what stands inside the mask, in normalised space: 0, -1, the source's pixels x, or those drawn to neutral, fill_scale * x",
    )
    fill_scale: Share = Field(default=0.5, description="of the fill 'scaled' alone: 0 is neutral, 1 original; the old product shines through between")
    variants: Positive = Field(default=1, description="contexts a clip: the first by the policy as it is, for editing; all of them for training")
    video_variants: Positive = Added(
        1,
        description="of a training clip whose mask is the manifest's: the clip as it is, and other frames of its shot; fewer where it is short",
    )
    augment_video: VideoAugmentSpec = Added(VideoAugmentSpec())
    references: Literal["none", "white", "own"] = Added(
        "none",
        description="the reference pictures as VACE takes them, through the VAE: letterboxed to the video's size on white, as diffusers does, or on "
        "their own border's colour, on which alpha is laid too; none: they are not encoded",
    )
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"


class AugmentSpec(Spec):
    """How a reference picture's variants differ from it (the survey's 10.6). The defaults keep logos and brand colours as they are."""

    seed: int = 0
    crop: Annotated[float, Field(ge=0, lt=0.5)] = Field(default=0.06, description="most that is cut off a side, share of it")
    scale: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.2, description="most that the picture shrinks within its frame, share of its size")
    rotate_deg: Annotated[float, Field(ge=0, le=180)] = 6.0
    brightness: Annotated[float, Field(ge=0, lt=1)] = 0.1
    contrast: Annotated[float, Field(ge=0, lt=1)] = 0.1
    saturation: Annotated[float, Field(ge=0, lt=1)] = 0.0
    hue: Annotated[float, Field(ge=0, le=0.5)] = Field(
        default=0.0, description="share of the colour circle either way; another hue is another product"
    )
    mirror: Share = Field(default=0.0, description="share of variants turned left to right, which mirrors logos")


class ConditionSpec(Spec):
    """Frozen text and image embeddings."""

    product_words: Literal["keep", "hide"] = Field(
        default="keep", description="hide: the manifest's metadata.product_words become 'product' in the prompt, so that identity is the reference's"
    )

    text_encoder: ModelSpec
    max_text_tokens: Positive = 512
    image_encoder: ModelSpec
    image_size: Positive = Field(default=224, description="side of the letterboxed reference, pixels")
    reference_variants: Positive = Field(default=1, description="of each reference picture of a training clip: as it is, and augmented ones")
    augment: AugmentSpec = AugmentSpec()
    clip_encoder: ModelSpec | None = Added(
        None, description="a CLIP whose tokens and embedding of each reference picture are kept beside the image encoder's; null: none"
    )
    captions: tuple[str, ...] = Added(
        (),
        description="sources of metadata.captions, the preferred first, e.g. ['human', 'qwen2.5-vl-7b']; a model without its @revision is any "
        "revision of it. A clip that has none of them falls back on its text_prompt; empty takes that of all clips",
    )
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"


class BackboneSpec(ModelSpec):
    """The video diffusion transformer, frozen."""


class ReferenceSpec(Spec):
    """Perceiver Resampler and decoupled cross-attention (IP-Adapter-Plus on a DiT). arXiv:2308.06721, the survey's 10.2."""

    space: Literal["own", "words"] = Field(
        default="own",
        description="own: the tokens' K/V start as IP-Adapter's, values zero. words: the tokens live in the text encoder's space and go "
        "through the base's own text projection, and their K/V start as copies of the text's, so that the base understands them (ELITE, "
        "arXiv:2302.13848); the resampler then fits any base of that text encoder",
    )
    num_tokens: Positive = 16
    depth: Positive = 4
    width: Positive = Field(default=1024, description="resampler width; in the space 'own' also the width of the K/V projections' input")
    num_heads: Positive = 16
    every_nth_layer: Positive = 1
    vace_blocks: bool = Field(
        default=False,
        description="hook VACE's own blocks too: for a base whose VACE branch reads the text and draws by it; gradients then flow through the branch",
    )

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> ReferenceSpec:
        if self.width % self.num_heads:
            raise ValueError(f"reference width {self.width} is not a multiple of num_heads {self.num_heads}. Change one of the two.")
        return self


#: What the survey (and the original repository) call the modules, and what they are in diffusers.
LORA_ALIASES = {
    "temporal_self_attn": "attn1",
    "self_attn": "attn1",
    "spatial_self_attn": "attn1",
    "cross_attn": "attn2",
}
LORA_TARGETS = ("attn1", "attn2", "ffn")


class LoraSpec(Spec):
    """Low-rank update W + (alpha / rank) B A on q, k, v, o of the named attentions. arXiv:2106.09685."""

    rank: Positive = 128
    alpha: Positive = 128
    dropout: Share = 0.05
    targets: tuple[str, ...] = Field(default=("attn1", "attn2"), description="attn1, attn2, ffn; the survey's names are accepted as aliases")

    @field_validator("targets")
    @classmethod
    def _known_targets(cls, targets: tuple[str, ...]) -> tuple[str, ...]:
        known = []
        for target in targets:
            stem = target.split(".")[0]
            name = LORA_ALIASES.get(stem, stem)
            if name not in LORA_TARGETS:
                raise ValueError(f"LoRA target '{target}' is not in Wan's blocks. Use {list(LORA_TARGETS)}, or the survey's {list(LORA_ALIASES)}.")
            if name not in known:
                known.append(name)
        if not known:
            raise ValueError(f"LoRA targets are empty. Use some of {list(LORA_TARGETS)}.")
        return tuple(known)


class ObjectiveSpec(Spec):
    """Rectified flow: x_sigma = (1 - sigma) x0 + sigma eps, target eps - x0. arXiv:2209.03003."""

    timestep_sampling: Literal["uniform", "logit_normal"] = "uniform"
    shift: Annotated[float, Field(gt=0)] = Field(default=5.0, description="sigma -> shift sigma / (1 + (shift - 1) sigma)")
    text_dropout: Share = 0.1
    reference_dropout: Share = 0.2
    words_weight: Annotated[float, Field(ge=0)] = Field(
        default=0.0,
        description="weight of the distance between the reference's tokens and the embedding of its product's words, beside the flow loss; "
        "only in reference.space 'words', and only of clips whose manifest names product_words",
    )
    mask_weight: Annotated[float, Field(gt=0)] = Field(default=1.0, description="weight of the loss inside the mask, 1 outside; the mean weight is 1")


class OptimSpec(Spec):
    """AdamW with a linear warm-up from lr/warmup_steps, then constant (the survey's 10.4) or a cosine down to a tenth."""

    lr: Annotated[float, Field(gt=0)] = 1e-4
    decay: Literal["constant", "cosine"] = "constant"
    warmup_steps: Annotated[int, Field(ge=0)] = 1000
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    grad_clip: Annotated[float, Field(gt=0)] = 1.0


class ParallelSpec(Spec):
    """Workers and sharding. global batch = micro_batch x num_workers x grad_accum."""

    num_workers: Positive = 8
    accelerator: Literal["cpu", "gpu"] = "gpu"
    gpu_memory_gib: Annotated[float, Field(gt=0)] = Execution(80.0)
    zero_stage: Literal[0, 1, 2, 3] = 3
    offload_optimizer: bool = False
    offload_params: bool = False
    micro_batch: Positive = 1
    grad_accum: Positive = 4
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    gradient_checkpointing: bool = True

    @property
    def global_batch(self) -> int:
        return self.micro_batch * self.num_workers * self.grad_accum


class TrainSpec(Spec):
    """Length of a stage, and how it survives."""

    steps: Positive
    seed: int = 42
    checkpoint_every_steps: Positive = Execution(500)
    keep_checkpoints: Positive = Execution(3)
    max_worker_restarts: Annotated[int, Field(ge=0)] = Execution(3)


class DataSpec(Spec):
    """How many pairs a stage wants, and which. Fewer than min_pairs refuses to train; more than max_pairs takes the first or the best."""

    min_pairs: Positive = 1
    max_pairs: Positive | None = None
    select: Literal["first", "best"] = Field(default="first", description="best: by the masks' quality score, highest first")
    read: Literal["cache", "ranges"] = Execution(
        "cache", description="cache: each worker fetches whole shards before it starts; ranges: one request a row, for data that no disk here holds"
    )


class EditSpec(Spec):
    """Sampling of the edited videos.

    Guidance: uncond + scale (cond - uncond), so scale 1 is the plain conditional; the survey's w is scale - 1. Wan's default is 5.
    """

    num_steps: Positive = 50
    scheduler: Literal["unipc", "flow_euler"] = "unipc"
    shift: Annotated[float, Field(gt=0)] = 16.0
    guidance_text: Annotated[float, Field(ge=0)] = 5.0
    guidance_reference: Annotated[float, Field(ge=0)] = 2.0
    seed: int = 42
    clips: Literal["held_out", "all"] = Field(default="held_out", description="all: training clips too; the report then says so")
    max_clips: Positive = 199
    reference: Literal["own", "swap"] = Field(default="own", description="own: the clip's reference; swap: the next clip's, another product")
    background: Literal["generated", "blended"] = Field(
        default="generated", description="blended: at every step the latents outside the mask are the template's own; generated: the model's"
    )
    feather_px: Annotated[int, Field(ge=0)] = Field(default=4, description="width of the blend at the mask's edge in the composited output")
    baselines: tuple[Literal["base", "no_reference", "wrong_reference"], ...] = Field(
        default=(), description="also sampled from the same noise: the base without adapter and LoRA, the teacher without and with a wrong reference"
    )


class EvalSpec(Spec):
    """The extractors of product similarity. A stand-in's numbers carry its name."""

    clip: ModelSpec
    dino: ModelSpec
    judge: ModelSpec | None = Field(default=None, description="image encoder of identity_top1, independent of the one that conditions the adapter")
    candidates: Annotated[int, Field(ge=2)] = Field(default=20, description="products among which the judge has to find the right one")
    crop_margin: Share = Field(default=0.1, description="margin round the mask's box, share of its side")


class Threshold(Spec):
    """One line of a gate, e.g. clip_i > 0.75. A metric that the report does not hold fails."""

    metric: str
    op: Literal[">", ">=", "<", "<="]
    value: float


class GateSpec(Spec):
    thresholds: tuple[Threshold, ...]
    on_failure: Literal["stop", "continue", "ask"] = Execution("stop")


class StageSpec(Spec):
    """One stage of the curriculum: train, edit, judge, gate."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]
    backbone: BackboneSpec
    reference: ReferenceSpec = ReferenceSpec()
    lora: LoraSpec = LoraSpec()
    objective: ObjectiveSpec = ObjectiveSpec()
    optim: OptimSpec = OptimSpec()
    parallel: ParallelSpec = ParallelSpec()
    train: TrainSpec
    data: DataSpec = DataSpec()
    init_from: Literal["base", "previous"] = Field(
        default="base", description="previous: what fits of the stage before (all at the same size, the resampler at another)"
    )
    edit: EditSpec = EditSpec()
    evaluate: EvalSpec
    gate: GateSpec

    @model_validator(mode="after")
    def _words_have_a_space(self) -> StageSpec:
        if self.objective.words_weight and self.reference.space != "words":
            raise ValueError(
                f"stage '{self.name}': objective.words_weight is {self.objective.words_weight}, but reference.space is '{self.reference.space}', "
                "whose tokens are not words. Set reference.space='words', or words_weight=0."
            )
        return self


class RecipeSpec(Spec):
    """Everything a run needs to know, from raw clips to release."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")]
    description: str = Execution("")
    world: NanoWorldSpec = NanoWorldSpec()
    clips: ClipSpec = ClipSpec()
    masks: MaskSpec = MaskSpec()
    latents: LatentSpec
    conditions: ConditionSpec
    stages: tuple[StageSpec, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _stages_are_told_apart(self) -> RecipeSpec:
        names = [s.name for s in self.stages]
        if len(set(names)) != len(names):
            raise ValueError(f"stages share a name: {names}. Give each its own.")
        if self.stages[0].init_from == "previous":
            raise ValueError(f"stage '{names[0]}' is the first and cannot start from a previous one. Set init_from='base'.")
        return self
