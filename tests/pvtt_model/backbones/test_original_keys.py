"""Wan's original key names against diffusers' own converter, and weights of that naming loaded: the same bits as from diffusers' folder."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from safetensors.torch import save_file

from pvtt_model.backbones.architectures import ARCHITECTURES
from pvtt_model.backbones.dit import build_on_meta, load_transformer
from pvtt_model.backbones.original_keys import to_diffusers, to_original
from pvtt_model.specs import BackboneSpec

torch.set_num_threads(1)
KINDS = {"vace": "nano-s", "t2v": "nano-t2v", "i2v": "nano-i2v", "i2v of two experts": "nano-i2v-a14b", "ti2v": "nano-ti2v"}
BACKBONES = [name for name, arch in ARCHITECTURES.items() if arch.family == "dit"]


def random(name: str, seed: int = 1) -> Any:
    expert = "high" if ARCHITECTURES[name].boundary else None
    return load_transformer(BackboneSpec(architecture=name, weights=f"seed:{seed}", expert=expert), None)


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbones_names_go_there_and_back(name):
    """Names are the values, so that a tensor that changed its place would be seen; and diffusers' converter takes the original's home."""
    own = {key: key for key in build_on_meta(name).state_dict()}
    original = to_original(own)
    assert to_diffusers(original) == own and list(to_diffusers(original)) == list(own)
    assert convert_wan_transformer_to_diffusers(dict(original)) == own
    assert to_original(to_diffusers(original)) == original


def test_names_of_the_original_repository():
    """As wan/modules/model.py and vace_model.py name them."""
    names = set(to_original({k: 0 for k in build_on_meta("nano-s").state_dict()}))
    assert {"patch_embedding.weight", "text_embedding.0.bias", "time_embedding.2.weight", "time_projection.1.bias"} <= names
    assert {"head.head.weight", "head.modulation", "vace_patch_embedding.bias"} <= names
    block = {"self_attn.q.weight", "self_attn.norm_k.weight", "cross_attn.o.bias", "norm3.weight", "ffn.0.weight", "ffn.2.bias", "modulation"}
    assert {f"blocks.3.{key}" for key in block} | {f"vace_blocks.1.{key}" for key in {*block, "after_proj.weight"}} <= names
    assert {k for k in names if "before_proj" in k} == {"vace_blocks.0.before_proj.weight", "vace_blocks.0.before_proj.bias"}
    image = set(to_original({k: 0 for k in build_on_meta("nano-i2v").state_dict()}))
    assert {"img_emb.proj.0.weight", "img_emb.proj.1.weight", "img_emb.proj.3.bias", "img_emb.proj.4.bias"} <= image
    assert {"blocks.0.cross_attn.k_img.weight", "blocks.0.cross_attn.v_img.bias", "blocks.0.cross_attn.norm_k_img.weight"} <= image
    assert not any("img" in k for k in to_original({k: 0 for k in build_on_meta("nano-i2v-a14b").state_dict()}))


@pytest.mark.parametrize("convert", [to_original, to_diffusers])
@pytest.mark.parametrize("key", ["blocks.0.attn3.to_q.weight", "model.diffusion_model.head.head.weight", "blocks.0.proj_in.weight", "lora_A.weight"])
def test_unknown_keys_are_refused_by_name(convert, key):
    with pytest.raises(ValueError, match=f"not keys of .*: {key}"):
        convert({"patch_embedding.weight": 0, key: 0})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", KINDS.values(), ids=list(KINDS))
def test_the_original_file_gives_the_bits_of_diffusers_folder(name, dtype, tmp_path):
    model = random(name)
    model.save_pretrained(tmp_path / "diffusers" / "transformer")
    folder = tmp_path / "original"
    folder.mkdir()
    save_file(to_original(model.state_dict()), folder / "diffusion_pytorch_model.safetensors")
    expert = "high" if ARCHITECTURES[name].boundary else None

    def load(where: Any) -> Any:
        return load_transformer(BackboneSpec(architecture=name, weights=str(where), expert=expert), where, dtype)

    wanted = load(tmp_path / "diffusers")
    for where in (folder, folder / "diffusion_pytorch_model.safetensors", tmp_path / "diffusers/transformer/diffusion_pytorch_model.safetensors"):
        found = load(where)
        assert same(found, wanted) and not found.training and not any(p.requires_grad for p in found.parameters())
        assert {p.device.type for p in [*found.parameters(), *found.buffers()]} == {"cpu"}
        assert all(torch.equal(a, b) for a, b in zip(found.rope.buffers(), wanted.rope.buffers(), strict=True))


def test_sharded_with_an_index_and_the_originals_config(tmp_path):
    model, config = random("nano-s"), ARCHITECTURES["nano-s"].config
    state = to_original(model.state_dict())
    half = len(state) // 2
    parts = [dict(list(state.items())[:half]), dict(list(state.items())[half:])]
    weight_map = {}
    for i, part in enumerate(parts):
        file = f"diffusion_pytorch_model-0000{i + 1}-of-00002.safetensors"
        save_file(part, tmp_path / file)
        weight_map |= dict.fromkeys(part, file)
    (tmp_path / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    said = {"_class_name": "VaceWanModel", "dim": 128, "num_heads": 4, "in_dim": 32, "out_dim": 32, "ffn_dim": 512, "freq_dim": 64, "num_layers": 4}
    said |= {"vace_layers": config["vace_layers"], "vace_in_dim": config["vace_in_channels"], "text_len": 512, "model_type": "vace"}
    (tmp_path / "config.json").write_text(json.dumps(said))
    spec = BackboneSpec(architecture="nano-s", weights=str(tmp_path))
    assert same(load_transformer(spec, tmp_path), model)
    (tmp_path / "config.json").write_text(json.dumps(said | {"num_heads": 8}))
    with pytest.raises(ValueError, match=r"config.json is not of architecture 'nano-s': \[num_attention_heads is 8, not 4\]"):
        load_transformer(spec, tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match=r"do not fit: missing \[\]; unexpected \[vace_blocks.0.*Set `architecture`"):
        load_transformer(BackboneSpec(architecture="nano-t2v", weights=str(tmp_path)), tmp_path)
    with pytest.raises(ValueError, match="other shapes than the architecture"):
        load_transformer(BackboneSpec(architecture="nano-i2v-a14b", weights=str(tmp_path), expert="low"), _without_vace(tmp_path, state))


def _without_vace(folder: Any, state: Any) -> Any:
    plain = folder / "plain.safetensors"
    save_file({k: v for k, v in state.items() if not k.startswith("vace_")}, plain)
    return plain


@pytest.mark.parametrize("folders", [("transformer", "transformer_2"), ("high_noise_model", "low_noise_model")])
def test_each_expert_is_read_from_its_own_folder(folders, tmp_path):
    models = {expert: random("nano-t2v-a14b", seed) for seed, expert in enumerate(("high", "low"))}
    for folder, model in zip(folders, models.values(), strict=True):
        if folder.startswith("transformer"):
            model.save_pretrained(tmp_path / folder)
        else:
            (tmp_path / folder).mkdir()
            save_file(to_original(model.state_dict()), tmp_path / folder / "diffusion_pytorch_model.safetensors")

    def load(expert: Any) -> Any:
        return load_transformer(BackboneSpec(architecture="nano-t2v-a14b", weights=str(tmp_path), expert=expert), tmp_path)

    for expert, model in models.items():
        assert same(load(expert), model)
    with pytest.raises(ValueError, match="is two experts, split at noise level 0.875"):
        load(None)
    (tmp_path / folders[1]).rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=f"has .'{folders[0]}'.*where the low expert lies"):
        load("low")


def test_experts_from_a_seed_differ_and_others_have_none():
    high, low = (load_transformer(BackboneSpec(architecture="nano-i2v-a14b", weights="seed:3", expert=e), None) for e in ("high", "low"))
    assert not same(high, low)
    with pytest.raises(ValueError, match="'nano-t2v' is one network.*or use one of two experts: wan2.2-t2v-a14b, wan2.2-i2v-a14b"):
        load_transformer(BackboneSpec(architecture="nano-t2v", weights="seed:3", expert="high"), None)
