"""The published classes at nano sizes: shapes, repeatability, strict loading from folders that the libraries themselves wrote."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from pvtt_model.artifacts import sha256_of_file
from pvtt_model.backbones.architectures import ARCHITECTURES
from pvtt_model.backbones.clip import load_clip
from pvtt_model.backbones.dit import build_on_meta, load_transformer
from pvtt_model.backbones.image import letterbox, load_image_encoder
from pvtt_model.backbones.text import load_text_encoder
from pvtt_model.backbones.vae import load_vae
from pvtt_model.nano.shipped import shipped, shipped_folder
from pvtt_model.nano.world import render_clip
from pvtt_model.specs import BackboneSpec, ModelSpec, NanoWorldSpec

torch.set_num_threads(1)


def nano(architecture: str, seed: int = 0) -> ModelSpec:
    return ModelSpec(architecture=architecture, weights=f"seed:{seed}")


def on_disk(architecture: str, folder, **more) -> ModelSpec:
    return ModelSpec(architecture=architecture, weights=str(folder), **more)


def config(name: str) -> dict[str, Any]:
    return ARCHITECTURES[name].config


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    x, y = a.state_dict(), b.state_dict()
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


LOADERS = {
    "nano-vae": load_vae,
    "nano-umt5": load_text_encoder,
    "nano-dinov2": load_image_encoder,
    "nano-judge": load_image_encoder,
    "nano-openclip": load_clip,
}


@pytest.mark.parametrize("name", [*LOADERS, "nano-s", "nano-m"])
def test_a_seed_gives_the_same_bits_and_leaves_the_generator_alone(name):
    def load(seed):
        if name in LOADERS:
            return LOADERS[name](nano(name, seed), None).model
        return load_transformer(BackboneSpec(architecture=name, weights=f"seed:{seed}"), None)

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = load(7)
    assert torch.equal(torch.rand(3), expected)
    assert same(first, load(7))
    assert not same(first, load(8))
    assert not first.training and not any(p.requires_grad for p in first.parameters())


def test_vae_shapes_range_and_that_latents_follow_the_frames():
    vae = load_vae(nano("nano-vae"), None)
    frames = torch.rand(2, 3, 9, 64, 48) * 2 - 1
    latents = vae.encode(frames)
    assert latents.shape == (2, config("nano-vae")["z_dim"], 3, 8, 6) == (2, *vae.latent_shape(9, 64, 48))
    assert torch.equal(latents, vae.encode(frames))
    assert (latents - vae.encode(torch.zeros_like(frames))).std() > 0.05
    back = vae.decode(latents)
    assert back.shape == frames.shape and back.abs().max() <= 1


def test_the_shipped_vae_has_latents_of_unit_size():
    """By the mean and the deviation in its own config: a random one of the class has none that fit."""
    spec = shipped("vae", ModelSpec)
    vae, world = load_vae(spec, shipped_folder(spec.weights)), NanoWorldSpec(num_clips=4, num_eval=2, look_alikes=1)
    frames = torch.stack([render_clip(world, i).frames_TCHW for i in range(4)]).transpose(1, 2) / 127.5 - 1
    assert 0.5 < vae.encode(frames).std() < 2


@pytest.mark.parametrize(
    ("frames", "says"),
    [
        (torch.zeros(1, 3, 8, 64, 64), "Use 9 or 13"),
        (torch.zeros(1, 3, 9, 60, 64), "multiples of 16"),
        (torch.zeros(3, 9, 64, 64), "add a batch"),
        (torch.full((1, 3, 9, 64, 64), 255.0), "127.5"),
    ],
)
def test_vae_refuses_with_a_cure(frames, says):
    with pytest.raises(ValueError, match=says):
        load_vae(nano("nano-vae"), None).encode(frames)


def test_text_lengths_truncation_and_independence():
    text = load_text_encoder(nano("nano-umt5", 1), None)
    mug, empty, long = text.embed(["a  red\nmug", "", "x" * 99], 32)
    width = config("nano-umt5")["d_model"]
    assert (mug.shape, empty.shape, long.shape) == ((10, width), (1, width), (32, width))
    assert text.token_counts(["a red mug", "", "x" * 99]) == [10, 1, 100]
    assert torch.equal(text.embed(["a red mug"], 32)[0], mug)


def test_image_encoder_tells_images_apart_and_names_itself():
    image = load_image_encoder(nano("nano-dinov2", 2), None)
    assert image.name == "nano-dinov2 (random weights, seed 2)"
    width, patch = config("nano-dinov2")["width"], config("nano-dinov2")["patch"]
    pictures = torch.stack([torch.zeros(3, 4 * patch, 4 * patch), torch.ones(3, 4 * patch, 4 * patch)])
    assert image.patch_tokens(pictures).shape == (2, 16, width)
    assert image.patch_tokens(torch.rand(1, 3, 16 * patch, 8 * patch)).shape == (1, 128, width)
    cls = image.embed(pictures)
    assert cls.shape == (2, width) and torch.cosine_similarity(cls[0], cls[1], 0) < 0.9
    with pytest.raises(ValueError, match=f"multiple of {patch}"):
        image.embed(torch.zeros(1, 3, 4 * patch + 4, 4 * patch + 4))


def test_a_convnet_gives_one_vector_and_no_patches():
    judge = load_image_encoder(nano("nano-judge", 2), None)
    pictures = torch.stack([torch.zeros(3, 64, 64), torch.ones(3, 64, 64)])
    vectors = judge.embed(pictures)
    assert vectors.shape == (2, config("nano-judge")["width"]) and not torch.equal(vectors[0], vectors[1])
    with pytest.raises(ValueError, match="is a ConvNet and has no patch tokens. Use a ViT"):
        judge.patch_tokens(pictures)


def test_clip_gives_unit_vectors():
    clip = load_clip(nano("nano-openclip", 3), None)
    images, texts = clip.embed_images(torch.rand(2, 3, 90, 90)), clip.embed_texts(["a mug", "a cup"])
    assert images.shape == texts.shape == (2, config("nano-openclip")["embed_dim"])
    assert torch.allclose(images.norm(dim=-1), torch.ones(2), atol=1e-5) and torch.allclose(texts.norm(dim=-1), torch.ones(2), atol=1e-5)
    with pytest.raises(ValueError, match="letterbox"):
        clip.embed_images(torch.rand(1, 3, 90, 64))


def test_clips_reference_tokens_are_what_its_last_block_reads():
    """The last block, the last norm and the projection make of them the embedding; the class token is first, and no norm was applied."""
    clip = load_clip(nano("nano-openclip", 3), None)
    pictures = torch.rand(2, 3, 64, 64)
    tokens, vectors = clip.reference_tokens(pictures)
    vision = config("nano-openclip")["vision_cfg"]
    assert tokens.shape == (2, 1 + (vision["image_size"] // vision["patch_size"]) ** 2, vision["width"])
    assert torch.allclose(vectors, clip.embed_images(pictures), atol=1e-6)
    visual, read = clip.model.visual, []
    handle = visual.transformer.resblocks[-1].register_forward_pre_hook(lambda module, args: read.append(args[0]))
    clip.embed_images(pictures)
    handle.remove()
    assert torch.equal(read[0] if visual.transformer.batch_first else read[0].transpose(0, 1), tokens)
    rebuilt = visual.ln_post(visual.transformer.resblocks[-1](read[0]))
    pooled = (rebuilt if visual.transformer.batch_first else rebuilt.transpose(0, 1))[:, 0] @ visual.proj
    assert torch.allclose(torch.nn.functional.normalize(pooled, dim=-1), vectors, atol=1e-6)
    with pytest.raises(ValueError, match="letterbox"):
        clip.reference_tokens(torch.rand(1, 3, 90, 64))


def test_clips_reference_tokens_are_transformers_hidden_states():
    """As IP-Adapter-Plus takes them, hidden_states[-2], from the same weights in transformers' CLIP."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    clip, vision = load_clip(nano("nano-openclip", 3), None), config("nano-openclip")["vision_cfg"]
    heads = vision["width"] // vision["head_width"]
    theirs = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=vision["width"], intermediate_size=4 * vision["width"], num_hidden_layers=vision["layers"], num_attention_heads=heads,
            image_size=vision["image_size"], patch_size=vision["patch_size"], projection_dim=config("nano-openclip")["embed_dim"], hidden_act="gelu",
        )
    ).eval()  # fmt: skip
    ours = clip.model.visual.state_dict()
    state = {
        "embeddings.class_embedding": ours["class_embedding"], "embeddings.patch_embedding.weight": ours["conv1.weight"],
        "embeddings.position_embedding.weight": ours["positional_embedding"],
    }  # fmt: skip
    names = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2", "attn.out_proj": "self_attn.out_proj"}
    for end in ("weight", "bias"):
        state |= {f"pre_layrnorm.{end}": ours[f"ln_pre.{end}"], f"post_layernorm.{end}": ours[f"ln_post.{end}"]}
        for i in range(vision["layers"]):
            block, theirs_block = f"transformer.resblocks.{i}", f"encoder.layers.{i}"
            state |= {f"{theirs_block}.{b}.{end}": ours[f"{block}.{a}.{end}"] for a, b in names.items()}
            for part, piece in zip("qkv", ours[f"{block}.attn.in_proj_{end}"].chunk(3), strict=True):
                state[f"{theirs_block}.self_attn.{part}_proj.{end}"] = piece
    state = {f"vision_model.{name}": tensor for name, tensor in state.items()} | {"visual_projection.weight": ours["proj"].T}
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= {"vision_model.embeddings.position_ids"}
    pictures = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        wanted = theirs(clip._prepared(pictures), output_hidden_states=True)
    tokens, vectors = clip.reference_tokens(pictures)
    assert torch.allclose(tokens, wanted.hidden_states[-2], atol=1e-5)
    assert torch.allclose(vectors, torch.nn.functional.normalize(wanted.image_embeds, dim=-1), atol=1e-5)


