"""What one Ray worker does with one unit of work: a chunk of lines, a shard, an edit. No Prefect in here.

Every unit has a key computed before the work; a finished one is found by it and not made again, whoever asks.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import cache, lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from infra.artifact_store import ArtifactStore, Derived
from infra.settings import settings
from infra.weights import local_weights
from pvtt_model.artifacts import Kind, StoredFile
from pvtt_model.backbones.architectures import Family, files_wanted
from pvtt_model.backbones.weight_record import ENCODERS, WeightRecord, weight_record
from pvtt_model.data.manifest import CheckedLine
from pvtt_model.data.refusals import Refusal
from pvtt_model.data.shards import BYTES, SCHEMAS, iter_rows, write_shard
from pvtt_model.nano.shipped import shipped_folder
from pvtt_model.specs import BackboneSpec, ModelSpec, RecipeSpec
from tasks.pieces import cut, find_unit

Row = dict[str, Any]

#: What is said of a clip: all later steps choose by it.
FACTS = (
    "clip_key", "product_id", "split", "prompt", "source", "width", "height", "fps", "num_frames", "line", "product_words", "look_alikes",
    "truth_product_id", "start_s", "frame_hashes", "truth_frame_hashes",
)  # fmt: skip


class Unit(NamedTuple):
    """One unit of work: small and picklable."""

    store: str
    kind: Kind
    key: str
    number: int
    recipe: RecipeSpec
    inputs: tuple[StoredFile, ...] = ()
    lines: tuple[CheckedLine, ...] = ()

    @property
    def clips(self) -> int:
        """How many it is work on, for progress."""
        return len(self.lines) or (self.inputs[0].rows or 0 if self.inputs else 1)


@lru_cache(maxsize=4)
def opened(uri: str) -> ArtifactStore:
    """The store, opened once a process."""
    return ArtifactStore.open(uri, settings(uri).cache)


#: What this process loaded, by spec.
_records: dict[ModelSpec, WeightRecord] = {}


def weights_of(spec: ModelSpec) -> Path | None:
    """The local weights of a frozen model, only the files it wants; None where they are made from a seed."""
    if spec.weights.startswith("nano:"):
        return shipped_folder(spec.weights)
    wanted = files_wanted(spec.architecture, spec.expert if isinstance(spec, BackboneSpec) else None)
    return local_weights(spec, settings().cache / "weights", wanted)


def ingest_chunk(unit: Unit) -> Derived:
    """Checked lines -> one clips shard, and the refusals."""
    from pvtt_model.data.ingest import inspect

    def work(_: list[Iterator[Row]]) -> tuple[Iterator[Row], Row]:
        facts: list[Row] = []
        refusals: list[Row] = []

        def rows() -> Iterator[Row]:  # as they are written: a worker holds the files of one line
            for line in unit.lines:
                of_line = {"video_sha256": line.video_sha256, "line_key": line.clip_key}
                for r in inspect(line, unit.recipe.clips, unit.recipe.latents.video):
                    if isinstance(r, Refusal):
                        refusals.append(r._asdict())
                        continue
                    facts.append({k: r[k] for k in FACTS} | of_line | {"licence": json.loads(r["metadata"]).get("licence")})
                    yield r

        return rows(), {"clips": facts, "refusals": refusals}

    return _shard(unit, work)


def mask_shard(unit: Unit) -> Derived:
    """A clips shard -> its masks shard."""
    from pvtt_model.curation.frames import as_seen
    from pvtt_model.curation.masks import mask_of
    from pvtt_model.curation.providers import MaskModels

    def work(inputs: list[Iterator[Row]]) -> tuple[list[Row], Row]:
        recipe = unit.recipe
        asked: dict[str, ModelSpec] = {}  # no model is loaded that no clip needs

        def noted(family: Family) -> Callable[[ModelSpec], Any]:
            def load(spec: ModelSpec) -> Any:
                asked[family] = spec
                return model_of(family, spec)

            return load

        models = MaskModels(noted("image"), noted("sam2"))
        rows = [mask_of(as_seen(clip), recipe.latents.video, recipe.masks, recipe.clips.decode_timeout_s, models) for clip in inputs[0]]
        return rows, {"masks": [{k: v for k, v in row.items() if k != "mask"} for row in rows], ENCODERS: _recorded(asked)}

    return _shard(unit, work)


def latent_shard(unit: Unit) -> Derived:
    """A clips shard and its masks shard -> the latents shard. The next clip is decoded while this one is encoded."""
    from pvtt_model.curation.latents import latents_row
    from pvtt_model.curation.variants import count_videos
    from pvtt_model.curation.video_variants import clip_variants
    from pvtt_model.data.ahead import ahead
    from pvtt_model.data.tensor_rows import names_of

    def work(inputs: list[Iterator[Row]]) -> tuple[Iterator[Row], Row]:
        recipe, spec = unit.recipe, unit.recipe.latents
        table: list[Row] = []
        summary: Row = {"latents": table}

        def decoded(rows: tuple[Row, ...]) -> tuple[Row, Row, list[Any]]:
            clip, mask = rows
            further = (spec, recipe.masks, recipe.clips.cut_value, recipe.clips.decode_timeout_s)
            return clip, mask, list(clip_variants(clip, mask, *further)) if mask["usable"] else []

        def rows() -> Iterator[Row]:
            for clip, mask, variants in ahead(decoded, zip(*inputs, strict=True), few_threads):
                first_frames = model_of("clip", spec.first_frame_clip) if spec.first_frame_clip else None
                row = latents_row(clip, mask, variants, spec, model_of("vae", spec.vae), first_frames)
                said = {k: row[k] for k in ("clip_key", "usable", "reason")}
                table.append(said | ({"videos": count_videos(names_of(row["tensors"]))} if spec.video_variants > 1 else {}))
                yield row
            summary[ENCODERS] = _recorded({"vae": spec.vae} | ({"clip": spec.first_frame_clip} if spec.first_frame_clip else {}))

        return rows(), summary

    return _shard(unit, work)


def condition_shard(unit: Unit) -> Derived:
    """A clips shard -> its conditions shard."""
    from pvtt_model.curation.conditions import embed_conditions, embedded_caption

    def work(inputs: list[Iterator[Row]]) -> tuple[list[Row], Row]:
        spec = unit.recipe.conditions
        used = {"text": spec.text_encoder, "image": spec.image_encoder} | ({"clip": spec.clip_encoder} if spec.clip_encoder else {})
        clip_model = model_of("clip", spec.clip_encoder) if spec.clip_encoder else None
        clips = [{k: v for k, v in clip.items() if k == "references" or k not in BYTES} for clip in inputs[0]]  # no video is held
        rows = embed_conditions(clips, spec, model_of("text", spec.text_encoder), model_of("image", spec.image_encoder), clip_model)
        captions = [embedded_caption(clip, spec) for clip in clips]
        said = [{"caption": c.text, "caption_source": c.source, "caption_fallback": c.fallback} for c in captions]
        table = [{k: row[k] for k in ("clip_key", "usable", "reason")} | caption for row, caption in zip(rows, said, strict=True)]
        return rows, {"conditions": table, ENCODERS: _recorded(used)}

    return _shard(unit, work)


def empty_text(unit: Unit) -> Derived:
    """The empty prompt's embedding, which stands in for a dropped prompt."""
    from safetensors.torch import save_file

    store = opened(unit.store)
    found = store.find_derived(unit.kind, unit.key)
    if found is not None:
        return found
    spec = unit.recipe.conditions
    (tokens,) = model_of("text", spec.text_encoder).embed([""], spec.max_text_tokens)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "empty_text.safetensors"
        save_file({"text_LD": tokens.contiguous()}, path)
        return store.record_derived(unit.kind, unit.key, [store.pool(path, path.name)], {ENCODERS: _recorded({"text": spec.text_encoder})})


