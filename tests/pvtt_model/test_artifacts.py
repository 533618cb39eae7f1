"""Versions: what changes one and what must not."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvtt_model import artifacts
from pvtt_model.artifacts import SMALL_FILE, Manifest, StoredFile, canonical_json, digest, plan_artifact, sha256_of_file
from pvtt_model.recipes import recipe_by_name

VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(), lambda inner: (
    st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
))  # fmt: skip


def test_a_version_is_stable():
    """Golden: a change here orphans every artifact that anyone has."""
    assert digest("latents", {"width": 64, "dtype": "float32"}, ["clips/0", "masks/1"], 1) == "3c2c656b25897cb16146"
    assert digest() == hashlib.sha256(b"[]").hexdigest()[:20]


@given(st.dictionaries(st.text(max_size=4), VALUES, max_size=5))
def test_order_of_keys_is_irrelevant(value):
    backwards = dict(reversed(value.items()))
    assert canonical_json(value) == canonical_json(backwards)
    assert digest(value) == digest(backwards)
    assert json.loads(canonical_json(value)) == value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": [float("-inf")]}])
def test_nan_and_infinity_are_refused(value):
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json(value)


def test_what_json_cannot_hold_is_refused():
    with pytest.raises(TypeError):
        digest({1, 2})


def test_every_part_counts(monkeypatch):
    one = plan_artifact("masks", {"a": 1}, ["clips/x"])
    assert (one.name, len(one.version)) == (f"masks/{one.version}", 20)
    assert one == plan_artifact("masks", {"a": 1}, ("clips/x",))
    others = [
        plan_artifact("masks", {"a": 2}, ["clips/x"]),
        plan_artifact("masks", {"a": 1}, ["clips/y"]),
        plan_artifact("latents", {"a": 1}, ["clips/x"]),
    ]
    monkeypatch.setitem(artifacts.REVISIONS, "masks", artifacts.REVISIONS["masks"] + 1)
    others.append(plan_artifact("masks", {"a": 1}, ["clips/x"]))
    assert len({one.version, *(o.version for o in others)}) == 5


def test_order_of_inputs_counts():
    assert plan_artifact("edits", {}, ["a", "b"]).version != plan_artifact("edits", {}, ["b", "a"]).version


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("stages.0.train.checkpoint_every_steps", 7),
        ("stages.0.train.keep_checkpoints", 9),
        ("stages.0.train.max_worker_restarts", 0),
        ("stages.0.parallel.gpu_memory_gib", 40),
        ("stages.0.gate.on_failure", "continue"),
        ("description", "another"),
    ],
)
def test_execution_fields_are_no_part_of_identity(path, value):
    before, after = recipe_by_name("nano"), recipe_by_name("nano", {path: value})
    assert before != after
    assert before.identity() == after.identity()
    assert digest(before.identity()) == digest(after.identity())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("stages.0.train.steps", 17),
        ("stages.2.lora.rank", 4),
        ("latents.video.width", 80),
        ("stages.0.parallel.num_workers", 1),
        ("clips.eval_share", 0.35),
    ],
)
def test_the_rest_is(path, value):
    assert recipe_by_name("nano").identity() != recipe_by_name("nano", {path: value}).identity()


def test_a_manifest_finds_its_files():
    files = (StoredFile(name="a.parquet", key="pool/aa/a", bytes=3, sha256="0", rows=2), StoredFile(name="t.json", key="k", bytes=1, sha256="1"))
    manifest = Manifest(kind="masks", version="v", commit_id="c", created="", revision=1, spec={}, inputs=(), code={}, libraries={}, files=files)
    assert manifest.shards() == [files[0]]
    assert manifest.file("t.json") == files[1]
    with pytest.raises(KeyError, match="it has .'a.parquet', 't.json'."):
        manifest.file("b")
    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest


def test_sha256_of_a_file(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    assert sha256_of_file(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("size", [0, SMALL_FILE - 1, SMALL_FILE, SMALL_FILE + 1, 3 * SMALL_FILE])
def test_sha256_of_a_file_of_any_size(tmp_path, size):
    data = bytes(range(256)) * (size // 256 + 1)
    (tmp_path / "f").write_bytes(data[:size])
    assert sha256_of_file(tmp_path / "f") == hashlib.sha256(data[:size]).hexdigest()