@pytest.mark.parametrize("name", ["nano-s", "nano-m"])
def test_the_random_transformer_answers_to_every_input(name):
    model = load_transformer(BackboneSpec(architecture=name, weights="seed:10"), None)
    channels = config(name)["in_channels"]
    inputs = {
        "hidden_states": torch.randn(1, channels, 3, 8, 8),
        "timestep": torch.tensor([500.0]),
        "encoder_hidden_states": torch.randn(1, 12, config(name)["text_dim"]),
        "control_hidden_states": torch.randn(1, config(name)["vace_in_channels"], 3, 8, 8),
    }
    inputs = {k: v.requires_grad_() for k, v in inputs.items()}
    out = model(**inputs, return_dict=False)[0]
    assert out.shape == (1, channels, 3, 8, 8) and out.std() > 1e-3
    out.pow(2).mean().backward()
    for key, value in inputs.items():
        if key != "timestep":
            assert value.grad.abs().max() > 0, key
    with torch.no_grad():
        late = model(**(inputs | {"timestep": torch.tensor([10.0])}), return_dict=False)[0]
    assert (late - out).abs().max() > 1e-3


def test_bfloat16_keeps_norms_and_tables_in_float32():
    model = load_transformer(BackboneSpec(architecture="nano-s", weights="seed:10"), None, torch.bfloat16)
    kinds = {n: p.dtype for n, p in model.named_parameters()}
    assert kinds["blocks.0.attn1.to_q.weight"] == torch.bfloat16
    assert kinds["blocks.0.norm2.weight"] == kinds["blocks.0.scale_shift_table"] == torch.float32


