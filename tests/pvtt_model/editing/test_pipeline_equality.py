"""Our sampling is diffusers' own pipelines', on small random weights in float32: same noise, steps, guidance and contexts; the final latents
differ by no more than 1e-5. With an adapter and LoRA that were never trained, and with a trained adapter at reference scale 0."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
    WanVACEPipeline,
    WanVACETransformer3DModel,
)
from PIL import Image
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from pvtt_model.backbones.source import frozen, seeded
from pvtt_model.backbones.vae import VideoAutoencoder
from pvtt_model.curation.i2v_context import context_for, first_latents, given_first, i2v_context
from pvtt_model.curation.latents import vace_contexts
from pvtt_model.editing.sample import EditInputs, Experts, flow_scheduler, sample_edit
from pvtt_model.reference.features import PictureFeatures
from pvtt_model.specs import EditSpec, LatentSpec, LoraSpec, MaskPolicy, ModelSpec, ReferenceSpec, VideoSpec
from pvtt_model.training.teacher import Teacher

Z, SIZE, FRAMES, TEXT, IMAGE, TOKENS = 16, 32, 5, 32, 24, 12
SCHEDULERS = pytest.mark.parametrize("scheduler", ["unipc", "flow_euler"])
WITHIN = {"rtol": 1e-5, "atol": 1e-5}


def tiny(seed: int, cls: Any = WanTransformer3DModel, **more: Any) -> Any:
    config = {"num_attention_heads": 2, "attention_head_dim": 12, "in_channels": Z, "out_channels": Z, "text_dim": TEXT, "freq_dim": 64}
    with seeded(seed):
        return frozen(cls(**{**config, "ffn_dim": 32, "num_layers": 2, "rope_max_seq_len": 32, **more}))


def image_to_video(seed: int, reads_image: bool) -> Any:
    return tiny(seed, in_channels=2 * Z + 4, **({"image_dim": IMAGE, "added_kv_proj_dim": 24} if reads_image else {}))


def taught(transformer: Any, kind: Any = None, *, trained: bool = False) -> Teacher:
    """A teacher on a copy of the transformer. trained: its adapter's values are not zero any more; LoRA's still are."""
    with seeded(1):
        copy = type(transformer).from_config(transformer.config)
    copy.load_state_dict(transformer.state_dict())
    reference, lora = ReferenceSpec(num_tokens=2, depth=1, width=16, num_heads=2), LoraSpec(rank=2, alpha=2, dropout=0.0)
    teacher = Teacher(frozen(copy), reference, lora, 8, seed=3, kind=kind).eval()
    if trained:
        generator = torch.Generator().manual_seed(4)
        with torch.no_grad():
            for name, p in teacher.trainable().items():
                if "to_v_ref" in name:
                    p.copy_(torch.randn(p.shape, generator=generator))
    return teacher


@pytest.fixture(scope="module")
def vae() -> VideoAutoencoder:
    with seeded(0):
        model: Any = AutoencoderKLWan(base_dim=4, z_dim=Z, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    return VideoAutoencoder(frozen(model), "tiny")


@pytest.fixture(scope="module")
def frames() -> torch.Tensor:
    return torch.randint(256, (FRAMES, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(9), dtype=torch.uint8)


class OurSteps(FlowMatchEulerDiscreteScheduler):
    """Flow Euler whose steps are flow_scheduler's: the pipelines ask by number alone, which shifts the low end twice."""

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        super().set_timesteps(sigmas=[1 - i / num_inference_steps for i in range(num_inference_steps)], device=device)


def same_scheduler(spec: EditSpec) -> Any:
    return flow_scheduler(spec) if spec.scheduler == "unipc" else OurSteps(shift=spec.shift)


def spec(scheduler: Any, **changes: Any) -> EditSpec:
    return EditSpec(**{"num_steps": 3, "shift": 5.0, "scheduler": scheduler, "guidance_text": 5.0, "guidance_reference": 2.0, **changes})


def texts() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(5)
    return torch.randn(TOKENS, TEXT, generator=g), torch.randn(3, TEXT, generator=g)


def padded(tokens: torch.Tensor, length: int) -> torch.Tensor:
    return torch.cat([tokens, tokens.new_zeros(length - len(tokens), TEXT)])[None]


