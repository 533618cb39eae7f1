"""Memory of one GPU by part, and bytes of the data set. Estimates by formula; `pvtt plan` prints them, a run measures.

ZeRO (arXiv:1910.02054) divides by the number of workers n: the optimizer from stage 1, gradients from stage 2, weights at 3; FSDP2 all of them.
Not counted: the CUDA context and NCCL (about 1 GiB), fragmentation, the batch itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from pvtt_model.backbones.architectures import architecture, clip_channels, latent_grid
from pvtt_model.low_rank.nf4 import nf4_bytes
from pvtt_model.plan_flops import PictureTokens, clip_tokens, latent_size
from pvtt_model.plan_parameters import Parameters, dit_width
from pvtt_model.specs import ConditionSpec, ModelSpec, RecipeSpec, StageSpec

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
BUCKET = 50_000_000  # elements; deepspeed_config's reduce and allgather buckets
MAX_LIVE = 1_000_000_000  # elements; DeepSpeed's stage3_max_live_parameters, its default


@dataclass(frozen=True)
class Memory:
    """Bytes of one GPU. `host` is what the offloads put into the machine's own memory (or onto parallel.offload_folder), a worker."""

    weights: int
    gradients: int
    optimizer: int
    buffers: int
    activations: int
    activations_without_checkpointing: int
    host: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.buffers + self.activations


def gpu_memory(stage: StageSpec, parameters: Parameters, tokens: int) -> Memory:
    """Memory of one worker. With w bytes a number (bfloat16 2), n workers, and parallel.sharding for ZeRO's numbers:

    weights: w (frozen + trained), / n at 3; on the host with offload_params at ZeRO-3. With lora.quantize the blocks' linear weights
    take 0.516 bytes each instead (pvtt_model/low_rank/nf4.py). FSDP2 keeps of what is trained the float32 masters alone.
    gradients: w trained, / n from 2. Frozen weights have none. DDP and one process keep a float32 sum beside them, FSDP2 both in float32.
    optimizer: AdamW's two moments and the float32 master, 12 trained, / n from 1 (8 at 0 in float32, without a master); on the host with
    offload_optimizer. train.ema_decay adds 4.
    buffers: ZeRO's two buckets of at most 50 M elements, and at ZeRO-3 the gathered weights, at most 1e9 elements; of DDP one more copy of the
    gradients; of FSDP2 two gathered blocks, and what stands outside of the blocks.
    activations: micro_batch x (with checkpointing the input of every block, and one block's inside; else every block's inside), and with
    checkpointing='keep_..' what every block keeps (kept_outputs); of the
    main blocks, and of VACE's where they read the reference (counted as main ones: too much, as they carry no LoRA).
    """
    parallel = stage.parallel.as_run()
    w, n, cut, zero = BYTES[parallel.precision], parallel.num_workers, parallel.sharding, parallel.strategy == "deepspeed"
    everything, trained = parameters.frozen + parameters.trained, parameters.trained
    packed = parameters.block_linear if stage.lora.quantize else 0
    kept_weights = everything - (trained if parallel.strategy == "fsdp2" else 0)
    weights = (w * (kept_weights - packed) + nf4_bytes(packed)) // (n if cut == 3 else 1)
    gradients = {"deepspeed": w, "fsdp2": 8}.get(parallel.strategy, w + 4) * trained // (n if cut >= 2 else 1)
    optimizer = (8 if cut == 0 and w == 4 else 12) * trained // (n if cut >= 1 else 1)
    optimizer += 4 * trained // (n if cut >= 1 else 1) if stage.train.ema_decay is not None else 0
    buffers = (2 * w * min(BUCKET, trained) if zero and cut else 0) + (w * min(MAX_LIVE, everything) if zero and cut == 3 else 0)
    if parallel.strategy == "ddp":
        buffers = w * trained
    if parallel.strategy == "fsdp2":
        outside = max(0, parameters.frozen - parameters.block_linear) + parameters.reference_encoder
        buffers = w * (2 * parameters.largest_block + outside)
    host = 0
    if parallel.offload_optimizer and cut:
        optimizer, host = 0, host + optimizer
    if parallel.offload_params and cut == 3:
        weights, host = 0, host + weights
    config = architecture(stage.backbone.architecture, "dit").config
    layers = config["num_layers"] + (len(config.get("vace_layers", ())) if stage.reference.vace_blocks else 0)
    inside, entry = block_activations(stage, tokens)
    without = parallel.micro_batch * layers * inside
    kept = without
    if parallel.gradient_checkpointing:
        kept = parallel.micro_batch * (layers * (entry + kept_outputs(stage, tokens)) + inside + timed_input(stage, tokens))
    return Memory(weights, gradients, optimizer, buffers, kept, without, host)