def _shard(unit: Unit, work: Callable[[list[Iterator[Row]]], tuple[Iterable[Row], Row]]) -> Derived:
    """Find the unit's shard, or make it: read the input shards row by row, work, pool the Parquet file, record it last.

    The summary that `work` gives is complete when its rows have been taken.
    """
    few_threads()
    store = opened(unit.store)
    found = find_unit(store, unit.kind, unit.key)
    if found is not None:
        return found
    rows, summary = work([iter_rows(store.local_path(file)) for file in unit.inputs])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{unit.kind}.parquet"
        count = write_shard(path, rows, SCHEMAS[unit.kind])
        shard = store.pool(path, f"shard-{unit.number:05d}.parquet", rows=count)
    brief, pieces = cut(store, unit.kind, unit.number, summary[unit.kind])
    return store.record_derived(unit.kind, unit.key, [shard, *pieces], summary | {unit.kind: brief})


def _recorded(used: dict[str, ModelSpec]) -> dict[str, WeightRecord]:
    """What the models in use were loaded from; a shard without clips may have loaded none."""
    return {name: _records[spec] for name, spec in used.items() if spec in _records}


def _loaded(spec: ModelSpec, load: Callable[[ModelSpec, Path | None], Any]) -> Any:
    """The model on this worker's device, and in _records what it was loaded from."""
    folder = weights_of(spec)
    model = load(spec, folder).to(device())
    _records[spec] = weight_record(spec, folder)
    return model


def few_threads() -> None:
    import torch

    torch.set_num_threads(1)


def device() -> str:
    """The GPU that Ray gave this worker, or the CPU."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


#: Of which more than one is kept in a process: the encoder that conditions or scores, and the judge.
_KEPT: dict[Family, int] = {"image": 2}
_LOADERS: dict[Family, str] = {
    "vae": "load_vae", "text": "load_text_encoder", "image": "load_image_encoder", "clip": "load_clip", "sam2": "load_sam2", "flow": "load_flow",
    "perceptual": "load_perceptual", "video": "load_video_features", "inception": "load_inception",
}  # fmt: skip


def model_of(family: Family, spec: ModelSpec) -> Any:
    """The frozen model, loaded once a process by its family's loader in pvtt_model.backbones; the one of its family before it is let go."""
    return _keeper(family)(spec)


@cache
def _keeper(family: Family) -> Callable[[ModelSpec], Any]:
    load = getattr(import_module(f"pvtt_model.backbones.{family}"), _LOADERS[family])
    return lru_cache(maxsize=_KEPT.get(family, 1))(lambda spec: _loaded(spec, load))
