"""One held-out clip edited: its own frames, another product's pictures, the teacher in between; and the right answer, where it is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor

from pvtt_model.backbones.image import letterbox
from pvtt_model.backbones.vae import VideoAutoencoder
from pvtt_model.curation.frames import DTYPES, as_seen, frames_and_mask, to_frames, to_model
from pvtt_model.curation.i2v_context import FIRST, IMAGE, context_for
from pvtt_model.curation.latents import REFERENCES
from pvtt_model.curation.mask_policy import widen
from pvtt_model.curation.prompts import replaced
from pvtt_model.curation.vace_references import reference_latents
from pvtt_model.curation.variants import control_of
from pvtt_model.data.video_io import decode, fit, fit_mask, png_bytes, png_mask, read_picture
from pvtt_model.editing.composite import composite, match_colours
from pvtt_model.editing.sample import EditInputs, Experts, Variant, each_of, latent_mask, sample_variants
from pvtt_model.reference.features import READS, PictureFeatures, pictures_of
from pvtt_model.specs import EditSpec, LatentSpec, VideoSpec
from pvtt_model.training.schedule import seed_of
from pvtt_model.training.teacher import Teacher

Row = dict[str, Any]
REFERENCE_SIDE = 224  # pixels of the stored letterboxed reference, unless its picture is smaller
VIDEOS = ("source", "mask", "raw", "composited", "round_trip")
OPTIONAL_VIDEOS = ("truth", "truth_mask", "truth_round_trip", "base", "no_reference", "wrong_reference")


def edit_clip(
    teacher: Teacher | Experts,
    vae: VideoAutoencoder,
    template: dict[str, Row],
    reference: dict[str, Row],
    empty_text_LD: Tensor,
    edit: EditSpec,
    latents: LatentSpec,
    max_text_tokens: int,
    *,
    wrong: dict[str, Row] | None = None,
    product_hidden: bool = False,
) -> Row:
    """The edits row of one clip.

    template: the rows 'clips', 'masks', 'latents' of the clip that is edited, and its 'conditions' where product_hidden. reference:
    'clips' and 'conditions' of the clip whose product goes in; wrong: the same of a third product, for the baseline of that name.
    product_hidden: prompts say 'product' (ConditionSpec.product_words), so a template's own one may condition its edit; it does where
    the clip's product has words, else the reference's. A clip whose latents are unusable gives an unusable row with the
    reason: counted, never skipped.
    """
    clip, product = template["clips"], reference["clips"]
    row: Row = {
        "clip_key": clip["clip_key"], "usable": True, "reason": None, "reference_key": product["clip_key"], "prompt": prompt_of(clip, product),
        **{name: [] for name in (*VIDEOS, *OPTIONAL_VIDEOS)}, "reference": None, "fps": latents.video.fps or clip["fps"],
        "product_id": product["product_id"], "wrong_product_id": wrong["clips"]["product_id"] if wrong else None,
        "source_prompt": clip["prompt"],
    }  # fmt: skip
    if not template["latents"]["usable"]:
        return row | {"usable": False, "reason": template["latents"]["reason"]}
    z, c = load(template["latents"]["tensors"]), load(reference["conditions"]["tensors"])
    own_text = product_hidden and bool(clip.get("product_words"))
    text = load(template["conditions"]["tensors"])["text_LD"] if own_text else c["text_LD"]
    frames, exact = frames_and_mask(clip, template["masks"], latents.video)
    mask = widen(exact, latents.mask_policy)
    height, width = frames.shape[-2:]
    shown, wrongly = (
        None if r is None else read_pictures(teacher, load(r["conditions"]["tensors"]), r["clips"]["references"], (height, width), latents, vae)
        for r in (reference, wrong)
    )
    assert shown is not None
    inputs = edit_inputs(teacher, z, text, empty_text_LD, latent_mask(mask, vae.space_stride), shown, wrongly)
    try:
        sampled = sample_variants(teacher, inputs, _asked(edit, wrong is not None), edit, max_text_tokens, seed_of(edit.seed, clip["clip_key"]))
    except FloatingPointError as error:
        return row | {"usable": False, "reason": str(error)}
    truth = truth_of(clip, product, latents.video)
    videos = _decoded(vae, sampled, z["latents_CFHW"], None if truth is None else truth[0])
    matched = match_colours(videos["raw"], frames, mask, edit.colour_match).apply(videos["raw"])
    videos |= {"source": frames, "mask": mask, "composited": composite(matched, frames, mask, edit.feather_px)}
    if truth is not None:
        videos |= {"truth": truth[0], "truth_mask": truth[1]}
    given = read_picture(product["references"][0])
    picture = letterbox(given, min(REFERENCE_SIDE, max(given.size)))
    pictures = {name: [png_bytes(frame) for frame in video] for name, video in videos.items()}
    return row | pictures | {"reference": png_bytes((picture * 255).round().to(torch.uint8))}


def read_pictures(
    teacher: Teacher | Experts,
    conditions: Mapping[str, Tensor],
    references: Sequence[bytes],
    size: tuple[int, int],
    latents: LatentSpec,
    vae: VideoAutoencoder,
) -> PictureFeatures:
    """What the teacher reads of a product's pictures, of the tensors of its conditions row. The pictures' latents are made here, at the size (H, W)
    of the clip that is edited: the product's own clip may have another."""
    reads = each_of(teacher)[0].injection.kind
    if "latents_NCHW" not in READS[reads]:
        return pictures_of(conditions, reads)
    if latents.references == "none":
        raise ValueError("the teacher reads the pictures' latents, but latents.references is 'none'. Set it to 'white' or 'own', as in training.")
    found = reference_latents(list(references), size, latents.references, vae)
    return pictures_of({**conditions, REFERENCES: found.to(DTYPES[latents.dtype]).cpu()}, reads)


