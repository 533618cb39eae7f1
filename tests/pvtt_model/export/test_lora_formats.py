"""Every tool's names and back, against diffusers' own converter and the arithmetic of the others."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_wan_lora_to_diffusers
from safetensors.torch import save_file

from pvtt_model.export.lora_file import lora_bytes, read_lora
from pvtt_model.export.lora_formats import FORMATS, METADATA, format_of, read_layers, write_layers
from pvtt_model.low_rank.layers import LowRankLayer

MAIN = ["attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0"]
MAIN += ["ffn.net.0.proj", "ffn.net.2"]


def drawn(modules, rank=4, alpha=4.0, dora=False, dtype=torch.float32):
    g = torch.Generator().manual_seed(len(modules))
    layers = {}
    for i, module in enumerate(modules):
        own = rank + i % 2 if isinstance(rank, int) else rank[i]
        halves = torch.randn(own, 6, generator=g).to(dtype), torch.randn(8, own, generator=g).to(dtype)
        layers[module] = LowRankLayer(*halves, alpha if alpha else float(own), torch.rand(8, generator=g) if dora else None)
    return layers


def same(one, other) -> bool:
    pairs = ((a, b) for m in one for a, b in zip(one[m], other[m], strict=True))
    return one.keys() == other.keys() and all(torch.equal(a, b) and a.dtype == b.dtype if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


CASES = {
    "main": drawn([f"blocks.{b}.{m}" for b in range(2) for m in MAIN], alpha=6.0),
    "alpha as rank, bfloat16": drawn([f"blocks.{b}.{m}" for b in range(2) for m in MAIN], alpha=None, dtype=torch.bfloat16),
    "vace": drawn([f"vace_blocks.{b}.{m}" for b in range(2) for m in [*MAIN, "proj_out"]] + ["vace_blocks.0.proj_in", "blocks.0.attn1.to_q"]),
    "image to video": drawn(["blocks.0.attn2.add_k_proj", "blocks.0.attn2.add_v_proj"], alpha=0.5),
}


@pytest.mark.parametrize("case", list(CASES))
@pytest.mark.parametrize("format", FORMATS)
def test_there_and_back_is_the_same_to_the_bit(tmp_path, case, format):
    layers = CASES[case]
    data = lora_bytes(layers, format)
    (tmp_path / "l.safetensors").write_bytes(data)
    found, back = read_lora(tmp_path / "l.safetensors")
    assert found == format and same(layers, back)
    assert lora_bytes(back, format) == data
    for other in FORMATS:  # and round by another tool's names
        assert same(layers, read_layers(*write_layers(back, other), other))


def test_the_names_of_each():
    layer = {"blocks.3.attn2.to_out.0": CASES["main"]["blocks.0.attn1.to_q"]}  # rank 4, alpha 6
    keys = {format: sorted(write_layers(layer, format)[0]) for format in FORMATS}
    assert keys == {
        "diffusers": ["transformer.blocks.3.attn2.to_out.0.lora_A.weight", "transformer.blocks.3.attn2.to_out.0.lora_B.weight"],
        "comfyui": [f"diffusion_model.blocks.3.cross_attn.o.{end}" for end in ("alpha", "lora_down.weight", "lora_up.weight")],
        "diffsynth": [f"blocks.3.cross_attn.o.{end}" for end in ("alpha", "lora_A.default.weight", "lora_B.default.weight")],
        "original": [f"blocks.3.cross_attn.o.{end}" for end in ("alpha", "lora_A.weight", "lora_B.weight")],
    }
    assert set(write_layers(CASES["alpha as rank, bfloat16"], "diffsynth")[0]) == {
        f"blocks.{b}.{m}.lora_{half}.default.weight"
        for b in range(2)
        for m in [f"{a}.{p}" for a in ("self_attn", "cross_attn") for p in "qkvo"] + ["ffn.0", "ffn.2"]
        for half in "AB"
    }
    assert {k.split(".alpha")[0] for k in write_layers(CASES["vace"], "comfyui")[0] if "before" in k or "after" in k and k.endswith("alpha")} >= {
        "diffusion_model.vace_blocks.1.after_proj"
    }


@pytest.mark.parametrize("format", ["comfyui", "original"])
@pytest.mark.parametrize("case", ["main", "alpha as rank, bfloat16"])
def test_diffusers_own_converter_reads_it(format, case):
    layers = CASES[case]
    tensors = write_layers(layers, format)[0]
    given = {k if format == "comfyui" else f"diffusion_model.{k}": v.clone() for k, v in tensors.items()}
    theirs = _convert_non_diffusers_wan_lora_to_diffusers(given)
    assert set(theirs) == set(write_layers(layers, "diffusers")[0])
    for module, layer in layers.items():
        up, down = (theirs[f"transformer.{module}.lora_{half}.weight"].float() for half in "BA")  # alpha is in the tensors, there
        delta = layer.scaling * layer.up_OR.float() @ layer.down_RI.float()
        torch.testing.assert_close(up @ down, delta, rtol=1e-2 if "bfloat16" in case else 1e-5, atol=1e-5)


def test_other_peoples_files_are_read():
    """ComfyUI also takes lora_A and lora_B; a file without alpha has that of its rank; diffusers' metadata may hold patterns."""
    layer = CASES["main"]["blocks.0.attn1.to_q"]
    plain = {"diffusion_model.blocks.0.self_attn.q.lora_A.weight": layer.down_RI, "diffusion_model.blocks.0.self_attn.q.lora_B.weight": layer.up_OR}
    assert format_of(plain) == "comfyui" and read_layers(plain)["blocks.0.attn1.to_q"].scaling == 1.0
    tensors = write_layers({m: layer for m in ("blocks.1.attn1.to_q", "blocks.11.attn1.to_q")}, "diffusers")[0]
    config = {"transformer.r": 4, "transformer.lora_alpha": 2, "transformer.alpha_pattern": {"blocks.1.attn1.to_q": 8}}
    alphas = {m: t.alpha for m, t in read_layers(tensors, {METADATA: json.dumps(config)}).items()}
    assert alphas == {"blocks.1.attn1.to_q": 8.0, "blocks.11.attn1.to_q": 2.0}
    with pytest.raises(ValueError, match="rsLoRA"):
        read_layers(tensors, {METADATA: json.dumps({"transformer.use_rslora": True})})


