"""The merged transformer loads without LoRA code and answers as the adapted one; and a release becomes a teacher again."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file

from pvtt_model.export.merged import write_merged
from pvtt_model.low_rank.layers import LowRankLayer
from pvtt_model.low_rank.load import load_low_rank
from pvtt_model.specs import LoraSpec

TINY = {"patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 4}
TINY |= {"text_dim": 16, "freq_dim": 16, "ffn_dim": 32, "num_layers": 2}


def ask(model):
    g = torch.Generator().manual_seed(3)
    noisy, text = torch.randn(1, 4, 2, 4, 4, generator=g), torch.randn(1, 5, 16, generator=g)
    with torch.no_grad():
        return model(hidden_states=noisy, timestep=torch.tensor([500.0]), encoder_hidden_states=text, return_dict=False)[0]


@pytest.fixture
def base(tmp_path):
    torch.manual_seed(0)
    model = WanTransformer3DModel(**TINY).eval()
    model.save_pretrained(tmp_path / "base" / "transformer", max_shard_size="20KB")
    assert len(list((tmp_path / "base" / "transformer").glob("*.safetensors"))) > 1, "in several files"
    return tmp_path / "base", model


def layers_of(model, kind):
    spec, g = LoraSpec(rank=3, alpha=6, kind=kind, targets=("attn1", "attn2", "ffn")), torch.Generator().manual_seed(1)
    layers = {}
    for name, module in model.named_modules():
        if spec.layer_of(name):
            out, inside = module.weight.shape
            magnitude = 1.3 * module.weight.detach().norm(dim=1) if kind == "dora" else None
            layers[name] = LowRankLayer(torch.randn(3, inside, generator=g), 0.1 * torch.randn(out, 3, generator=g), 6.0, magnitude)
    return layers


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_merged_loads_plainly_and_answers_as_the_adapted(base, tmp_path, kind):
    folder, model = base
    layers, before = layers_of(model, kind), ask(model)
    files = write_merged(folder, layers, tmp_path / "merged")
    assert {f.name for f in files} == {f.name for f in (folder / "transformer").iterdir()}
    index = json.loads((tmp_path / "merged" / "diffusion_pytorch_model.safetensors.index.json").read_text())
    assert index == json.loads((folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json").read_text())
    loaded, info = WanTransformer3DModel.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    untouched = [n for n, p in model.named_parameters() if n.removesuffix(".weight") not in layers]
    assert untouched and all(torch.equal(loaded.get_parameter(n), model.get_parameter(n)) for n in untouched)
    load_low_rank(model, layers)
    torch.testing.assert_close(ask(loaded), ask(model), rtol=0, atol=1e-5)
    assert (ask(loaded) - before).abs().max() > 1e-2


def test_type_and_refusals(base, tmp_path):
    folder, model = base
    layers = layers_of(model, "lora")
    write_merged(folder, layers, tmp_path / "half", dtype=torch.bfloat16)
    for file in (tmp_path / "half").glob("*.safetensors"):
        assert {t.dtype for t in load_file(file).values()} == {torch.bfloat16}
    with pytest.raises(ValueError, match="is not empty"):
        write_merged(folder, layers, tmp_path / "half")
    foreign = {m.replace("blocks.1", "blocks.7"): t for m, t in layers.items()}
    with pytest.raises(ValueError, match="10 of 20 LoRA layers match; not in this transformer: blocks.7.attn1.to_k"):
        write_merged(folder, foreign, tmp_path / "no")
    assert not (tmp_path / "no").exists()