def edit_inputs(
    teacher: Teacher | Experts,
    z: Mapping[str, Tensor],
    text_LD: Tensor,
    empty_text_LD: Tensor,
    made_FHW: Tensor,
    reference: PictureFeatures,
    wrong: PictureFeatures | None = None,
) -> EditInputs:
    """What sampling takes, of the tensors of a latents row, on the teacher's device. made: latent_mask of the widened mask. wrong: of another
    product."""
    first = each_of(teacher)[0]
    vace = control_of(z, 0)
    assert vace is not None  # a usable row has the policy's own variant
    control = context_for(first.kind, vace, z["latents_CFHW"].float(), z.get(FIRST, torch.zeros(0)).float())
    image = z.get(IMAGE) if first.reads_image else None
    device = next(first.parameters()).device
    tensors = (control, text_LD, empty_text_LD, reference, wrong, z["latents_CFHW"], made_FHW, image)
    return EditInputs(*(None if t is None else t.to(device, torch.float32) for t in tensors))  # type: ignore[arg-type]


def prompt_of(clip: Row, product: Row) -> str:
    """What the edited clip shows, in words: the clip's own prompt with the new product's words in it; the reference's prompt where
    the words of one of the two are not known or not in the prompt."""
    old, new = clip.get("product_words"), product.get("product_words")
    if old and new and old in clip["prompt"]:
        return replaced(str(clip["prompt"]), old, new)
    return str(product["prompt"])


def truth_of(clip: Row, product: Row, video: VideoSpec) -> tuple[Tensor, Tensor] | None:
    """The right edit at its clip's bucket: frames uint8 T,C,H,W, and its product's mask bool T,H,W. None where it is not known for this product."""
    if not clip.get("truth_video") or clip.get("truth_product_id") != product["product_id"]:
        return None
    clip = as_seen(clip)
    frames = fit(decode(clip["truth_video"], video.num_frames), video)
    return frames, fit_mask(torch.stack([png_mask(png) for png in clip["truth_mask"][: video.num_frames]]), video)


def _asked(edit: EditSpec, has_wrong: bool) -> list[Variant]:
    wanted: list[Variant] = ["edit", *edit.baselines]
    return [v for v in wanted if v != "wrong_reference" or has_wrong]


def _decoded(vae: VideoAutoencoder, sampled: dict[Variant, Tensor], source_CFHW: Tensor, truth_TCHW: Tensor | None) -> dict[str, Tensor]:
    """Every latent video as uint8 T,C,H,W, by its column of the edits row, in one decoding. The truth goes through the latents' own dtype."""
    latents = {("raw" if name == "edit" else name): z.cpu().float() for name, z in sampled.items()} | {"round_trip": source_CFHW.float()}
    if truth_TCHW is not None:
        latents["truth_round_trip"] = vae.encode(to_model(truth_TCHW)[None])[0].to(source_CFHW.dtype).cpu().float()
    decoded = vae.decode(torch.stack(list(latents.values()))).cpu()
    return {name: to_frames(video) for name, video in zip(latents, decoded, strict=True)}
