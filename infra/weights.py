"""Bring a frozen model's weights onto this machine: from a folder, S3 or the model hub, by pinned revision.

A pickle is left where it is, unless `only` names its kind: SAM 2 is published as one, and its loader reads it by hash, tensors only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from infra.store.base import ObjectInfo, ObjectStore
from pvtt_model.artifacts import digest
from pvtt_model.specs import ModelSpec

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.msgpack", "*.h5", "*.onnx", "*.ot")
_COMMIT = re.compile(r"[0-9a-f]{40}")


class WeightsUnavailable(RuntimeError):
    """The weights could not be had. The message holds no credential."""


def local_weights(spec: ModelSpec, cache_dir: Path, only: Sequence[str] = ()) -> Path | None:
    """Where the weights of `spec` lie on this machine: None for 'seed:N', a folder (or a single .safetensors) else.

    A local path is taken as it is. s3:// is copied under `cache_dir`, again where an object changed; hf:// through
    huggingface_hub, by its 40-digit commit. only: glob patterns of the files wanted, all by default (see
    architectures.files_wanted), so that one VAE does not bring a whole pipeline. Pickles are not fetched but where `only` names them.
    Raises ValueError for an unpinned revision, FileNotFoundError or WeightsUnavailable where the weights are not there.
    """
    source = spec.weights
    if source.startswith("seed:"):
        return None
    if source.startswith("hf://"):
        return _from_hub(spec, Path(cache_dir) / "hub", only)
    if source.startswith("s3://"):
        return _from_s3(source, Path(cache_dir) / "weights", only)
    if "://" in source:
        raise ValueError(f"weights '{_redacted(source)}': unknown scheme. Use a local folder, s3://bucket/prefix, or hf://owner/name.")
    path = Path(source).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"weights '{source}' of '{spec.architecture}' are not on this machine. Set `weights` to an existing folder.")
    return path.resolve()


class WeightsFound(NamedTuple):
    """What `find_weights` found: the folder where they are on this machine, else how many files and bytes are to be fetched."""

    folder: Path | None
    files: int = 0
    bytes: int = 0


def find_weights(spec: ModelSpec, cache_dir: Path, only: Sequence[str] = (), timeout_s: float = 10.0) -> WeightsFound:
    """Whether `local_weights` would find them: the same refusals, and nothing is fetched. A seed and a local path as there.

    s3:// is listed; hf:// is looked for in the cache, else asked of the hub, at its commit. Raises as `local_weights`.
    """
    source = spec.weights
    if source.startswith("s3://"):
        _, objects, _ = _wanted_objects(source, only)
        return WeightsFound(None, len(objects), sum(o.bytes for o in objects))
    if not source.startswith("hf://"):
        return WeightsFound(local_weights(spec, cache_dir, only))
    name = _pinned(spec)
    from huggingface_hub import HfApi
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = _snapshot(spec, name, Path(cache_dir) / "hub", only, local_files_only=True)
        names = [p.relative_to(folder).as_posix() for p in folder.rglob("*")]
        if any(_wanted(n, only) for n in names if n.endswith((".safetensors", ".pt"))):  # else another part of the same repository
            return WeightsFound(folder)
    except LocalEntryNotFoundError:
        pass
    try:
        info = HfApi(endpoint=os.environ.get("HF_ENDPOINT")).model_info(name, revision=spec.revision, files_metadata=True, timeout=timeout_s)
    except Exception as error:  # noqa: BLE001 - as in _from_hub
        raise _not_fetched(spec, error) from None
    found = [s for s in info.siblings or [] if _wanted(s.rfilename, only)]
    if not found:
        raise FileNotFoundError(f"{spec.weights} at {spec.revision} holds nothing that matches {list(only)}. Check the name and `architecture`.")
    return WeightsFound(None, len(found), sum(s.size or 0 for s in found))


def _pinned(spec: ModelSpec) -> str:
    """owner/name of a hub uri with a commit. Raises ValueError for another form or a branch."""
    name = spec.weights.removeprefix("hf://").strip("/")
    if name.count("/") != 1:
        raise ValueError(f"weights '{spec.weights}' are not of the form hf://owner/name.")
    if not _COMMIT.fullmatch(spec.revision or ""):
        raise ValueError(
            f"weights '{spec.weights}' of '{spec.architecture}' have revision '{spec.revision}', which is no commit: a branch moves. "
            f"Look up the 40-digit commit at https://huggingface.co/{name}/commits/main and pin it by override, "
            "e.g. --set latents.vae.revision=<commit>."
        )
    return name


def _from_hub(spec: ModelSpec, cache: Path, only: Sequence[str]) -> Path:
    name = _pinned(spec)
    try:
        return _snapshot(spec, name, cache, only)
    except Exception as error:  # noqa: BLE001 - whatever the client met; its text may hold a URL with a credential, hence no chaining
        raise _not_fetched(spec, error) from None


def _snapshot(spec: ModelSpec, name: str, cache: Path, only: Sequence[str], local_files_only: bool = False) -> Path:
    from huggingface_hub import snapshot_download

    found = snapshot_download(
        name,
        revision=spec.revision,
        cache_dir=cache,
        allow_patterns=list(only) or None,
        ignore_patterns=_left_out(only),
        endpoint=os.environ.get("HF_ENDPOINT"),
        local_files_only=local_files_only,
    )
    return Path(str(found))


def _not_fetched(spec: ModelSpec, error: Exception) -> WeightsUnavailable:
    return WeightsUnavailable(
        f"{spec.weights} at {spec.revision} could not be fetched ({type(error).__name__}: {_redacted(str(error))[:300]}). "
        "Check the network, the name, the revision and your access (HF_TOKEN); or download it elsewhere and set `weights` to the folder."
    )


def _from_s3(uri: str, cache: Path, only: Sequence[str]) -> Path:
    store, objects, last = _wanted_objects(uri, only)
    # Objects that change give another folder: a half-old, half-new model is never read.
    folder = cache / digest(uri, [[o.key, o.bytes, o.modified_s] for o in objects])
    for item in objects:
        target = folder / item.key
        if not target.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            store.get_file(item.key, target)
    return folder / last if last else folder


def _wanted_objects(uri: str, only: Sequence[str]) -> tuple[ObjectStore, list[ObjectInfo], str]:
    """The store, what of it is wanted, and the object's key where the uri names one alone, else ''."""
    from infra.store import open_store

    if "@" in uri.removeprefix("s3://").split("/")[0]:
        raise ValueError(f"weights '{_redacted(uri)}' hold a credential. Leave it to the AWS environment or ~/.aws, and write s3://bucket/prefix.")
    single = uri.endswith(".safetensors") or (uri.endswith(".pt") and "*.pt" not in _left_out(only))
    root, _, last = uri.rstrip("/").rpartition("/") if single else (uri.rstrip("/"), "", "")
    store = open_store(root)
    objects = [o for o in store.list(last) if (o.key == last if single else _wanted(o.key, only))]
    if not objects:
        raise FileNotFoundError(
            f"nothing to load under {uri}{f' that matches {list(only)}' if only else ''}. Check the bucket, the prefix and `weights`."
        )
    return store, objects, last


def _wanted(key: str, only: Sequence[str]) -> bool:
    return not any(fnmatchcase(key, p) for p in _left_out(only)) and (not only or any(fnmatchcase(key, p) for p in only))


def _left_out(only: Sequence[str]) -> list[str]:
    """The pickles' patterns, less those whose ending `only` asks for."""
    return [pickle for pickle in PICKLES if not any(wanted.endswith(pickle[1:]) for wanted in only)]


def _redacted(text: str) -> str:
    """Without user:password@, hub tokens, AWS key ids and signed query strings."""
    text = re.sub(r"//[^/\s@]+@", "//***@", text)
    text = re.sub(r"\?[^\s'\")]*(?i:signature|token|credential)[^\s'\")]*", "?***", text)
    return re.sub(r"\b(hf_[A-Za-z0-9]+|(?:AKIA|ASIA)[A-Z0-9]{12,})\b", "***", text)
