"""RAFT, LPIPS, Inception and I3D by our loaders: random weights in the published layouts, held against the libraries' own networks."""

from __future__ import annotations

from pathlib import Path

import lpips
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import inception_v3
from torchvision.models.optical_flow import raft_small

from pvtt_model.artifacts import sha256_of_file
from pvtt_model.backbones.flow import load_flow
from pvtt_model.backbones.inception import load_inception
from pvtt_model.backbones.perceptual import ShiftTolerantAlexNet, load_perceptual
from pvtt_model.backbones.video import load_video_features
from pvtt_model.backbones.weight_record import weight_record
from pvtt_model.specs import ModelSpec

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def spec_of(architecture: str, path: Path, **more: str) -> ModelSpec:
    return ModelSpec(architecture=architecture, weights=str(path), **more)


def pictures(seed: int, side: int = 64) -> Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(seed))


def test_lpips_is_the_packages_own(tmp_path):
    """A whole state in safetensors and in .pth, and torchvision's trunk with the linear layers the package ships: one value."""
    torch.manual_seed(0)
    theirs = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    trunk = {name.split(".", 2)[2]: tensor for name, tensor in theirs.net.state_dict(prefix="net.").items()}
    wanted = theirs(pictures(0), pictures(1), normalize=True).flatten()
    paths = [tmp_path / name for name in ("whole.safetensors", "whole.pth", "trunk.safetensors")]
    save_file({k: v.contiguous().clone() for k, v in theirs.state_dict().items()}, paths[0])
    torch.save(theirs.state_dict(), paths[1])
    save_file({f"features.{name}": tensor for name, tensor in trunk.items()}, paths[2])
    for path in paths:
        ours = load_perceptual(spec_of("lpips-alex", path, sha256=sha256_of_file(path)), path)
        got = sum(layer.mean((1, 2, 3)) for layer in ours.layer_distances(pictures(0), pictures(1)))
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-7)
        assert ours.name == "lpips-alex"
        assert weight_record(spec_of("lpips-alex", path), path)["files"] == {path.name: sha256_of_file(path)}
    with pytest.raises(ValueError, match="`sha256` names its hash"):
        load_perceptual(spec_of("lpips-alex", paths[1]), paths[1])
    with pytest.raises(ValueError, match="has SHA-256"):
        load_perceptual(spec_of("lpips-alex", paths[1], sha256="0" * 64), paths[1])
    with pytest.raises(ValueError, match="do not fit"):
        load_perceptual(spec_of("stlpips-alex", paths[0]), paths[0])
    with pytest.raises(ValueError, match="32 px or more"):
        ours.layer_distances(pictures(0, 24), pictures(1, 24))


def test_the_shift_tolerant_trunk_halves_thrice():
    maps = ShiftTolerantAlexNet()(pictures(0, 64))
    assert [m.shape[1] for m in maps] == [64, 192, 384, 256, 256]
    assert [m.shape[-1] for m in maps] == [30, 15, 8, 8, 8]


def test_inception_is_torchvisions(tmp_path):
    torch.manual_seed(0)
    theirs = inception_v3(weights=None, init_weights=False)
    path = tmp_path / "inception.safetensors"
    save_file({k: v.contiguous() for k, v in theirs.state_dict().items()}, path)
    ours = load_inception(spec_of("torchvision-inception", path), path)
    theirs.eval().fc = nn.Identity()
    theirs.transform_input = False
    images = pictures(0, 299)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        torch.testing.assert_close(ours.embed(images), theirs((images - mean) / std), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"takes \[0, 1\]"):
        ours.embed(images * 255)


class Exported(nn.Module):
    """With the flags of the published exports: without return_features it answers with something else."""

    def forward(self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False) -> Tensor:
        return x.float().flatten(2).mean(2) if return_features else x.new_zeros(1, 3)


def test_exports_are_asked_for_features(tmp_path):
    path = tmp_path / "i3d.pt"
    torch.jit.script(Exported()).save(str(path))
    sha = sha256_of_file(path)
    i3d = load_video_features(spec_of("i3d", tmp_path, sha256=sha), tmp_path)
    assert torch.allclose(i3d.embed(torch.full((1, 3, 9, 8, 8), 0.5)), torch.tensor(0.5))
    fid = load_inception(spec_of("fid-inception", tmp_path, sha256=sha), tmp_path)
    assert torch.equal(fid.embed(torch.full((1, 3, 8, 8), 0.2)), torch.full((1, 3), 51.0))  # 0 to 255
    with pytest.raises(ValueError, match="holds code"):
        load_inception(spec_of("fid-inception", tmp_path), tmp_path)


def test_flow_is_torchvisions_and_pads_what_is_no_eighth(tmp_path):
    torch.manual_seed(0)
    theirs = raft_small(weights=None).eval()  # torchvision's names and shapes
    path = tmp_path / "raft.safetensors"
    save_file({k: v.contiguous() for k, v in theirs.state_dict().items()}, path)
    ours = load_flow(spec_of("raft-small", path), path)
    one, other = pictures(0, 136), pictures(1, 136)
    with torch.no_grad():
        torch.testing.assert_close(ours.flow(one, other), theirs(one * 2 - 1, other * 2 - 1)[-1])
    assert ours.flow(one[..., :100, :131], other[..., :100, :131]).shape == (2, 2, 100, 131)
    with pytest.raises(ValueError, match="cannot be made from a seed|only nano architectures"):
        load_flow(ModelSpec(architecture="raft-small", weights="seed:0"), None)
    with pytest.raises(ValueError, match=r"takes \[0, 1\]"):
        ours.flow(one * 255, other)
