"""What of a recipe is held against the architectures it names, before any work: families, shipped weights, latents, patches, blocks."""

from __future__ import annotations

from pvtt_model.backbones.architectures import Family, architecture, clip_channels, latent_grid, refuse_wrong_expert
from pvtt_model.nano.shipped import shipped
from pvtt_model.specs import LatentSpec, ModelSpec, RecipeSpec, StageSpec

#: The family of what EvalSpec's fields name.
JUDGED_BY: dict[str, Family] = {
    "clip": "clip", "dino": "image", "judge": "image", "flow": "flow", "lpips": "perceptual", "fvd": "video", "fid": "inception",
}  # fmt: skip


def check_roles(recipe: RecipeSpec) -> None:
    """Every architecture exists and is of the family its place wants, and shipped weights are there and of it. Raises ValueError."""
    wanted: list[tuple[ModelSpec, Family]] = [
        (recipe.latents.vae, "vae"),
        (recipe.conditions.text_encoder, "text"),
        (recipe.conditions.image_encoder, "image"),
    ]
    wanted += [(recipe.masks.image_encoder, "image")] if recipe.masks.image_encoder else []
    wanted += [(recipe.masks.sam2, "sam2")] if recipe.masks.sam2 else []
    wanted += [(recipe.conditions.clip_encoder, "clip")] if recipe.conditions.clip_encoder else []
    wanted += [(recipe.latents.first_frame_clip, "clip")] if recipe.latents.first_frame_clip else []
    for stage in recipe.stages:
        wanted += [(stage.backbone, "dit"), *((model, JUDGED_BY[name]) for name, model in stage.evaluate.models().items())]
    for spec, family in wanted:
        architecture(spec.architecture, family)
        if spec.weights.startswith("nano:"):
            of = shipped(spec.weights.removeprefix("nano:"), ModelSpec).architecture
            if of != spec.architecture:
                raise ValueError(
                    f"weights '{spec.weights}' are of architecture '{of}', not '{spec.architecture}'. Set `architecture` and `weights` together."
                )
    for stage in recipe.stages:
        if stage.init_from == "release":
            raise ValueError(f"stage '{stage.name}': init_from='release' is set by the flow `retrain` alone. Use 'base' or 'previous'.")
        refuse_wrong_expert(stage.backbone.architecture, stage.backbone.expert)
        _check_latents(recipe.latents, stage)
        _check_kind(recipe.latents, stage)
    config = architecture(recipe.conditions.image_encoder.architecture, "image").config
    if "convnet" in config:
        raise ValueError(
            f"conditions.image_encoder '{recipe.conditions.image_encoder.architecture}' is a ConvNet and has no patch tokens. "
            "Use a ViT, e.g. nano-dinov2."
        )
    patch = config["patch"]
    if recipe.conditions.image_size % patch:
        raise ValueError(f"conditions.image_size {recipe.conditions.image_size} is not a multiple of the image encoder's patch of {patch} pixels.")


def _check_latents(latents: LatentSpec, stage: StageSpec) -> None:
    """The stage's backbone works on the VAE's latents, and every bucket is whole tokens. Raises ValueError."""
    name, vae = stage.backbone.architecture, latents.vae.architecture
    arch, (channels, _, cell) = architecture(name), latent_grid(vae)
    wanted, wanted_cell = arch.config["out_channels"], latent_grid(arch.vae)[2] if arch.vae else cell
    if (wanted, wanted_cell) != (channels, cell):
        raise ValueError(
            f"stage '{stage.name}': backbone '{name}' works on latents of {wanted} channels, {wanted_cell} x {wanted_cell} pixels a cell; "
            f"'{vae}' makes {channels} and {cell} x {cell}. Set latents.vae to '{arch.vae}'."
        )
    side = cell * arch.config["patch_size"][1]
    for width, height in latents.video.sizes:
        if width % side or height % side:
            near = "x".join(str(max(1, round(n / side)) * side) for n in (width, height))
            raise ValueError(f"latents.video: {width}x{height} is not in multiples of {side} pixels, as backbone '{name}' wants. Use {near}.")


def _check_kind(latents: LatentSpec, stage: StageSpec) -> None:
    """The latents hold what the stage's kind of backbone starts from, and it has the blocks that are to be trained. Raises ValueError."""
    name = stage.backbone.architecture
    arch = architecture(name, "dit")
    if arch.kind == "i2v" and not latents.first_frame:
        raise ValueError(f"stage '{stage.name}': backbone '{name}' starts from a first frame. Set latents.first_frame=true.")
    if arch.config.get("image_dim"):
        if latents.first_frame_clip is None:
            raise ValueError(f"stage '{stage.name}': backbone '{name}' reads the first frame's CLIP tokens. Set latents.first_frame_clip to a CLIP.")
        width = clip_channels(latents.first_frame_clip.architecture)
        if width != arch.config["image_dim"]:
            raise ValueError(
                f"stage '{stage.name}': backbone '{name}' reads CLIP tokens of width {arch.config['image_dim']}; "
                f"'{latents.first_frame_clip.architecture}' makes {width}. Set latents.first_frame_clip to the one that it was trained with."
            )
    if stage.reference.vace_blocks and arch.kind != "vace":
        raise ValueError(f"stage '{stage.name}': reference.vace_blocks is true, but backbone '{name}' has no VACE blocks. Set it to false.")
    if "vace" in stage.train.trained and arch.kind != "vace":
        raise ValueError(f"stage '{stage.name}': train.trained names 'vace', but backbone '{name}' has no VACE blocks. Name 'all', or leave it out.")