def block_activations(stage: StageSpec, tokens: int) -> tuple[int, int]:
    """(bytes that autograd keeps inside one main block, bytes of its input), a sample.

    inside = L (c D + F w + r w + 12 H + 36): c = 16 x 4 in float32; in bfloat16 8 x 2 + 7 x 4, as Wan's norms and gates run in
    float32; LoRA dropout adds 9 w. Counted with autograd's saved-tensor hooks on this code (reference hooked, LoRA on both
    attentions, on a CPU): the inputs of 6 LoRA products, q, k, v and out of three attentions, norms and gates; F the GELU's input, r
    the ranks of the layers that read the video's tokens, together (6 of them with LoRA on both attentions), H heads' softmax sums, 36 the
    norms'. What keys and values of text and reference keep is left out. input = L D w.
    More by kind: 'ti2v' has scales, shifts and gates of each token, 6 x 4 D and 2 x 4 D for 1 + scale; an attention to the first frame keeps its
    output and sums, w D + 4 H, and dual_path's second set of reference tokens likewise. Not here: what plan_flops.not_counted() names.
    """
    arch = architecture(stage.backbone.architecture, "dit")
    config = arch.config
    d, w, heads = dit_width(config), BYTES[stage.parallel.precision], config["num_attention_heads"]
    constant = (16 * 4 if w == 4 else 8 * 2 + 7 * 4) + (9 * w if stage.lora.dropout else 0)
    ranks = sum(stage.lora.rank_of(layer) for layer in stage.lora.layers() if layer not in ("attn2.to_k", "attn2.to_v"))
    inside = tokens * (constant * d + config["ffn_dim"] * w + ranks * w + 12 * heads + 36)
    if arch.kind == "ti2v":
        inside += tokens * 32 * d
    more = (config.get("image_dim") is not None) + (stage.reference.injection == "dual_path")
    inside += more * tokens * (w * d + 4 * heads)
    return inside, tokens * d * w


def kept_outputs(stage: StageSpec, tokens: int) -> int:
    """Bytes that one block keeps beside its input as parallel.checkpointing says, a sample: each attention its output L w D and a float32 sum of
    every head, 4 L H, the feed-forward its answer L w D. All attentions: to itself, the text's and the reference's; and to a first frame, and
    dual_path's second, where there are these."""
    arch, kind = architecture(stage.backbone.architecture, "dit"), stage.parallel.checkpointing
    every = 3 + (arch.config.get("image_dim") is not None) + (stage.reference.injection == "dual_path")
    attentions = {"full": 0, "keep_self_attention": 1}.get(kind, every)
    answer = BYTES[stage.parallel.precision] * dit_width(arch.config)
    kept = attentions * (answer + 4 * arch.config["num_attention_heads"]) + (answer if kind == "keep_attention_and_ffn" else 0)
    return tokens * kept


def timed_input(stage: StageSpec, tokens: int) -> int:
    """Bytes of the time embedding that every checkpointed block is given, a sample: one for all blocks; of 'ti2v' 6 D numbers a token."""
    arch = architecture(stage.backbone.architecture, "dit")
    return 6 * tokens * dit_width(arch.config) * BYTES[stage.parallel.precision] if arch.kind == "ti2v" else 0


@dataclass(frozen=True)
class DataBytes:
    """Bytes a pair, before zstd. The source clips keep the size they came with and are not counted."""

    latents: int
    conditions: int
    masks: int

    @property
    def total(self) -> int:
        return self.latents + self.conditions + self.masks


def data_bytes(recipe: RecipeSpec) -> DataBytes:
    """Bytes of one pair of the largest bucket, at most, with one reference picture:

    latents: F h w (z numbers, and for each mask variant 2 z numbers + a bit for each pixel of a cell), z the VAE's channels, for each video
    variant; h w z numbers more where references are encoded, F h w z where first frames are, and the tokens of first_frame_clip.
    conditions: (text tokens x text width + patches, and the class token where kept, x image width + a CLIP's tokens x width + its embedding)
    numbers. masks: one bit a pixel at the bucket's size (they are stored as PNG at the source's).
    """
    frames, height, width = latent_size(recipe.latents)
    video, conditions = recipe.latents.video, recipe.conditions
    pixels = video.largest[0] * video.largest[1]
    (channels, _, cell), variants = latent_grid(recipe.latents.vae.architecture), recipe.latents.variants
    of_mask = cell**2 // 8
    latents = frames * height * width * ((1 + 2 * variants) * channels * BYTES[recipe.latents.dtype] + variants * of_mask)
    latents *= recipe.latents.video_variants
    if recipe.latents.references != "none":
        latents += height * width * channels * BYTES[recipe.latents.dtype]
    if recipe.latents.first_frame:
        of_clip = clip_tokens(recipe.latents.first_frame_clip) * _clip_width(recipe.latents.first_frame_clip)
        latents += (frames * height * width * channels + of_clip) * BYTES[recipe.latents.dtype]
    text = conditions.max_text_tokens * int(architecture(conditions.text_encoder.architecture, "text").config["d_model"])
    patches, image_width = reference_patches(recipe)
    masks = video.num_frames * pixels // 8
    patches += conditions.class_tokens
    return DataBytes(latents, (text + patches * image_width + _clip_numbers(conditions)) * BYTES[conditions.dtype], masks)


def _clip_numbers(conditions: ConditionSpec) -> int:
    """Numbers that a CLIP leaves of one reference picture: 1 + P tokens, and the embedding; 0 without one."""
    if conditions.clip_encoder is None:
        return 0
    embedding = int(architecture(conditions.clip_encoder.architecture, "clip").config["embed_dim"])
    return clip_tokens(conditions.clip_encoder) * _clip_width(conditions.clip_encoder) + embedding


def reference_patches(recipe: RecipeSpec) -> tuple[int, int]:
    """(patches of one reference picture, their width)."""
    config = architecture(recipe.conditions.image_encoder.architecture, "image").config
    return (recipe.conditions.image_size // config["patch"]) ** 2, int(config["width"])


def clip_width(recipe: RecipeSpec) -> int | None:
    """The width of the tokens that conditions.clip_encoder makes, where there is one."""
    return _clip_width(recipe.conditions.clip_encoder) or None


def picture_tokens(recipe: RecipeSpec) -> PictureTokens:
    """What the injections may read of one reference picture."""
    clip = recipe.conditions.clip_encoder
    return PictureTokens(*reference_patches(recipe), clip_tokens(clip), _clip_width(clip))


def _clip_width(clip: ModelSpec | None) -> int:
    return 0 if clip is None else clip_channels(clip.architecture)