def test_big_architectures_are_not_made_from_a_seed():
    with pytest.raises(ValueError, match="only nano architectures are made from a seed"):
        load_vae(nano("wan2.1-vae"), None)
    with pytest.raises(ValueError, match="no dit architecture 'wan2.1-vae'. Valid: wan2.1-vace-1.3b"):
        load_transformer(BackboneSpec(architecture="wan2.1-vae", weights="seed:1"), None)


def test_diffusers_folders_load_strictly(tmp_path):
    vae = load_vae(nano("nano-vae"), None)
    dit = load_transformer(BackboneSpec(architecture="nano-s", weights="seed:1"), None)
    vae.model.save_pretrained(tmp_path / "vae")
    dit.save_pretrained(tmp_path / "transformer")
    assert same(load_vae(on_disk("nano-vae", tmp_path), tmp_path).model, vae.model)
    assert same(load_transformer(BackboneSpec(architecture="nano-s", weights=str(tmp_path)), tmp_path), dit)
    heads = [config(name)["num_attention_heads"] for name in ("nano-s", "nano-m")]
    with pytest.raises(ValueError, match=f"not of architecture 'nano-m'.*num_attention_heads is {heads[0]}, not {heads[1]}"):
        load_transformer(BackboneSpec(architecture="nano-m", weights=str(tmp_path)), tmp_path)

    file = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    load_vae(on_disk("nano-vae", tmp_path, sha256=sha256_of_file(file)), tmp_path)
    with pytest.raises(ValueError, match="has SHA-256"):
        load_vae(on_disk("nano-vae", tmp_path, sha256="0" * 64), tmp_path)
    state = dict(vae.model.state_dict())
    state["stray"] = state.pop("quant_conv.bias")
    save_file(state, file)
    with pytest.raises(ValueError, match=r"missing \[quant_conv.bias\]; unexpected \[stray\]"):
        load_vae(on_disk("nano-vae", tmp_path), tmp_path)


