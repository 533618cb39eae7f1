"""Weights from a folder, S3 over the wire (moto's server), and the hub (a small server that speaks its protocol)."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
import pytest

from infra.weights import WeightsUnavailable, _redacted, find_weights, local_weights
from pvtt_model.backbones.architectures import files_wanted
from pvtt_model.specs import ModelSpec

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "vae/config.json": b"{}",
    "vae/diffusion_pytorch_model.safetensors": b"tensors",
    "vae/old.bin": b"pickle",
    "transformer/big.safetensors": b"big",
    "transformer_2/low.safetensors": b"low",
    "high_noise_model/high.safetensors": b"original",
    "sam2.1_hiera_tiny.pt": b"published so",
}


def spec(weights: str, **more) -> ModelSpec:
    return ModelSpec(architecture="nano-vae", weights=weights, **more)


def test_seed_and_folder(tmp_path):
    assert local_weights(spec("seed:3"), tmp_path) is None
    assert local_weights(spec(str(tmp_path)), tmp_path / "cache") == tmp_path
    with pytest.raises(FileNotFoundError, match="not on this machine"):
        local_weights(spec(str(tmp_path / "none")), tmp_path)
    with pytest.raises(ValueError, match="no known form"):
        spec("https://host/x")
    with pytest.raises(ValueError, match="credential") as caught:
        spec("https://user:pass@host/x")  # not-a-secret
    assert "user:pass" not in str(caught.value)


@pytest.mark.parametrize("revision", ["unpinned", "main", "0123abc"])
def test_a_branch_is_no_revision(revision, tmp_path):
    with pytest.raises(ValueError, match=r"--set latents.vae.revision=<commit>"):
        local_weights(spec("hf://owner/name", revision=revision), tmp_path)


class _Hub(BaseHTTPRequestHandler):
    """The three routes of a snapshot: the file list, and HEAD and GET of a file at a commit."""

    asked: list[str] = []

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.asked.append(f"{self.command} {self.path}")
        if self.path.startswith("/api/models/owner/name"):
            body = json.dumps(
                {"id": "owner/name", "sha": COMMIT, "siblings": [{"rfilename": f} for f in FILES], "private": False, "downloads": 0, "tags": []}
            ).encode()
            if "/tree/" in self.path:
                body = json.dumps(
                    [{"type": "file", "path": f, "size": len(b), "oid": hashlib.sha1(b).hexdigest()} for f, b in FILES.items()]
                ).encode()
            return self._answer(200, body, "application/json")
        name = self.path.partition(f"/resolve/{COMMIT}/")[2]
        if name in FILES:
            return self._answer(200, FILES[name])
        return self._answer(404, b"")

    def _answer(self, status, body, kind="application/octet-stream"):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    _Hub.asked.clear()
    yield server
    server.shutdown()
    server.server_close()


def test_hub_snapshot_by_commit_without_pickles(hub, tmp_path):
    folder = local_weights(spec("hf://owner/name", revision=COMMIT), tmp_path, files_wanted("nano-vae"))
    found = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert found == {"vae/config.json", "vae/diffusion_pytorch_model.safetensors"}
    assert (folder / "vae/diffusion_pytorch_model.safetensors").read_bytes() == b"tensors"


@pytest.mark.parametrize(
    ("name", "expert", "files"),
    [
        ("wan2.1-vace-1.3b", None, {"transformer/big.safetensors"}),
        ("wan2.2-t2v-a14b", "high", {"transformer/big.safetensors", "high_noise_model/high.safetensors"}),
        ("wan2.2-t2v-a14b", "low", {"transformer_2/low.safetensors"}),
    ],
)
def test_one_expert_does_not_bring_the_other(hub, tmp_path, name, expert, files):
    folder = local_weights(spec("hf://owner/name", revision=COMMIT), tmp_path, files_wanted(name, expert))
    assert {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} == files


def test_sam2s_own_pickle_is_fetched_and_no_other(hub, tmp_path):
    folder = local_weights(spec("hf://owner/name", revision=COMMIT), tmp_path, files_wanted("sam2.1-hiera-t"))
    assert [p.name for p in folder.rglob("*") if p.is_file()] == ["sam2.1_hiera_tiny.pt"]


def test_a_hub_that_refuses_is_named_without_a_secret(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_" + "s" * 30)
    with pytest.raises(WeightsUnavailable, match="HF_TOKEN") as caught:
        local_weights(spec("hf://owner/other", revision=COMMIT), tmp_path)
    assert "s" * 30 not in str(caught.value) and caught.value.__cause__ is None


def test_redaction():
    text = _redacted("GET http://me:pw@proxy:1/x?X-Amz-Signature=abc&k=1 with hf_abcDEF and AKIAABCDEFGHIJKLMNOP")  # not-a-secret
    assert text == "GET http://***@proxy:1/x?*** with *** and ***"


@pytest.fixture(scope="module")
def moto():
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


def test_s3_prefix_and_single_file(moto, tmp_path, monkeypatch):
    for name, value in {
        "AWS_ENDPOINT_URL_S3": moto,
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=moto)
    client.create_bucket(Bucket="weights")
    for name, data in FILES.items():
        client.put_object(Bucket="weights", Key=f"wan/{name}", Body=data)
    folder = local_weights(spec("s3://weights/wan"), tmp_path, files_wanted("nano-vae"))
    assert {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} == {"vae/config.json", "vae/diffusion_pytorch_model.safetensors"}
    assert local_weights(spec("s3://weights/wan"), tmp_path, files_wanted("nano-vae")) == folder
    client.put_object(Bucket="weights", Key="wan/vae/config.json", Body=b"{ }")
    changed = local_weights(spec("s3://weights/wan"), tmp_path, files_wanted("nano-vae"))
    assert changed != folder and (changed / "vae/config.json").read_bytes() == b"{ }"
    single = local_weights(spec("s3://weights/wan/transformer/big.safetensors"), tmp_path)
    assert single.read_bytes() == b"big"
    sam2 = local_weights(spec("s3://weights/wan/sam2.1_hiera_tiny.pt"), tmp_path, files_wanted("sam2.1-hiera-t"))
    assert sam2.read_bytes() == b"published so"
    with pytest.raises(FileNotFoundError, match="nothing to load"):
        local_weights(spec("s3://weights/wan/sam2.1_hiera_tiny.pt"), tmp_path, files_wanted("nano-vae"))  # a pickle, and not this one's
    with pytest.raises(FileNotFoundError, match="nothing to load"):
        local_weights(spec("s3://weights/nowhere"), tmp_path)
    with pytest.raises(ValueError, match="hold a credential") as caught:
        local_weights(spec("s3://key:secret@weights/x"), tmp_path)  # not-a-secret
    assert "secret" not in str(caught.value)


def test_what_would_be_fetched_is_known_before(hub, moto, tmp_path, monkeypatch):
    for name, value in {"AWS_ENDPOINT_URL_S3": moto, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=moto, region_name="us-east-1")
    client.create_bucket(Bucket="looked-at")
    for name, data in FILES.items():
        client.put_object(Bucket="looked-at", Key=name, Body=data)
    wanted = files_wanted("nano-vae")
    assert find_weights(spec("s3://looked-at"), tmp_path, wanted) == (None, 2, len(b"{}tensors"))
    assert find_weights(spec("hf://owner/name", revision=COMMIT), tmp_path, wanted)[:2] == (None, 2)
    assert not list(tmp_path.iterdir()) and not any("resolve" in asked for asked in _Hub.asked), "nothing was fetched"
    folder = local_weights(spec("hf://owner/name", revision=COMMIT), tmp_path, wanted)
    assert find_weights(spec("hf://owner/name", revision=COMMIT), tmp_path, wanted) == (folder, 0, 0)
    assert find_weights(spec("hf://owner/name", revision=COMMIT), tmp_path, files_wanted("nano-s"))[0] is None, "another part of it is cached"
    with pytest.raises(ValueError, match="no commit"):
        find_weights(spec("hf://owner/name", revision="main"), tmp_path, wanted)
    with pytest.raises(WeightsUnavailable, match="could not be fetched"):
        find_weights(spec("hf://owner/other", revision=COMMIT), tmp_path, wanted)
    with pytest.raises(FileNotFoundError, match="nothing to load"):
        find_weights(spec("s3://looked-at/none"), tmp_path, wanted)
    assert find_weights(spec(str(tmp_path)), tmp_path).folder == tmp_path and find_weights(spec("seed:1"), tmp_path).folder is None
