"""Weights that are cut short, of other names, of another repository's names, or not all there: found without loading them."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from pvtt_model.backbones.original_keys import to_original
from pvtt_model.nano.shipped import shipped, shipped_folder
from pvtt_model.preflight.keys import expected_shapes, original_names
from pvtt_model.preflight.safetensors_header import read_header
from pvtt_model.preflight.weights import files_checks, models_of
from pvtt_model.recipes import recipe_by_name
from pvtt_model.specs import BackboneSpec, ModelSpec

NAME = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path):
    """A copy of the shipped nano-s."""
    return shutil.copytree(shipped_folder("nano:nano-s"), tmp_path / "nano-s")


def look(folder, **more):
    spec = BackboneSpec(architecture="nano-s", weights=str(folder), **more)
    return files_checks("weights backbone", spec, folder, with_hash=True)


def test_the_header_is_what_the_library_wrote(tmp_path):
    file = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(2, 3), "b": torch.zeros(4, dtype=torch.bfloat16), "c": torch.zeros(())}, file, metadata={"format": "pt"})
    header = read_header(file)
    assert header.shapes == {"a": (2, 3), "b": (4,), "c": ()} and header.bytes == file.stat().st_size
    save_file({}, file)
    assert read_header(file).shapes == {}


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_file_cut_short(folder, keep):
    data = (folder / NAME).read_bytes()
    (folder / NAME).write_bytes(data[:keep])
    (found,) = look(folder)
    assert found.status == "fail" and "cut short" in found.got and NAME in found.got and "fetch it again" in found.cure


def test_bytes_behind_the_end_and_no_safetensors_at_all(folder):
    with (folder / NAME).open("ab") as file:
        file.write(b"x")
    assert "written behind" in look(folder)[0].got
    (folder / NAME).write_bytes((10).to_bytes(8, "little") + b"not json..")
    assert "cannot be read" in look(folder)[0].got


def test_every_shipped_model_is_whole_and_of_its_architecture():
    for _, spec in models_of(recipe_by_name("nano")):
        found = files_checks("w", spec, shipped_folder(spec.weights), with_hash=True)
        whole = ["ok"] if spec.architecture == "nano-video" else ["ok", "ok"]  # names of TorchScript are its loader's to check
        assert [c.status for c in found] == whole and "SHA-256 as" in found[0].got, (spec, found)
        (wrong,) = files_checks("w", spec.model_copy(update={"sha256": "0" * 64}), shipped_folder(spec.weights), with_hash=True)
        assert wrong.status == "fail" and "SHA-256" in wrong.what + wrong.got, wrong


def test_a_wrong_hash(folder):
    (found,) = look(folder, sha256="0" * 64)
    assert found.status == "fail" and "SHA-256" in found.got


def test_names_that_differ_are_named(folder):
    tensors = load_file(folder / NAME)
    tensors["blocks.0.attn1.to_q.extra"] = tensors.pop("blocks.0.attn1.to_q.weight")
    tensors["proj_out.bias"] = torch.zeros(3)
    save_file(tensors, folder / NAME)
    keys = look(folder)[1]
    assert keys.status == "fail" and "not wanted (blocks.0.attn1.to_q.extra)" in keys.got
    assert "1 missing (blocks.0.attn1.to_q.weight)" in keys.got and "proj_out.bias [3] for [128]" in keys.got


def test_another_architecture(folder):
    spec = BackboneSpec(architecture="nano-m", weights=str(folder))
    keys = files_checks("w", spec, folder, with_hash=True)[1]
    assert keys.status == "fail" and "architecture" in keys.cure


def test_the_original_repositorys_names_are_read_and_those_of_a_wrapped_one_are_named(folder):
    tensors = to_original(load_file(folder / NAME))
    save_file(tensors, folder / NAME)
    keys = look(folder)[1]
    assert keys.status == "ok" and keys.got.endswith("under the original repository's names")
    save_file({f"model.diffusion_model.{name}": tensor for name, tensor in tensors.items()}, folder / NAME)
    keys = look(folder)[1]
    assert keys.status == "fail" and "original repository's names" in keys.got and "model.diffusion_model." in keys.got
    save_file(tensors | {"blocks.0.self_attn.lora.weight": torch.zeros(1)}, folder / NAME)
    assert "blocks.0.self_attn.lora.weight" in look(folder)[1].got


def test_the_original_vae_and_text_encoder_are_known_too():
    assert original_names("wan2.1-vae", {"encoder.downsamples.0.residual.0.gamma": (96,), "encoder.conv_in.weight": (1,)}) == [
        "encoder.downsamples.0.residual.0.gamma"
    ]
    assert original_names("nano-umt5", {"blocks.0.attn.q.weight": (1, 1), "token_embedding.weight": (1,)}) == [
        "blocks.0.attn.q.weight",
        "token_embedding.weight",
    ]
    assert original_names("nano-s", dict.fromkeys(expected_shapes("nano-s"), ())) == []


def test_a_tied_embedding_may_stand_once(tmp_path):
    folder = shutil.copytree(shipped_folder("nano:text"), tmp_path / "text")
    file = folder / "text_encoder" / "model.safetensors"
    tensors = load_file(file)
    (there,) = {"shared.weight", "encoder.embed_tokens.weight"} & set(tensors)
    (other,) = {"shared.weight", "encoder.embed_tokens.weight"} - {there}
    tensors[other] = tensors.pop(there)
    save_file(tensors, file)
    spec = shipped("text", ModelSpec).model_copy(update={"sha256": None})
    assert [c.status for c in files_checks("w", spec, folder, with_hash=True)] == ["ok", "ok"]


def test_a_part_that_the_index_names_and_a_pickle(folder):
    (folder / f"{NAME}.index.json").write_text(json.dumps({"weight_map": {"a": NAME, "b": "part-2.safetensors"}}))
    (found,) = look(folder)
    assert found.status == "fail" and "part-2.safetensors" in found.got
    (folder / f"{NAME}.index.json").unlink()
    (folder / NAME).rename(folder / "model.bin")
    (found,) = look(folder)
    assert found.status == "fail" and "pickles" in found.got
