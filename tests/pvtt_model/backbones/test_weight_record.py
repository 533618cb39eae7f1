"""Which files a loader reads, their hashes, and units that were made with others."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pvtt_model.artifacts import sha256_of_file
from pvtt_model.backbones.clip import load_clip
from pvtt_model.backbones.source import weight_files
from pvtt_model.backbones.text import load_text_encoder
from pvtt_model.backbones.vae import load_vae
from pvtt_model.backbones.weight_record import ENCODERS, agreed, encoder_rows, weight_record
from pvtt_model.nano.shipped import index, shipped, shipped_folder
from pvtt_model.specs import ModelSpec


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        save_file({name.replace(".", "_"): torch.zeros(1)}, folder / name)
    return folder


@pytest.mark.parametrize(
    ("names", "index_of", "read"),
    [
        (("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"), None, ["diffusion_pytorch_model.safetensors"]),
        (("model.safetensors", "open_clip_model.safetensors"), None, ["open_clip_model.safetensors"]),
        (("a-2.safetensors", "a-1.safetensors", "old.safetensors"), "model.safetensors", ["a-1.safetensors", "a-2.safetensors"]),
        (("b.safetensors", "a.safetensors"), None, ["a.safetensors", "b.safetensors"]),
    ],
)
def test_the_files_that_the_libraries_read(tmp_path: Path, names: tuple[str, ...], index_of: str | None, read: list[str]) -> None:
    touch(tmp_path, *names)
    if index_of:
        (tmp_path / f"{index_of}.index.json").write_text(json.dumps({"weight_map": {"x": "a-2.safetensors", "y": "a-1.safetensors", "z": read[0]}}))
    assert [file.name for file in weight_files(tmp_path)] == read


def test_the_shipped_models_carry_their_shipped_hash() -> None:
    for name in ("vae", "text", "dinov2", "clip"):
        spec = shipped(name, ModelSpec)
        record = weight_record(spec, shipped_folder(spec.weights))
        assert (record["architecture"], record["weights"], record["revision"]) == (spec.architecture, f"nano:{name}", None)
        (weights,) = [file for file in record["files"] if file.endswith(".safetensors")]
        assert record["files"][weights] == index()[name]["sha256"] == sha256_of_file(shipped_folder(spec.weights) / weights)
        unpinned = spec.model_copy(update={"sha256": None})
        assert weight_record(unpinned, shipped_folder(spec.weights)) == record


def test_what_decides_beside_the_weights_is_hashed_too() -> None:
    text = weight_record(shipped("text", ModelSpec), shipped_folder("nano:text"))["files"]
    assert {"text_encoder/config.json", "text_encoder/model.safetensors", "tokenizer/tokenizer.json"} <= set(text)
    vae = weight_record(shipped("vae", ModelSpec), shipped_folder("nano:vae"))["files"]
    assert set(vae) == {"config.json", "diffusion_pytorch_model.safetensors"}


def test_a_seed_has_no_file_and_a_single_file_its_name(tmp_path: Path) -> None:
    seeded = ModelSpec(architecture="nano-vae", weights="seed:3")
    assert weight_record(seeded, None)["files"] == {}
    assert encoder_rows({"vae": weight_record(seeded, None)}) == [
        {"encoder": "vae", "model": "nano-vae", "weights": "seed:3", "revision": "", "files": "none: made from its seed"}
    ]
    for name, architecture in (("sam2.1_hiera_tiny.pt", "sam2.1-hiera-t"), ("model.safetensors", "nano-dinov2")):
        (tmp_path / name).write_bytes(b"weights")
        spec = ModelSpec(architecture=architecture, weights=str(tmp_path / name))
        assert weight_record(spec, tmp_path / name)["files"] == {name: sha256_of_file(tmp_path / name)}
    assert set(weight_record(ModelSpec(architecture="sam2.1-hiera-t", weights=str(tmp_path)), tmp_path)["files"]) == {"sam2.1_hiera_tiny.pt"}


def test_a_folder_with_other_files_loads_and_records_the_one(tmp_path: Path) -> None:
    shutil.copytree(shipped_folder("nano:clip"), tmp_path / "clip")
    touch(tmp_path / "clip", "model.safetensors")
    spec = ModelSpec(architecture="nano-openclip", weights=str(tmp_path / "clip"))
    assert load_clip(spec, tmp_path / "clip").side == 64
    assert weight_record(spec, tmp_path / "clip")["files"] == {"open_clip_model.safetensors": index()["clip"]["sha256"]}
    for name, load in (("vae", load_vae), ("text", load_text_encoder)):
        shutil.copytree(shipped_folder(f"nano:{name}"), tmp_path / name)
        part = tmp_path / name / ("text_encoder" if name == "text" else "")
        touch(part, "other.fp16.safetensors")
        given = shipped(name, ModelSpec).model_copy(update={"weights": str(tmp_path / name)})
        load(given, tmp_path / name)
        assert not any("fp16" in file for file in weight_record(given, tmp_path / name)["files"])


def record(**files: str) -> dict[str, Any]:
    return {"architecture": "wan2.1-vae", "weights": "/models/vae", "revision": None, "files": files}


def test_units_agree_or_are_refused() -> None:
    units = [{ENCODERS: {"vae": record(a="1" * 64)}}, {"latents": []}, {ENCODERS: {"vae": record(a="1" * 64), "text": record()}}]
    assert agreed(units, "latents/x") == {"vae": record(a="1" * 64), "text": record()} and agreed([], "x") == {}
    units.append({ENCODERS: {"vae": record(a="2" * 64, b="3" * 64)}})
    with pytest.raises(ValueError) as caught:
        agreed(units, "latents/x")
    said = str(caught.value)
    assert said.startswith("latents/x: units 0 and 3 were made with different weights of 'vae' (wan2.1-vae, /models/vae): ")
    assert "a 111111111111 against 222222222222, b absent against 333333333333. Put the same files on every node" in said


def test_the_driver_needs_no_torch_for_it() -> None:
    code = "import sys, pvtt_model.backbones.weight_record, pvtt_model.data.captions; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_a_changed_tensor_is_another_hash(tmp_path: Path) -> None:
    shutil.copytree(shipped_folder("nano:vae"), tmp_path / "vae")
    spec = ModelSpec(architecture="nano-vae", weights=str(tmp_path / "vae"))
    before = weight_record(spec, tmp_path / "vae")
    path = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    name = next(iter(state))
    save_file(state | {name: state[name] + 1}, path)
    after = weight_record(spec, tmp_path / "vae")
    assert {file for file in before["files"] if before["files"][file] != after["files"][file]} == {path.name}
