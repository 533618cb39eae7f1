"""The data card: what is in this version of the data, as JSON, as a page, and in the UI."""

from __future__ import annotations

import tempfile
from itertools import chain
from pathlib import Path
from typing import Any

from prefect import task

from infra.artifact_store import ArtifactStore
from pvtt_model.artifacts import ArtifactRef, Manifest, Planned
from pvtt_model.backbones.weight_record import ENCODER_COLUMNS, ENCODERS, encoder_rows
from pvtt_model.chain import card_artifact
from pvtt_model.specs import RecipeSpec
from tasks.ingest_clips import DUPLICATES, REFUSALS
from tasks.pieces import by_shard, reasons, rows_beside
from tasks.policy import POLICY, produce
from tasks.tables import read_json
from tasks.ui import picture, show_markdown, table

CARD, PAGE, SHEET = "data_card.json", "data_card.html", "contact_sheet.png"
SHEET_CLIPS = 24
Row = dict[str, Any]
#: What is counted of a clip, of its place in this version, of its mask and of its conditions.
FACTS = ("clip_key", "product_id", "split", "width", "height", "fps", "num_frames", "prompt", "product_words", "video_sha256", "licence")
PLACE = ("held_out", "shard", "row")
MASKS = ("clip_key", "usable", "area", "jitter_px", "provenance", "risks")
CONDITIONS = ("clip_key", "usable", "caption", "caption_source", "caption_fallback")


@task(task_run_name="describe {data[clips].version}", description="The data card of what was curated", **POLICY)
def describe_data(data: dict[str, ArtifactRef], recipe: RecipeSpec, store: str) -> ArtifactRef:
    """The card of the four curated artifacts (clips, masks, latents, conditions); what is risky by the recipe's masks.risky_*."""
    planned = card_artifact(recipe, *(data[kind].name for kind in ("clips", "masks", "latents", "conditions")))
    return produce(planned, store, lambda s, p: _make(s, p, data, recipe), _show)


def _make(store: ArtifactStore, planned: Planned, data: dict[str, ArtifactRef], recipe: RecipeSpec) -> Manifest:
    from pvtt_model.data.card import data_card
    from pvtt_model.data.card_html import card_html, headline
    from pvtt_model.specs import VideoSpec

    manifests = {kind: store.manifest(ref) for kind, ref in data.items()}
    facts, masks, conditions = _said(store, manifests, recipe)
    no_latents = {row["clip_key"] for row in reasons(store, manifests["latents"]) if not row["usable"]}
    latents = [{"clip_key": fact["clip_key"], "usable": fact["clip_key"] not in no_latents} for fact in facts]
    later = {"latents": latents, "conditions": conditions}
    stored = {kind: sum(shard.bytes for shard in m.shards()) for kind, m in manifests.items()}
    refusals, twins = (read_json(store, manifests["clips"], name) for name in (REFUSALS, DUPLICATES))
    video = VideoSpec.model_validate(manifests["latents"].spec["latents"]["video"])
    used = {kind: manifests[kind].summary.get(ENCODERS, {}) for kind in ("masks", "latents", "conditions")}
    encoders = [row | {"encoder": f"{kind}: {row['encoder']}"} for kind, found in used.items() for row in encoder_rows(found)]
    card = data_card(facts, refusals, masks, later, stored, twins, video, encoders)
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / name for name in (CARD, PAGE, SHEET)}
        paths[CARD].write_text(card.model_dump_json(indent=1))
        _sheet(store, manifests, facts, masks, paths[SHEET])
        card_html(card, data["clips"].name, paths[SHEET], paths[PAGE])
        files = [store.attach(planned, name, path) for name, path in paths.items()]
    return store.commit(planned, files, {"headline": headline(card), "warnings": list(card.warnings), ENCODERS: encoders})


def _said(store: ArtifactStore, manifests: dict[str, Manifest], recipe: RecipeSpec) -> tuple[list[Row], list[Row], list[Row]]:
    """Facts, masks (judged) and conditions of the clips in the table, as they lie in the shards; of each no more than the card counts."""
    from pvtt_model.curation.mask_risk import judged

    table = read_json(store, manifests["clips"])
    facts: list[Row] = []
    masks: list[Row] = []
    conditions: list[Row] = []
    beside = (rows_beside(store, manifests[kind], table) for kind in ("clips", "masks", "conditions"))
    for brief, of_clips, of_masks, of_conditions in zip(by_shard(table).values(), *beside, strict=True):
        facts += [{name: row.get(name) for name in FACTS} | {name: fact[name] for name in PLACE} for row, fact in zip(of_clips, brief, strict=True)]
        masks += [{name: row[name] for name in MASKS} for row in judged(of_masks, brief, recipe.masks)]
        conditions += [{name: row[name] for name in CONDITIONS if name in row} for row in of_conditions]
    return facts, masks, conditions


def _sheet(store: ArtifactStore, manifests: dict[str, Manifest], facts: list[Any], masks: list[Any], path: Path) -> None:
    """Usable clips evenly out of the first, the middle and the last shard: others need not be fetched for it."""
    from pvtt_model.curation.frames import as_seen
    from pvtt_model.data.shards import some_rows
    from pvtt_model.evaluation.clip_sheet import clip_sheet

    usable = {mask["clip_key"] for mask in masks if mask["usable"]}
    good = [fact for fact in facts if fact["clip_key"] in usable]
    numbers = sorted({fact["shard"] for fact in good})
    near = {numbers[i] for i in (0, len(numbers) // 2, -1)} if numbers else set()
    shown = [fact for fact in good if fact["shard"] in near]
    step = max(1, len(shown) / SHEET_CLIPS)
    chosen = [shown[int(i * step)] for i in range(min(SHEET_CLIPS, len(shown)))]
    shards = {kind: manifests[kind].shards() for kind in ("clips", "masks")}
    by = [(number, [fact["row"] for fact in its]) for number, its in by_shard(chosen).items()]  # a shard is opened once
    rows = zip(*(chain(*(some_rows(store.local_path(shards[kind][n]), its) for n, its in by)) for kind in shards), strict=True)
    clip_sheet(((as_seen(clip), mask) for clip, mask in rows), len(chosen), len(good), path)


def _show(store: ArtifactStore, manifest: Manifest) -> None:
    said = manifest.summary
    warned = "".join(f"- {w}\n" for w in said["warnings"])
    sheet = picture(store.local_path(manifest.file(SHEET)), "a sample of the clips", 900)
    where = f"{store.store.uri}/{manifest.name}/{PAGE}"
    text = f"## Data card\n\n{said['headline']}\n\n{warned}\n{sheet}\n\n{table(said[ENCODERS], ENCODER_COLUMNS)}\n\nThe whole card: `{where}`"
    show_markdown("data-card", text, f"card {manifest.version}")