def test_text_encoder_folder_with_its_tokenizer(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2, "red": 3, "mug": 4}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    fast.save_pretrained(tmp_path / "tokenizer")
    random = load_text_encoder(nano("nano-umt5", 1), None)
    random.model.save_pretrained(tmp_path / "text_encoder")
    text = load_text_encoder(on_disk("nano-umt5", tmp_path), tmp_path)
    assert same(text.model, random.model)
    assert text.embed(["red mug", ""], 8)[0].shape == (3, config("nano-umt5")["d_model"])


def test_timm_and_open_clip_folders(tmp_path):
    parts = (
        ("nano-dinov2", load_image_encoder, "model"),
        ("nano-judge", load_image_encoder, "model"),
        ("nano-openclip", load_clip, "open_clip_model"),
    )
    for name, load, file in parts:
        folder = tmp_path / name
        folder.mkdir()
        random = load(nano(name, 4), None).model
        state = {k: v.clone() for k, v in random.state_dict().items()}
        save_file(state, folder / f"{file}.safetensors")
        loaded = load(on_disk(name, folder), folder)
        assert same(loaded.model, random) and loaded.name == name
        state.pop(next(iter(state)))
        save_file(state, folder / f"{file}.safetensors")
        with pytest.raises(ValueError, match="missing"):
            load(on_disk(name, folder), folder)


def test_pickles_are_refused(tmp_path):
    torch.save({}, tmp_path / "model.bin")
    with pytest.raises(FileNotFoundError, match=r"\['model.bin'\], which are pickles"):
        load_image_encoder(on_disk("nano-dinov2", tmp_path), tmp_path)
    with pytest.raises(ValueError, match="Fetch them first"):
        load_vae(on_disk("nano-vae", tmp_path), None)


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_every_architecture_stands_on_meta(name):
    exported = ARCHITECTURES[name].library_class == "torch.jit.ScriptModule"
    refused = "exported code" if exported else {"sam2": "reads values"}.get(ARCHITECTURES[name].family)
    if refused:
        with pytest.raises(ValueError, match=refused):
            build_on_meta(name)
        return
    model = build_on_meta(name)
    assert {p.device.type for p in model.parameters()} == {"meta"}


def test_letterbox_keeps_everything_and_fills_with_the_border():
    wide = Image.new("RGB", (100, 50), (10, 200, 30))
    wide.paste((255, 0, 0), (40, 20, 60, 30))
    square = letterbox(wide, 56)
    assert square.shape == (3, 56, 56)
    assert torch.allclose(square[:, 0, 0] * 255, torch.tensor([10.0, 200, 30]))
    red = square[0] > 0.8
    assert red.any() and abs(red.nonzero()[:, 1].float().mean() - 27.5) < 1 and red.nonzero()[:, 0].float().mean().sub(27.5).abs() < 1


def test_letterbox_honours_alpha():
    cut = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    cut.paste((0, 0, 255, 255), (10, 10, 30, 30))
    square = letterbox(cut, 40)
    assert torch.equal(square[:, 0, 0], torch.ones(3))
    assert torch.equal(square[:, 20, 20], torch.tensor([0.0, 0, 1]))
    with pytest.raises(ValueError, match="8-bit"):
        letterbox(Image.new("I;16", (4, 4)), 8)


def test_a_convnet_is_read_without_its_classes_and_gives_a_map(tmp_path):
    import timm

    torch.manual_seed(0)
    save_file(timm.create_model("tf_efficientnet_lite0").state_dict(), tmp_path / "model.safetensors")
    image = load_image_encoder(on_disk("tf-efficientnet-lite0", tmp_path), tmp_path)
    assert image.name == "tf-efficientnet-lite0" and image.cell == 16 and image.embed(torch.rand(1, 3, 64, 96)).shape == (1, 1280)
    assert image.feature_map(torch.rand(2, 3, 48, 80)).shape == (2, 112, 3, 5)
    with pytest.raises(ValueError, match="sides in 16s"):
        image.feature_map(torch.rand(1, 3, 40, 80))
    with pytest.raises(ValueError, match="only nano architectures"):
        load_image_encoder(nano("tf-efficientnet-lite0"), None)


def test_a_vits_map_is_its_tokens_in_their_places():
    image, picture = load_image_encoder(nano("nano-dinov2", 1), None), torch.rand(1, 3, 32, 64)
    assert image.cell == 8 and torch.equal(image.feature_map(picture)[0, :, 1, 3], image.patch_tokens(picture)[0, 8 + 3])
