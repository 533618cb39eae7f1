"""Whether a stage is judged on what it was trained on: by key, by the video's content, by the product put in."""

from __future__ import annotations

from typing import Any

from infra.artifact_store import ArtifactMissing, ArtifactStore
from infra.store import ObjectMissing
from pvtt_model.artifacts import Manifest
from tasks.pieces import by_shard, whole_facts
from tasks.tables import read_json
from tasks.train_stage import CLIPS


def leaks_of(store: ArtifactStore, edits: Manifest) -> dict[str, str] | None:
    """clip_key of an edit -> what of it was trained on, in this stage or one before it; {} where nothing was, None where it is not known."""
    try:
        trained = _trained_on(store, edits)
    except (ArtifactMissing, ObjectMissing):
        return None
    keys, videos = {f["clip_key"] for f in trained}, {f.get("video_sha256"): f["clip_key"] for f in trained if f.get("video_sha256")}
    products = {f["product_id"]: f["clip_key"] for f in trained}
    rows = read_json(store, edits)
    used = {row[key] for row in rows for key in ("clip_key", "reference_key")}
    clips = next(store.manifest(name) for name in edits.inputs if name.startswith("clips/"))
    facts = {f["clip_key"]: f for f in whole_facts(store, clips, [f for f in read_json(store, clips) if f["clip_key"] in used])}
    found: dict[str, str] = {}
    for row in rows:
        clip, product = facts[row["clip_key"]], facts[row["reference_key"]]["product_id"]
        if clip["clip_key"] in keys:
            found[clip["clip_key"]] = "the clip itself was trained on"
        elif clip.get("video_sha256") in videos:
            found[clip["clip_key"]] = f"its video has the same bytes as {videos[clip['video_sha256']]}, which was trained on"
        elif product in products:
            found[clip["clip_key"]] = f"the product put in, {product}, was trained on in {products[product]}"
    return found


def _trained_on(store: ArtifactStore, edits: Manifest) -> list[dict[str, Any]]:
    """The facts of all clips that the edits' checkpoints, and those they go on from, were trained on; each checkpoint by its own data."""
    todo, seen, found = [name for name in edits.inputs if name.startswith("checkpoints/")], set(), []
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        checkpoint = store.manifest(name)
        todo += [i for i in checkpoint.inputs if i.startswith("checkpoints/")]
        of_data = [i for i in checkpoint.inputs if i.startswith("clips/")]
        used = set(read_json(store, checkpoint, CLIPS))
        for clips in map(store.manifest, of_data):
            for facts in by_shard(f for f in read_json(store, clips) if f["clip_key"] in used).values():
                found += [{key: fact.get(key) for key in ("clip_key", "video_sha256", "product_id")} for fact in whole_facts(store, clips, facts)]
    return found