def theirs(pipe: Any, edit: EditSpec, text_tokens: int = TOKENS, **given: Any) -> torch.Tensor:
    """The pipeline's own latents from the noise of seed 7."""
    pipe.set_progress_bar_config(disable=True)
    text, empty = texts()
    noise = torch.randn(1, Z, 2, SIZE // 8, SIZE // 8, generator=torch.Generator().manual_seed(7))
    embeds = {"prompt_embeds": padded(text, text_tokens), "negative_prompt_embeds": padded(empty, text_tokens)}
    size = {"height": SIZE, "width": SIZE, "num_frames": FRAMES, "num_inference_steps": edit.num_steps}
    return pipe(**size, guidance_scale=edit.guidance_text, latents=noise, output_type="latent", **embeds, **given).frames[0]


def ours(teacher: Any, edit: EditSpec, control: torch.Tensor, **given: Any) -> torch.Tensor:
    text, empty = texts()
    pictures = torch.randn(4, 8, generator=torch.Generator().manual_seed(8))
    return sample_edit(teacher, EditInputs(control, text, empty, PictureFeatures(pictures), **given), edit, TOKENS, seed=7)


def same(transformer: Any, edit: EditSpec, wanted: torch.Tensor, control: torch.Tensor, kind: Any = None, **given: Any) -> None:
    """Equal untrained at any reference scale, and trained at scale 0; trained at another scale the reference counts."""
    torch.testing.assert_close(ours(taught(transformer, kind), edit, control, **given), wanted, **WITHIN)
    trained, off = taught(transformer, kind, trained=True), edit.model_copy(update={"guidance_reference": 0.0})
    torch.testing.assert_close(ours(trained, off, control, **given), wanted, **WITHIN)
    assert not torch.allclose(ours(trained, edit, control, **given), wanted, atol=1e-3)
    assert float(wanted.std()) > 0.1


def nothing() -> torch.Tensor:
    return torch.zeros(0, 2, SIZE // 8, SIZE // 8)


@SCHEDULERS
def test_text_to_video(vae: VideoAutoencoder, scheduler: Any) -> None:
    edit, transformer = spec(scheduler), tiny(0)
    pipe = WanPipeline(tokenizer=None, text_encoder=None, vae=vae.model, scheduler=same_scheduler(edit), transformer=transformer)
    wanted = theirs(pipe, edit)
    same(transformer, edit, wanted, nothing())
    if scheduler == "unipc":  # and the frames, once
        pipe.set_progress_bar_config(disable=True)
        raw = wanted[None] * vae._std + vae._mean
        shown = pipe.video_processor.postprocess_video(vae.model.decode(raw, return_dict=False)[0], output_type="pt")
        torch.testing.assert_close((vae.decode(ours(taught(transformer), edit, nothing())[None]) / 2 + 0.5).transpose(1, 2), shown, rtol=0, atol=1e-4)


@SCHEDULERS
def test_vace_with_a_mask(vae: VideoAutoencoder, frames: torch.Tensor, scheduler: Any) -> None:
    edit = spec(scheduler)
    transformer = tiny(0, WanVACETransformer3DModel, vace_layers=[0, 1], vace_in_channels=2 * Z + 64)
    mask = torch.zeros(FRAMES, SIZE, SIZE, dtype=torch.bool)
    mask[:, 5:20, 8:24] = True
    whole = (frames / 127.5 - 1).clamp(-1, 1)
    video = torch.where(mask[:, None], torch.zeros(()), whole)  # as LatentSpec(fill='neutral') has it
    latents = LatentSpec(
        video=VideoSpec(width=SIZE, height=SIZE, num_frames=FRAMES),
        vae=ModelSpec(architecture="nano-vae", weights="seed:0"),
        mask_policy=MaskPolicy(),
    )
    _, (context,) = vace_contexts(frames, [mask], latents, vae)
    control = torch.cat([context["inactive_CFHW"], context["reactive_CFHW"], context["mask_MFHW"].float()])
    pipe = WanVACEPipeline(tokenizer=None, text_encoder=None, vae=vae.model, scheduler=same_scheduler(edit), transformer=transformer)
    pixels = (video / 2 + 0.5)[None]  # preprocess_video takes [0, 1]
    wanted = theirs(pipe, edit, video=pixels, mask=mask.float()[None, :, None].expand(1, -1, 3, -1, -1))
    same(transformer, edit, wanted, control)


def first_picture(frames: torch.Tensor) -> torch.Tensor:
    return (frames[0] / 127.5 - 1).clamp(-1, 1)


@SCHEDULERS
@pytest.mark.parametrize("reads_image", [True, False], ids=["2.1 with CLIP", "2.2 without"])
def test_image_to_video(vae: VideoAutoencoder, frames: torch.Tensor, scheduler: Any, reads_image: bool) -> None:
    edit, transformer = spec(scheduler), image_to_video(0, reads_image)
    picture = Image.fromarray(frames[0].permute(1, 2, 0).numpy())
    eyes: dict[str, Any] = {}
    image = None
    if reads_image:
        size = {"hidden_size": IMAGE, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": SIZE, "patch_size": 8}
        with seeded(2):
            eyes = {"image_encoder": CLIPVisionModel(CLIPVisionConfig(**size)).eval()}
        eyes["image_processor"] = CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})
        pixels = eyes["image_processor"](images=picture, return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            image = eyes["image_encoder"](pixels, output_hidden_states=True).hidden_states[-2][0]
    parts = {"tokenizer": None, "text_encoder": None, "vae": vae.model, "scheduler": same_scheduler(edit), **eyes}
    wanted = theirs(WanImageToVideoPipeline(**parts, transformer=transformer), edit, text_tokens=512 if reads_image else TOKENS, image=picture)
    same(transformer, edit, wanted, i2v_context(vae, first_picture(frames), FRAMES), image_NC=image)


@SCHEDULERS
def test_two_experts_split_at_the_boundary(vae: VideoAutoencoder, scheduler: Any) -> None:
    edit, boundary = spec(scheduler, num_steps=4, shift=3.0, guidance_text=4.0, guidance_text_low=3.0), 0.875
    high, low = tiny(0), tiny(6)
    timesteps = flow_scheduler(edit).timesteps
    assert (timesteps >= 875).any() and (timesteps < 875).any(), "both experts answer"
    parts = {"tokenizer": None, "text_encoder": None, "vae": vae.model, "scheduler": same_scheduler(edit)}
    wanted = theirs(WanPipeline(**parts, transformer=high, transformer_2=low, boundary_ratio=boundary), edit, guidance_scale_2=3.0)
    torch.testing.assert_close(ours(Experts(taught(high), taught(low), boundary), edit, nothing()), wanted, **WITHIN)
    assert not torch.allclose(ours(Experts(taught(low), taught(high), boundary), edit, nothing()), wanted, atol=1e-3)
    trained = Experts(taught(high, trained=True), taught(low, trained=True), boundary)
    torch.testing.assert_close(ours(trained, edit.model_copy(update={"guidance_reference": 0.0}), nothing()), wanted, **WITHIN)


def test_two_image_to_video_experts(vae: VideoAutoencoder, frames: torch.Tensor) -> None:
    edit = spec("unipc", num_steps=4)
    high, low = image_to_video(0, False), image_to_video(6, False)
    parts = {"tokenizer": None, "text_encoder": None, "vae": vae.model, "scheduler": same_scheduler(edit)}
    pipe = WanImageToVideoPipeline(**parts, transformer=high, transformer_2=low, boundary_ratio=0.9)
    first = first_picture(frames)
    wanted = theirs(pipe, edit, image=(first / 2 + 0.5)[None])
    torch.testing.assert_close(ours(Experts(taught(high), taught(low), 0.9), edit, i2v_context(vae, first, FRAMES)), wanted, **WITHIN)


@SCHEDULERS
def test_a_first_frame_that_is_kept_with_a_time_for_each_token(vae: VideoAutoencoder, frames: torch.Tensor, scheduler: Any) -> None:
    """TI2V-5B. Its context is made of the clip's own latents, whose first frame is that of the picture alone."""
    edit, transformer = spec(scheduler), tiny(0)
    parts = {"tokenizer": None, "text_encoder": None, "vae": vae.model, "transformer": transformer, "expand_timesteps": True}
    pipe = WanImageToVideoPipeline(**parts, scheduler=same_scheduler(edit))
    wanted = theirs(pipe, edit, image=(first_picture(frames) / 2 + 0.5)[None])
    clip = vae.encode((frames / 127.5 - 1).clamp(-1, 1).transpose(0, 1)[None])[0]
    same(transformer, edit, wanted, given_first(clip), "ti2v")
    control = torch.zeros(Z + 1, 2, SIZE // 8, SIZE // 8)  # nothing given: text-to-video
    wanted = theirs(WanPipeline(**parts, scheduler=same_scheduler(edit)), edit)
    torch.testing.assert_close(ours(taught(transformer, "ti2v"), edit, control), wanted, **WITHIN)


def test_a_context_by_kind_of_what_a_row_holds(vae: VideoAutoencoder, frames: torch.Tensor) -> None:
    first = first_latents(vae, first_picture(frames), FRAMES)
    vace, x0 = torch.ones(2 * Z + 64, *first.shape[1:]), torch.full(first.shape, 2.0)
    assert context_for("vace", vace, x0, first) is vace and context_for("t2v", vace, x0, first).shape == (0, *first.shape[1:])
    assert torch.equal(context_for("i2v", vace, x0, first), i2v_context(vae, first_picture(frames), FRAMES))
    given = context_for("ti2v", vace, x0, first)
    assert given[:, 0].unique().tolist() == [1, 2] and not given[:, 1:].any()
    assert torch.equal(context_for("i2v", vace[None], x0[None], first[None])[0], context_for("i2v", vace, x0, first))
    with pytest.raises(ValueError, match=r"hold no first frames.*Set latents\.first_frame=true"):
        context_for("i2v", vace, x0, torch.zeros(0))