def test_dora_is_written_where_it_has_a_place():
    layers = drawn(["blocks.0.attn1.to_q"], dora=True)
    tensors, metadata = write_layers(layers, "diffusers")
    assert "transformer.blocks.0.attn1.to_q.lora_magnitude_vector" in tensors and json.loads(metadata[METADATA])["transformer.use_dora"]
    assert same(layers, read_layers(tensors, metadata))
    for format, why in (("comfyui", "divided by the length of the base's weight"), ("diffsynth", "no place"), ("original", "no place")):
        with pytest.raises(ValueError, match=f"DoRA cannot be written in format '{format}'.*{why}.*merged"):
            write_layers(layers, format)
    with pytest.raises(ValueError, match="DoRA of ComfyUI's kind"):
        read_layers({**write_layers(CASES["main"], "comfyui")[0], "diffusion_model.blocks.0.self_attn.q.dora_scale": torch.ones(8, 1)})


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("transformer.blocks.0.self_attn.q.lora_A.weight", "self_attn"),
        ("diffusion_model.blocks.0.attn1.to_q.lora_A.weight", "attn1.to_q"),
        ("unet.down_blocks.0.to_q.lora_A.weight", "down_blocks"),
        ("lora_unet_blocks_0_self_attn_q.lora_down.weight", "lora_unet_blocks_0"),
        ("blocks.0.self_attn.q.lora_A.weight", "'original'.*'comfyui'"),
    ],
)
def test_other_keys_are_refused_and_shown(key, words):
    tensors = write_layers(CASES["main"], "comfyui")[0]
    with pytest.raises(ValueError, match=f"not of one known format.*{words}.*Known: diffusers"):
        format_of({**tensors, key: torch.ones(1)})
    with pytest.raises(ValueError, match="there are none"):
        format_of({})


def test_halves_that_do_not_fit_are_refused(tmp_path):
    tensors = write_layers(CASES["main"], "comfyui")[0]
    alone = {k: v for k, v in tensors.items() if k != "diffusion_model.blocks.1.ffn.2.lora_up.weight"}
    with pytest.raises(ValueError, match=r"'blocks.1.ffn.net.2' has no partner to its \['alpha', 'down'\]"):
        read_layers(alone)
    with pytest.raises(ValueError, match="'blocks.0.attn1.to_q' has ranks 4 and 3"):
        read_layers({**tensors, "diffusion_model.blocks.0.self_attn.q.lora_up.weight": torch.ones(8, 3)})
    with pytest.raises(ValueError, match="the names of comfyui, not of diffusers"):
        read_layers(tensors, wanted="diffusers")
    save_file({"transformer.blocks.0.attn1.to_q.lora_A.weight": torch.full((1,), float("inf"))}, tmp_path / "l.safetensors")
    with pytest.raises(ValueError, match="not finite"):
        read_lora(tmp_path / "l.safetensors")
